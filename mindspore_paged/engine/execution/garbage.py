"""Python's garbage collector, while graphs are compiled."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heap_put_aside() -> Iterator[None]:
    """Let the collector pass over all that is there now, as long as the block runs.

    MindSpore collects garbage at every graph that it compiles, and looking at each object of its own and of Python's
    modules takes longer than compiling a small graph. Afterwards they are garbage like others where nobody holds them.
    """
    is_ours = gc.get_freeze_count() == 0
    gc.freeze()
    try:
        yield
    finally:
        if is_ours:
            gc.unfreeze()
