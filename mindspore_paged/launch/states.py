"""What a rank can say that it does. Any other text is allowed too: it then counts as work of the rank's own."""

STARTING = "starting"
LOADING = "loading weights"
COMPILING = "compiling"
WAITING_FOR_PLAN = "waiting for the plan"
IN_THE_GRAPH = "in the graph"
IDLE = "idle"


def is_slow(state: str) -> bool:
    """Whether a rank may stay in this state for minutes, and even give no sign of life: MindSpore compiles without
    ever letting another thread run."""
    return state.startswith((STARTING, "loading", "compiling"))


def is_waiting(state: str) -> bool:
    """Whether a rank in this state does nothing until another rank sends it something."""
    return state.startswith("waiting for")
