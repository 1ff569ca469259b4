"""How the leaders of replicas find each other: they publish where they listen, and the first one calls them."""

import secrets
from dataclasses import replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener

from mindspore_paged.config import EngineConfig
from mindspore_paged.engine.engine import LLMEngine
from mindspore_paged.engine.replicas.engine_server import EngineServer
from mindspore_paged.engine.replicas.routed_engine import RoutedEngine
from mindspore_paged.errors import IntegrityError, ReplicaError
from mindspore_paged.launch import supervision
from mindspore_paged.launch.sockets import without_delay
from mindspore_paged.launch.worker import current_worker

KEY_BYTES = 32


def serve_or_route(
    engine: LLMEngine, worker_rank: int, tensor_parallel_size: int, data_parallel_size: int
) -> LLMEngine | RoutedEngine:
    """For the leader of each replica, once its engine is ready: rank 0 gets one engine that stands for all of them.

    The other leaders never get one: they serve rank 0 until it closes its engine or is gone, close theirs, and raise
    SystemExit(0). With one replica the engine is returned as it is. Raises ReplicaError if a replica does not come.
    """
    replica, rank = divmod(worker_rank, tensor_parallel_size)
    if rank != 0 or not 0 <= replica < data_parallel_size:
        raise IntegrityError(
            f"rank {worker_rank} leads none of {data_parallel_size} replicas of {tensor_parallel_size} ranks"
        )
    if data_parallel_size == 1:
        return engine
    if replica == 0:
        return RoutedEngine(engine, [_call(other) for other in range(1, data_parallel_size)])
    EngineServer(engine, _await_router(replica)).serve()
    engine.close()
    supervision.leave()
    raise SystemExit(0)


def files_of_replica(config: EngineConfig, replica: int) -> EngineConfig:
    """The configuration with files of the replica's own where two processes must not share one; replica 0 keeps its.

    runtime.event_log gets `.replica<r>` before its suffix, cache.page_files a folder `replica<r>` inside.
    """
    if replica == 0:
        return config
    log, pages = config.runtime.event_log, config.cache.page_files
    if log is not None:
        own = log.with_name(f"{log.stem}.replica{replica}{log.suffix}")
        config = replace(config, runtime=replace(config.runtime, event_log=own))
    if pages is not None:
        config = replace(config, cache=replace(config.cache, page_files=pages / f"replica{replica}"))
    return config


def _await_router(replica: int) -> Connection:
    key, host = secrets.token_bytes(KEY_BYTES), current_worker().own_address()
    with Listener((host, 0), authkey=key) as listener:
        supervision.publish(_name(replica), f"{host} {listener.address[1]} {key.hex()}")
        supervision.report_state(0, "idle")
        while True:
            try:
                return without_delay(listener.accept())
            except (AuthenticationError, EOFError, ConnectionError):
                continue  # a stranger, or one that gave up


def _call(replica: int) -> Connection:
    try:
        host, port, key = supervision.lookup(_name(replica)).split()
        return without_delay(Client((host, int(port)), authkey=bytes.fromhex(key)))
    except (OSError, EOFError) as error:  # a TimeoutError of lookup too
        raise ReplicaError(f"replica {replica} cannot be reached: {error}") from None


def _name(replica: int) -> str:
    return f"replica {replica}"
