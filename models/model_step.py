"""A model's step over its pages, in the execution that suits its place: what the engine compiles and runs."""

from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindspore_paged.custom_ops.panels import arrange_panels
from mindspore_paged.custom_ops.targets import library_of
from mindspore_paged.formats.weight_format import BF16, FLOAT16, FLOAT32, WeightFormat
from mindspore_paged.formats.weight_place import WeightPlace, put
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models.adapter_slots import StackedAdapters
from mindspore_paged.models.decoder import Decoder, DecoderHidden, DecoderLayer, Head, Positions
from mindspore_paged.models.executions.ascend_layers import AscendHidden, AscendLayers, ascend_layers
from mindspore_paged.models.executions.layer_operators import (
    OperatorEmbedding,
    OperatorHead,
    OperatorLayer,
    OperatorPositions,
)
from mindspore_paged.models.executions.whole_step import WholeStep, WholeStepHidden
from mindspore_paged.models.kv_pages import KVPages
from mindspore_paged.models.model_weights import ModelWeights, head_role
from mindspore_paged.models.parallel import ONE_RANK, VocabParallelEmbedding, VocabParallelLogits
from mindspore_paged.models.rope import rope_tables
from mindspore_paged.tensor_parallel import WHOLE
from mindspore_paged.weights.lora_adapter import AdapterRoom

FORMATS = {ms.float32: FLOAT32, ms.float16: FLOAT16, ms.bfloat16: BF16}


class ModelStep(nn.Cell):
    """One step of a model over T tokens, whatever mixture of prefill and decode they are.

    config: the whole model; kv_pages: pages and block_table that the step reads and writes in place, those of the KV
    heads of this rank; num_positions: rows of the rotary tables (max_model_len); dtype: of weights and activations;
    share_layers: all layers have the weights of one, for compiling a graph whose own would not fit in memory.
    parallel, ranks: which part of the model this rank has, and how the ranks exchange what they computed.
    formats: how a matrix of each name is held. With it larger operators of the CPU compute the step, in float32: the
    whole of it, or half a layer each where ranks share the model. Without it each operator of `models.decoder` does,
    or, where is_fused, operators of Ascend that do together what stands between a layer's products.
    room: for adapters of low rank, which `adapters` has; None: there are none. One rank alone has them.

    Calling it: input_ids, positions, rows int32 [T] (padding: row -1); logit_indices int32 [N], tokens whose logits are
    wanted (padding: -1); table_indices int32 [U, 2] and table_values int32 [U], entries of block_table to write before
    anything else; with adapters int32 [T], each token's, -1 for none. Returns logits float32 [N, vocab_size].
    """

    def __init__(
        self, config: ModelConfig, kv_pages: KVPages, num_positions, dtype=ms.float32, ops_backend="cpu",
        share_layers=False, parallel=WHOLE, ranks=ONE_RANK, formats: Callable[[str], WeightFormat] | None = None,
        room: AdapterRoom | None = None, is_fused: bool = False,
    ):  # fmt: skip
        super().__init__()
        share, vocab = parallel.share(config), parallel.vocab(config)
        tables = rope_tables(config, num_positions)
        self._has_panels, self._ops_backend = formats is not None, ops_backend
        form = FORMATS[dtype]
        if formats is None and is_fused:
            weights = ModelWeights(share, vocab, lambda _: form, form, share_layers)
            self.execution = ascend_layers(weights, vocab, kv_pages, tables, ops_backend, ranks)
            self.adapters = None
            self._places = weights.places
        elif formats is None:
            weights = ModelWeights(share, vocab, lambda _: form, form, share_layers)
            self.adapters = StackedAdapters(weights, room, dtype) if room else None
            self.execution = operator_by_operator(
                weights, vocab, kv_pages, tables, dtype, ops_backend, ranks, self.adapters
            )
            self._places = weights.places
        elif ranks is ONE_RANK:
            weights = ModelWeights(share, vocab, formats, FLOAT32, share_layers)
            self.execution = WholeStep(weights, kv_pages, tables, ops_backend, room)
            self.adapters = self.execution.adapters
            self._places = self.execution.places
        else:
            weights = ModelWeights(share, vocab, formats, FLOAT32, share_layers)
            self.execution = half_layers(weights, vocab, kv_pages, tables, ops_backend, ranks)
            self.adapters = None
            self._places = weights.places
        self._weights, self._kv_pages = weights, kv_pages
        self.format_of = weights.format_of
        self._name_parameters()

    def weight_places(self) -> dict[str, WeightPlace]:
        """Where each weight is that a checkpoint must provide, by Hugging Face's names."""
        return self._places

    def hidden_states(self) -> nn.Cell:
        """A Cell that takes what a step does, and does it over the same Parameters, but for the head.

        It gives the tokens of logit_indices behind the last norm, float32 [N, hidden_size], of any number up to T.
        """
        if isinstance(self.execution, WholeStep):
            cell = WholeStepHidden(self.execution)
        elif isinstance(self.execution, AscendLayers):
            cell = AscendHidden(self.execution)
        else:
            cell = DecoderHidden(self.execution, self._weights)
        self._name_parameters()
        return cell

    def _name_parameters(self):
        # MindSpore has put the name of each Cell that took it before that of a Parameter.
        self._kv_pages.block_table.name = "block_table"
        for name, place in self._places.items():
            place.parameter.name = place.shared_as or name

    def arranged(self, name: str, weight: np.ndarray, order=None, target=None):
        """A weight in the order that the execution takes: rows of a matrix in panels, where operators take those.

        order: int64, which of its rows are wanted; default: all. target: where to; default: an array of its own.
        """
        if weight.ndim == 1 or not self._has_panels:
            return put(weight, order, target)
        form = self.format_of(name)
        columns = form.logical_shape(weight.shape)[1]
        return arrange_panels(weight, form.kind, columns, library_of(self._ops_backend), order, target)

    @property
    def compile_phase(self):
        """The graph that is compiled or run, by MindSpore's name."""
        return self._compile_phase

    @compile_phase.setter
    def compile_phase(self, phase):
        # MindSpore sets it at every call, and its own setter tells each of the hundreds of Cells below, which takes
        # milliseconds; only that of the whole is read.
        self._compile_phase = phase

    def construct(self, input_ids, positions, rows, logit_indices, table_indices, table_values, adapters=None):
        return self.execution(input_ids, positions, rows, logit_indices, table_indices, table_values, adapters)


def operator_by_operator(
    weights: ModelWeights, vocab, kv_pages: KVPages, tables, dtype, ops_backend, ranks,
    adapters: StackedAdapters | None,
) -> Decoder:  # fmt: skip
    """The execution of any backend, and the reference."""
    config = weights.config
    rotations = [(Tensor(cos[:, None], dtype), Tensor(sin[:, None], dtype)) for cos, sin in tables]
    table, head = _table_and_head(weights)
    layers = _layers(weights, lambda layer: DecoderLayer(weights, layer, ops_backend, ranks, adapters))
    return Decoder(
        config,
        kv_pages,
        VocabParallelEmbedding(table, vocab, config.vocab_size, ranks),
        Positions(kv_pages, rotations, adapters, dtype),
        layers,
        VocabParallelLogits(Head(weights, head), config.vocab_size, ranks),
    )


def half_layers(weights: ModelWeights, vocab, kv_pages: KVPages, tables, ops_backend, ranks) -> Decoder:
    """The execution of ranks that share a model, on the backend `cpu`."""
    config = weights.config
    table, head = _table_and_head(weights)
    kind, head_kind = weights.kind_of_model("embedding"), weights.kind_of_model(head_role(config))
    layers = _layers(weights, lambda layer: OperatorLayer(weights, layer, ops_backend, ranks))
    return Decoder(
        config,
        kv_pages,
        OperatorEmbedding(weights, table, kind, vocab, ops_backend, ranks),
        OperatorPositions(tables),
        layers,
        VocabParallelLogits(OperatorHead(weights, head, head_kind, ops_backend), config.vocab_size, ranks),
    )


def _layers(weights: ModelWeights, make: Callable[[int], nn.Cell]) -> list[nn.Cell]:
    """A Cell for each layer; where they share their weights, one for all that are alike: it is parsed once."""
    config, made, layers = weights.config, {}, []
    for layer in range(config.num_hidden_layers):
        kind = (config.window_of(layer), config.rope_table_of(layer)) if weights.share_layers else layer
        if kind not in made:
            made[kind] = make(layer)
        layers.append(made[kind])
    return layers


def _table_and_head(weights: ModelWeights):
    return weights.of_model("embedding"), weights.of_model(head_role(weights.config))
