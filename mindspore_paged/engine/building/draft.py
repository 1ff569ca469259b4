"""The draft model that a configuration names: opened, compared with the model, and built over the same blocks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from mindspore_paged.cache.cache_manager import CacheManager
from mindspore_paged.config import DEMO_WEIGHTS, EngineConfig
from mindspore_paged.engine.building.loading import load_weights
from mindspore_paged.engine.building.model import build_kv_pool, build_model
from mindspore_paged.engine.building.plan import Plan, check_heads
from mindspore_paged.engine.execution.draft_model import DraftModel
from mindspore_paged.engine.execution.draft_pages import DraftPages
from mindspore_paged.engine.execution.kv_pool import KVPagePool
from mindspore_paged.engine.execution.model_runner import ModelRunner
from mindspore_paged.engine.execution.runner_with_draft import RunnerWithDraft
from mindspore_paged.engine.scheduling.draft_length import DraftLength
from mindspore_paged.errors import ConfigError
from mindspore_paged.mindir.folder import is_mindir_folder
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.tensor_parallel import TensorParallel
from mindspore_paged.tokenizer import Tokenizer, load_tokenizer
from mindspore_paged.weights.checkpoint import Checkpoint, open_checkpoint
from mindspore_paged.weights.demo_model import fetch_demo_model
from mindspore_paged.weights.exported_checkpoint import ExportedCheckpoint
from mindspore_paged.weights.packing import AUTO, formats_of

KEY = "scheduler.speculative_model"

LEAST_SHARED = 0.9
"""Share of the smaller vocabulary's tokens that the other must have: reserved ones may go by other names."""


@dataclass(frozen=True)
class Draft:
    """A draft model that was opened: its checkpoint, what that says of it, and how its matrices are held."""

    checkpoint: Checkpoint
    model: ModelConfig
    weight_dtype: str


def open_draft(config: EngineConfig, checkpoint: Checkpoint, parallel: TensorParallel) -> Draft | None:
    """The draft model that `scheduler.speculative_model` names; None where it names none.

    checkpoint: the model's own. Raises ConfigError where the model cannot have a draft model beside it, CheckpointError
    for a bad checkpoint.
    """
    source, weight_dtype = config.scheduler.speculative_model, config.scheduler.speculative_weight_dtype
    if source is None:
        return None
    if parallel.size > 1:
        raise ConfigError(
            f"{KEY} is set and {parallel.size} ranks share the model (parallel.tensor_parallel_size); "
            "a draft model needs a model of one rank"
        )
    if isinstance(checkpoint, ExportedCheckpoint):
        raise ConfigError(f"{KEY} is set, but {checkpoint.path} is an exported model, which runs without a draft model")
    if source == DEMO_WEIGHTS:
        source = fetch_demo_model(report=lambda line: None)
    if is_mindir_folder(source):
        raise ConfigError(f"{KEY} is {source}, an exported model; give the weights that it was made of")
    if weight_dtype != AUTO and not config.fused_ops:
        raise ConfigError(
            f"scheduler.speculative_weight_dtype is {weight_dtype}, which needs fused operators: runtime.ops_backend "
            f"cpu, model.dtype float32, and runtime.fused_ops not false"
        )
    opened = open_checkpoint(source)
    if opened.model_config is None:
        raise ConfigError(f"{KEY} is {source}, which does not describe its model")
    return Draft(opened, opened.model_config, weight_dtype)


def plan_draft(draft: Draft, plan: Plan, tokenizer: Tokenizer | None) -> Plan:
    """The draft model's Plan beside the model's: the same blocks, rows and graphs, and types.

    Raises ConfigError, which names both, where the two models do not go together.
    """
    ours, theirs = plan.model, draft.model
    _check_vocabulary(draft, ours, tokenizer)
    if plan.max_model_len > theirs.max_position_embeddings:
        raise ConfigError(
            f"{KEY} has {theirs.max_position_embeddings} positions (max_position_embeddings), but sequences may have "
            f"{plan.max_model_len} tokens; lower scheduler.max_model_len"
        )
    if ours.cache_window and not 0 < theirs.cache_window <= ours.cache_window:
        sees = f"the last {theirs.cache_window} tokens" if theirs.cache_window else "all tokens"
        raise ConfigError(
            f"{KEY} sees {sees}; the model's pages are kept for the last {ours.cache_window} tokens, which is the most"
        )
    try:
        check_heads(plan.backend, plan.kv_cache_dtype, theirs)
    except ConfigError as error:
        raise ConfigError(f"{KEY}: {error}") from None
    formats = formats_of(draft.checkpoint, draft.weight_dtype, plan.dtype) if plan.is_fused else None
    return replace(
        plan,
        model=theirs,
        weight_dtype=draft.weight_dtype,
        formats=formats,
        num_speculative_tokens=0,
        embeddings=False,
        adapter_room=None,
    )


@contextmanager
def loaded_draft(draft: Draft, plan: Plan, beside: KVPagePool, progress: Callable) -> Iterator[ModelRunner]:
    """The draft model's runner over pages of its own and the block_table of the pool `beside` it.

    plan: of `plan_draft`. Its weights are read while the block runs, which may warm it up: see `load_weights`.
    """
    kv_pool = build_kv_pool(plan, beside)
    model = build_model(plan, kv_pool)
    with load_weights(model, draft.checkpoint, progress):
        yield ModelRunner(model, kv_pool, plan.token_buckets, plan.logits_per_seq)


def draft_model_of(
    runner: RunnerWithDraft, cache: CacheManager, plan: Plan, own: Plan, draft_length: DraftLength | None
) -> DraftModel:
    """What proposes drafts for the model of `plan`, with the draft model of the plan `own`."""
    return DraftModel(
        runner.draft,
        runner.pages,
        cache,
        plan.model.vocab_size,
        own.model.vocab_size,
        own.token_buckets[-1],
        draft_length,
    )


def runner_with_draft(runner: ModelRunner, draft: ModelRunner, plan: Plan) -> RunnerWithDraft:
    """The runner of both models, whose draft model has computed nothing yet."""
    return RunnerWithDraft(runner, draft, DraftPages(plan.num_blocks, plan.block_size))


def _check_vocabulary(draft: Draft, ours: ModelConfig, tokenizer: Tokenizer | None) -> None:
    """The numbers of tokens may differ by padding; the tokens of texts must be the same ones."""
    own = load_tokenizer(draft.checkpoint.tokenizer_source)
    sizes = f"{KEY} has a vocabulary of {draft.model.vocab_size} tokens, the model one of {ours.vocab_size}"
    if tokenizer is None or own is None:
        if draft.model.vocab_size != ours.vocab_size:
            raise ConfigError(f"{sizes}; without the tokenizers of both they must be equal")
        return
    tokens, of_draft = (each.backend.get_vocab(with_added_tokens=True) for each in (tokenizer, own))
    shared = tokens.keys() & of_draft.keys()
    if len(shared) < LEAST_SHARED * min(len(tokens), len(of_draft)):
        raise ConfigError(f"{sizes}; they have {len(shared)} tokens in common, and must be of the same tokenizer")
    for text in sorted(shared, key=tokens.__getitem__):
        if tokens[text] != of_draft[text]:
            raise ConfigError(
                f"{KEY} has the token {text!r} as {of_draft[text]}, the model as {tokens[text]}; "
                "they must have the same tokenizer"
            )
    padded = max(tokens[text] for text in shared) + 1
    if min(draft.model.vocab_size, ours.vocab_size) < padded:
        raise ConfigError(f"{sizes}; their tokenizers have {padded} tokens")
