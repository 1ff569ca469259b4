"""What is asked of the Cell that computes a step, beside calling it with StepInputs.arrays()."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from mindspore_paged.formats.weight_place import WeightPlace
from mindspore_paged.weights.lora_adapter import AdapterSlots


class Step(Protocol):
    """The Cell that computes a step: ModelStep, or what was exported from one, which has no hidden_states.

    adapters: where adapters of low rank are written; None: it has none, and takes no numbers of them.
    """

    adapters: AdapterSlots | None

    def weight_places(self) -> dict[str, WeightPlace]:
        """Where each weight of a checkpoint goes, by Hugging Face's names; those of one Parameter together."""

    def hidden_states(self) -> Callable:
        """A Cell that takes what a step does, and gives the tokens of logit_indices behind the last norm.

        float32 [N, hidden_size], over the same Parameters; N may be as large as T.
        """

    def arranged(
        self,
        name: str,
        weight: np.ndarray,
        order: np.ndarray | None = None,
        target: np.ndarray | None = None,
    ) -> np.ndarray:
        """A weight, in its format, in the order in which the Cell's operators read it.

        Some of its rows will do, if they are a multiple of 16 or the last. order: int64, which rows of `weight` are
        wanted; default: all. target: where to; default: an array of its own.
        """
