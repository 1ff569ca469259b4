"""From a Plan to its pages and the Cell that computes a step over them."""

import mindspore as ms

from mindspore_paged.engine.building.plan import Plan
from mindspore_paged.engine.execution.kv_pool import KVPagePool
from mindspore_paged.engine.execution.ranks.collectives import collectives_of
from mindspore_paged.engine.execution.ranks.place import Place
from mindspore_paged.engine.execution.step import Step
from mindspore_paged.errors import ConfigError
from mindspore_paged.mindir.folder import MindIRFolder
from mindspore_paged.mindir.step_graph import MindIRStep, load_step


def build_kv_pool(plan: Plan, beside: KVPagePool | None = None) -> KVPagePool:
    """The pages and block_table for a rank's part of the model, allocated.

    beside: the pool of another model, whose block_table this one has, too.
    """
    share = plan.share
    return KVPagePool.allocate(
        num_layers=share.num_hidden_layers,
        num_blocks=plan.num_blocks,
        block_size=plan.block_size,
        num_kv_heads=share.num_key_value_heads,
        head_dim=share.head_dim,
        dtype=plan.kv_cache_dtype,
        table_shape=plan.table_shape,
        backend=plan.backend.name,
        layers_together=plan.is_one_operator,
        block_table=None if beside is None else beside.block_table,
    )


def build_model(plan: Plan, kv_pool: KVPagePool, place: Place | None = None, share_layers: bool = False) -> Step:
    """A rank's part of the model over the pool, its weights not set yet.

    place: the rank's, in the group that it exchanges sums with; None: it is alone. share_layers: all layers have the
    weights of one.
    """
    # Here, because an exported model is run without the model's code.
    from mindspore_paged.models.model_step import ModelStep
    from mindspore_paged.models.parallel import ONE_RANK

    return ModelStep(
        plan.model,
        kv_pool,
        plan.max_model_len,
        getattr(ms, plan.dtype),
        plan.backend.name,
        share_layers=share_layers,
        parallel=plan.parallel,
        ranks=collectives_of(place) if place else ONE_RANK,
        formats=plan.formats,
        is_fused=plan.is_fused,
        room=plan.adapter_room,
    )


def load_exported(folder: MindIRFolder, plan: Plan) -> tuple[MindIRStep, KVPagePool]:
    """The step of an exported model over a new pool, its weights not set yet.

    Raises CheckpointError if the Plan asks for what the graph is not, ConfigError for embeddings and adapters, which it
    has not.
    """
    if plan.embeddings:
        raise ConfigError(
            "runtime.embeddings is true; an exported model has no graph for them: run it from its weights"
        )
    if plan.adapter_room is not None:
        raise ConfigError(
            f"model.max_loras is {plan.adapter_room.number}; an exported model has no room for adapters: run it from "
            "its weights, or merge the adapter into them before the export"
        )
    folder.check_fixed(plan.fixed_in_the_graph())
    step = load_step(folder, plan.num_blocks, plan.max_num_seqs)
    kv_pool = KVPagePool(step.key_caches, step.value_caches, step.block_table, folder.kernel_library)
    kv_pool.clear()
    return step, kv_pool
