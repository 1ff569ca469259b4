"""One hierarchy of errors, each class with a stable code that programs can match on."""


class PagedError(Exception):
    """Base of every error that this package raises on purpose; the message is one clear line for the user."""

    code = "ERROR_PAGED"


class ConfigError(PagedError):
    """A configuration file, key or value that cannot be used."""

    code = "ERROR_INVALID_CONFIG"


class CheckpointError(PagedError):
    """A weights or tokenizer file that is missing, damaged, or does not fit the model."""

    code = "ERROR_INVALID_CHECKPOINT"


class RequestError(PagedError):
    """A request that can never run: bad sampling parameters, an empty or too long prompt."""

    code = "ERROR_INVALID_REQUEST"


class OutOfBlocksError(PagedError):
    """The pool has fewer free blocks than the call needs; nothing was allocated."""

    code = "ERROR_OUT_OF_BLOCKS"


class InvalidBlockError(PagedError):
    """A block id outside the pool, or one that is not in the state that the call needs."""

    code = "ERROR_INVALID_BLOCK"


class StepError(PagedError):
    """The compiled step failed on the device; the step changed nothing that the scheduler relies on."""

    code = "ERROR_STEP_FAILED"


class ForeignPageError(PagedError):
    """A saved page of another model, or a file that is no page."""

    code = "ERROR_FOREIGN_PAGE"


class DamagedPageError(PagedError):
    """A saved page whose bytes are not those that were written; its content is computed again, never used."""

    code = "ERROR_DAMAGED_PAGE"


class GroupError(PagedError):
    """The ranks of a group are no longer in step, or one is gone: none of them can go on."""

    code = "ERROR_RANK_GROUP"


class EngineStoppedError(PagedError):
    """The engine was closed, or takes no new requests any more."""

    code = "ERROR_ENGINE_STOPPED"


class SlowReaderError(PagedError):
    """Who reads a stream is so far behind that it was ended: what waits for readers is bounded."""

    code = "ERROR_SLOW_READER"


class ReplicaError(PagedError):
    """A replica failed or ended: its requests are lost, and the whole job ends."""

    code = "ERROR_REPLICA_LOST"


class IntegrityError(PagedError):
    """A bookkeeping invariant does not hold: a bug of this package, never of its input."""

    code = "ERROR_INTEGRITY"
