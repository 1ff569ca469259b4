"""Whatever computes a step takes what StepInputs declares, in its order: MindSpore passes inputs by position.

The number of each token's adapter is the last; a step without adapters goes without.
"""

from inspect import signature

import pytest

from mindspore_paged.custom_ops.layer_ops import DecoderStep
from mindspore_paged.models.decoder import Decoder
from mindspore_paged.models.executions.whole_step import WholeStep
from mindspore_paged.models.model_step import ModelStep
from mindspore_paged.step_inputs import STEP_INPUTS


@pytest.mark.parametrize("cell", [ModelStep, Decoder, WholeStep])
def test_the_model(cell):
    assert list(signature(cell.construct).parameters) == ["self", *STEP_INPUTS, "adapters"]


def test_the_operator():
    taken = signature(DecoderStep.construct).parameters
    assert [name for name in taken if name in STEP_INPUTS] == list(STEP_INPUTS)
