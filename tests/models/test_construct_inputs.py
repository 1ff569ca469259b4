"""Whatever computes a step takes what StepInputs declares, in its order: MindSpore passes inputs by position."""

from inspect import signature

from mindspore_paged.custom_ops.layer_ops import DecoderStep
from mindspore_paged.models.decoder import Decoder
from mindspore_paged.step_inputs import STEP_INPUTS


def test_the_model():
    assert list(signature(Decoder.construct).parameters) == ["self", *STEP_INPUTS]


def test_the_operator():
    taken = signature(DecoderStep.construct).parameters
    assert [name for name in taken if name in STEP_INPUTS] == list(STEP_INPUTS)
