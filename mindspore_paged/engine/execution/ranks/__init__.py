"""Several processes that compute one model in step: the leader has the engine, the others do what it does."""
