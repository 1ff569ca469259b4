"""The Parameters of a model's weights: made by role, known by their names in files."""

from collections.abc import Callable, Sequence

import mindspore as ms
from mindspore import Parameter

from mindspore_paged.formats.weight_format import WeightFormat
from mindspore_paged.formats.weight_place import WeightPlace
from mindspore_paged.model_config import ModelConfig
from mindspore_paged.models.parallel import weight_parameter
from mindspore_paged.models.registry import spec_of
from mindspore_paged.models.spec import WeightSpec
from mindspore_paged.tensor_parallel import Cut


def head_role(config: ModelConfig) -> str:
    """The role of the weight that makes logits: the embedding's, where the two are tied."""
    return "embedding" if config.tie_word_embeddings else "head"


class ModelWeights:
    """Makes a Parameter for each weight that is asked for, in the shape and the format that a rank holds it in.

    config: one rank's share; vocab: its rows of the vocabulary. format_of: by a matrix's name in Hugging Face's files
    how it is held; small_format: how norms and biases are. share_layers: all layers have the weights of the first.
    places: where each weight is that a checkpoint must provide, by Hugging Face's names.
    """

    def __init__(
        self, config: ModelConfig, vocab: Cut, format_of: Callable[[str], WeightFormat], small_format: WeightFormat,
        share_layers: bool = False,
    ):  # fmt: skip
        self.config, self.spec, self.share_layers = config, spec_of(config), share_layers
        self._vocab, self._matrix_format, self._small_format = vocab, format_of, small_format
        self.places: dict[str, WeightPlace] = {}

    def of_model(self, role: str) -> Parameter | None:
        """The weight of a role that is no layer's; None if the model lacks it."""
        weight = self.spec.weight(role)
        return self._parameter(weight.name, weight) if weight.there(self.config) else None

    def of_layer(self, layer: int, role: str) -> Parameter | None:
        """The weight of a layer's role; None if the model lacks it."""
        weight = self.of_role(role)
        return self._parameter(self.name_of(layer, weight), weight) if weight else None

    def together(self, layer: int, roles: Sequence[str], stacked: bool = False) -> Parameter | None:
        """A layer's weights of these roles as one Parameter, the rows of one behind those of another; None if none.

        All are floats of one type. Where the layer lacks some of them there are zeros in their stead. stacked: vectors
        of one length become the rows of a matrix.
        """
        held = [weight for role in roles if (weight := self.of_role(role))]
        if not held:
            return None
        first = self.name_of(layer, held[0])
        if first not in self.places:
            shapes = [self.shape_of(self.spec.weight(role)) for role in roles]
            rows = [len(shapes)] if stacked else [sum(shape[0] for shape in shapes)]
            form = self.format_of(first)
            parameter = weight_parameter(*rows, *shapes[0][0 if stacked else 1 :], dtype=getattr(ms, form.dtype.name))
            shared_as, offset = f"layer_{0 if self.share_layers else layer}_{'_'.join(roles)}", 0
            for role, shape in zip(roles, shapes, strict=True):
                weight = self.of_role(role)
                if weight is not None:
                    self.places[self.name_of(layer, weight)] = WeightPlace(parameter, form, shape, offset, shared_as)
                offset += form.num_bytes(shape)
        return self.places[first].parameter

    def of_role(self, role: str) -> WeightSpec | None:
        """What a layer's weight of this role is; None if the model lacks it."""
        weight = next((weight for weight in self.spec.layer if weight.role == role), None)
        return weight if weight is not None and weight.there(self.config) else None

    def name_of(self, layer: int, weight: WeightSpec) -> str:
        """Hugging Face's name of a layer's weight; that of the first layer, where they share it."""
        return f"model.layers.{0 if self.share_layers else layer}.{weight.name}"

    def kind_of(self, layer: int, role: str) -> int:
        """GGML's number for the format of a layer's matrix."""
        weight = self.of_role(role)
        return self.format_of(self.name_of(layer, weight)).kind

    def kind_of_model(self, role: str) -> int:
        """The same of a matrix that is no layer's."""
        return self.format_of(self.spec.weight(role).name).kind

    def shape_of(self, weight: WeightSpec) -> tuple[int, ...]:
        """The shape of this rank's part of a weight."""
        shape = zip(weight.shape, weight.sizes(self.config), strict=True)
        return tuple(self._vocab.length if axis == "vocab" else size for axis, size in shape)

    def format_of(self, name: str) -> WeightFormat:
        """How a weight is held, by Hugging Face's name."""
        weight = self.spec.find(name)
        return self._small_format if weight and (weight.is_norm or weight.is_bias) else self._matrix_format(name)

    def _parameter(self, name: str, weight: WeightSpec) -> Parameter:
        if name not in self.places:
            form = self.format_of(name)
            stored_shape = form.stored_shape(self.shape_of(weight))
            parameter = weight_parameter(*stored_shape, dtype=getattr(ms, form.dtype.name))
            self.places[name] = WeightPlace(parameter, form, stored_shape)
        return self.places[name].parameter
