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
from mindspore_paged.engine.building.plan import Plan, make_plan
from mindspore_paged.errors import ConfigError
from mindspore_paged.models.registry import num_parameters as parameters_of
from mindspore_paged.step_inputs import table_only

BLOCKS_OF_A_SKELETON = 2

WITHOUT_A_LAUNCH = frozenset(("Load", "UpdateState", "Depend", "MakeTuple", "TupleGetItem", "Reshape", "Return"))
"""Nodes that tell an order, a grouping or a shape: nothing is started on a device for them."""


@dataclass(frozen=True)
class GraphReport:
    """One compiled graph: its nodes by operator, seconds to compile, peak memory of the process in bytes.

    launches_per_layer: how many more nodes are started on a device than in the graph of the first layer alone, on
    average; 0 where all layers are one operator, or there is but one.
    """

    num_layers: int
    num_parameters: int
    nodes: Counter
    launches_per_layer: float
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
    layers = model_config.num_hidden_layers
    first = _nodes_of_the_first_layer(plan, num_tokens) if layers > 1 else Counter()
    started = time.perf_counter()
    nodes = _compile(plan, num_tokens)
    seconds = time.perf_counter() - started
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    per_layer = (num_launches(nodes) - num_launches(first)) / (layers - 1) if layers > 1 else 0.0
    return GraphReport(layers, parameters_of(model_config), nodes, per_layer, seconds, peak_bytes)


def num_launches(nodes: Counter) -> int:
    """How many of these nodes are started on a device."""
    return sum(count for name, count in nodes.items() if name not in WITHOUT_A_LAUNCH)


def _nodes_of_the_first_layer(plan: Plan, num_tokens: int) -> Counter:
    model = plan.model
    without_rope = tuple(layer for layer in model.layers_without_rope if layer == 0)
    one = replace(model, num_hidden_layers=1, layer_types=model.layer_types[:1], layers_without_rope=without_rope)
    return _compile(replace(plan, model=one), num_tokens)


def _compile(plan: Plan, num_tokens: int) -> Counter:
    model = build_model(plan, build_kv_pool(plan), None, True)
    nothing = table_only(np.zeros((1, 2), np.int32), np.zeros(1, np.int32))
    model.compile(*map(Tensor, nothing.padded(num_tokens, plan.num_logits(num_tokens), sum(plan.table_shape)).arrays()))
    return count_nodes(model)


def count_nodes(model) -> Counter:
    """Operators of the graph that `model` compiled last, after MindSpore's optimisation, by name."""
    graph = anf_ir_pb2.ModelProto()
    graph.ParseFromString(_cell_graph_executor.get_optimize_graph_proto(model))
    return Counter(node.op_type for node in graph.graph.node)
