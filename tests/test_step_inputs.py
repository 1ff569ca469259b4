"""What is sent to the device: tokens side by side, padding that can do no harm, table entries in several goes."""

import numpy as np
import pytest

from mindspore_paged.engine.execution.planned_inputs import build_step_inputs
from mindspore_paged.engine.scheduling.scheduler import Chunk, StepPlan
from mindspore_paged.step_inputs import STEP_INPUTS, StepInputs, table_only
from tests.engine.scheduler_sim import SchedulerSim


def changes(*entries):
    """Table changes (row, column, block)."""
    array = np.array(entries, np.int32).reshape(-1, 3)
    return array[:, :2], array[:, 2]


@pytest.fixture
def inputs() -> StepInputs:
    """A decode in row 3, a chunk in the middle of a prompt in row 0, and a whole prompt in row 2."""
    sim = SchedulerSim()
    for prompt in ([10, 11, 12], [20, 21, 22, 23, 24, 25], [30, 31]):
        sim.add(prompt)
    for arrival, row in ((0, 3), (1, 0), (2, 2)):
        sim.sequences[arrival].row = row
    parts = ((0, 2, 1), (1, 2, 3), (2, 0, 2))
    plan = StepPlan([Chunk(sim.sequences[arrival], start, tokens) for arrival, start, tokens in parts])
    return build_step_inputs(plan, changes((0, 1, 7), (2, 0, 8)))


def test_tokens_of_a_sequence_stand_together_and_in_order(inputs):
    assert inputs.input_ids.tolist() == [12, 22, 23, 24, 30, 31]
    assert inputs.positions.tolist() == [2, 2, 3, 4, 0, 1]
    assert inputs.rows.tolist() == [3, 0, 0, 0, 2, 2]
    assert inputs.logit_indices.tolist() == [0, 3, 5]
    assert inputs.table_indices.tolist() == [[0, 1], [2, 0]]
    assert inputs.table_values.tolist() == [7, 8]
    assert inputs.num_tokens == 6
    assert {array.dtype for array in inputs.arrays()} == {np.dtype(np.int32)}


def test_padding_belongs_to_no_row_and_repeats_a_true_table_entry(inputs):
    padded = inputs.padded(8, 4, 5)
    assert padded.input_ids.tolist() == [12, 22, 23, 24, 30, 31, 0, 0]
    assert padded.positions.tolist() == [2, 2, 3, 4, 0, 1, 0, 0]
    assert padded.rows.tolist() == [3, 0, 0, 0, 2, 2, -1, -1]
    assert padded.logit_indices.tolist() == [0, 3, 5, -1]
    assert padded.table_indices.tolist() == [[0, 1], [2, 0], [0, 1], [0, 1], [0, 1]]
    assert padded.table_values.tolist() == [7, 8, 7, 7, 7]
    assert {array.dtype for array in padded.arrays()} == {np.dtype(np.int32)}


def test_drafts_stand_behind_the_tokens_that_they_follow_and_give_logits_too():
    sim = SchedulerSim()
    for prompt in ([10, 11, 12], [20, 21, 22, 23, 24, 25], [30]):
        sim.add(prompt)
    parts = ((0, 2, 1, (13, 14)), (1, 2, 3, ()), (2, 0, 1, (31,)))
    for arrival, row in ((0, 3), (1, 0), (2, 2)):
        sim.sequences[arrival].row = row
    plan = StepPlan([Chunk(sim.sequences[arrival], *part) for arrival, *part in parts])
    assert plan.num_tokens == 8
    inputs = build_step_inputs(plan, changes((0, 1, 7)))
    assert inputs.input_ids.tolist() == [12, 13, 14, 22, 23, 24, 30, 31]
    assert inputs.positions.tolist() == [2, 3, 4, 2, 3, 4, 0, 1]
    assert inputs.rows.tolist() == [3, 3, 3, 0, 0, 0, 2, 2]
    assert inputs.logit_indices.tolist() == [0, 1, 2, 5, 6, 7]
    assert {array.dtype for array in inputs.arrays()} == {np.dtype(np.int32)}


def test_a_step_that_fills_its_bucket_is_not_changed(inputs):
    padded = inputs.padded(6, 3, 2)
    for filled, given in zip(padded.arrays(), inputs.arrays()):
        np.testing.assert_array_equal(filled, given)


@pytest.mark.parametrize(
    ("count", "at_most", "parts"), [(1, 4, [1]), (4, 4, [4]), (5, 4, [4, 1]), (8, 4, [4, 4]), (9, 4, [4, 4, 1])]
)
def test_more_changes_than_a_graph_takes_go_ahead_in_steps_without_tokens(inputs, count, at_most, parts):
    entries = [(row, row + 1, row + 2) for row in range(count)]
    whole = StepInputs(inputs.input_ids, inputs.positions, inputs.rows, inputs.logit_indices, *changes(*entries))
    steps = whole.split_table_changes(at_most)
    assert [len(step.table_values) for step in steps] == parts
    assert [step.num_tokens for step in steps] == [0] * (len(parts) - 1) + [6]
    np.testing.assert_array_equal(np.concatenate([step.table_indices for step in steps]), whole.table_indices)
    np.testing.assert_array_equal(np.concatenate([step.table_values for step in steps]), whole.table_values)
    assert steps[-1].logit_indices.tolist() == [0, 3, 5]


def test_a_step_without_tokens_is_all_padding():
    padded = table_only(*changes((1, 2, 3))).padded(4, 2, 2)
    assert padded.rows.tolist() == [-1] * 4
    assert padded.logit_indices.tolist() == [-1, -1]
    assert padded.table_values.tolist() == [3, 3]


def test_all_has_the_shape_that_is_declared(inputs):
    sizes = {"T": 8, "N": 4, "E": 5}
    declared = [tuple(sizes.get(size, size) for size in each.shape) for each in STEP_INPUTS.values()]
    assert [array.shape for array in inputs.padded(*sizes.values()).arrays()] == declared
