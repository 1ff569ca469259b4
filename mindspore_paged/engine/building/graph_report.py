"""How large a model's static graph is, found out without room for its weights."""

import resource
import time
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from mindspore import Tensor
from mindspore.graph.api import _cell_graph_executor
from mindspore.train import anf_ir_pb2

from mindspore_paged.config import EngineConfig
from mindspore_paged.engine.building.context import set_context
from mindspore_paged.engine.building.model import build_kv_pool, build_model
from mindspore_paged.engine.building.plan import make_plan
from mindspore_paged.errors import ConfigError
from mindspore_paged.models.registry import num_parameters as parameters_of
from mindspore_paged.step_inputs import table_only

BLOCKS_OF_A_SKELETON = 2


@dataclass(frozen=True)
class GraphReport:
    """One compiled graph: its nodes by operator, seconds to compile, peak memory of the process in bytes."""

    num_layers: int
    num_parameters: int
    nodes: Counter
    seconds: float
    peak_bytes: int


def compile_without_weights(config: EngineConfig, num_tokens: int) -> GraphReport:
    """Compile the step of `num_tokens` tokens with all layers sharing the weights of one, and pages of two blocks.

    The graph is the real one in every node; only its Parameters are fewer and smaller. Raises ConfigError if the
    configuration does not give the model's shape.
    """
    model_config = config.model.dimensions()
    if model_config is None:
        raise ConfigError("the model's shape is not known; set model.name, or all of model.config")
    set_context(config)
    plan = replace(make_plan(config, model_config, of_one_sequence=True), num_blocks=BLOCKS_OF_A_SKELETON)
    model = build_model(plan, build_kv_pool(plan), None, True)
    nothing = table_only(np.zeros((1, 2), np.int32), np.zeros(1, np.int32))
    started = time.perf_counter()
    model.compile(*map(Tensor, nothing.padded(num_tokens, plan.num_logits(num_tokens), sum(plan.table_shape)).arrays()))
    seconds = time.perf_counter() - started
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return GraphReport(
        model_config.num_hidden_layers, parameters_of(model_config), count_nodes(model), seconds, peak_bytes
    )


def count_nodes(model) -> Counter:
    """Operators of the graph that `model` compiled last, after MindSpore's optimisation, by name."""
    graph = anf_ir_pb2.ModelProto()
    graph.ParseFromString(_cell_graph_executor.get_optimize_graph_proto(model))
    return Counter(node.op_type for node in graph.graph.node)
