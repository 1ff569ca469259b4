"""Which graph a step runs in, and how much goes in at once; what the graphs compute is tested with the model."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from mindspore_paged.engine.execution.model_runner import ModelRunner
from mindspore_paged.step_inputs import StepInputs

BUCKETS, ROWS, BLOCKS_PER_ROW, VOCAB = [1, 4, 16], 8, 3, 5
TABLE_ENTRIES = ROWS + BLOCKS_PER_ROW


@pytest.fixture
def runner():
    return make_runner()


def make_runner(*options, adapters=None):
    """A runner over graphs that only note down what they are called with (`steps`, `copies`)."""
    model = SimpleNamespace(weight_places=dict, adapters=adapters)
    pool = SimpleNamespace(
        copier=None,
        reader=None,
        writer=None,
        block_table=np.zeros((ROWS, BLOCKS_PER_ROW)),
        num_bytes=0,
        dtype="float32",
    )
    runner = ModelRunner(model, pool, BUCKETS, *options)
    runner.steps, runner.copies = [], []

    def compute(*arrays):
        runner.steps.append(StepInputs(*arrays))
        return np.zeros((len(arrays[3]), VOCAB), np.float32)

    runner._step, runner._copy_pages = compute, runner.copies.append
    return runner


def step(num_tokens, num_logits=1, num_changes=1) -> StepInputs:
    def numbers(count):
        return np.arange(count, dtype=np.int32)

    indices = np.stack([numbers(num_changes) % ROWS, numbers(num_changes) // ROWS], axis=1)
    tokens = numbers(num_tokens)
    return StepInputs(tokens, tokens, tokens % ROWS, numbers(num_logits), indices, numbers(num_changes) + 1)


@pytest.mark.parametrize(("tokens", "bucket"), [(1, 1), (2, 4), (4, 4), (5, 16), (16, 16)])
def test_a_step_runs_in_the_smallest_graph_that_holds_it(runner, tokens, bucket):
    logits = runner.run(step(tokens, min(tokens, 2)))
    assert logits.shape == (min(tokens, 2), VOCAB)
    (ran,) = runner.steps
    assert ran.num_tokens == len(ran.positions) == len(ran.rows) == bucket
    assert len(ran.logit_indices) == min(bucket, ROWS)
    assert len(ran.table_values) == len(ran.table_indices) == TABLE_ENTRIES


@pytest.mark.parametrize(("tokens", "logits", "of_the_graph"), [(1, 1, 1), (2, 2, 4), (16, 2, 16), (16, 16, 16)])
def test_with_drafts_a_graph_has_logits_for_each_sequence_and_its_drafts(tokens, logits, of_the_graph):
    runner = make_runner(2)
    assert runner.run(step(tokens, logits)).shape == (logits, VOCAB)
    assert len(runner.steps[0].logit_indices) == of_the_graph


def test_table_changes_beyond_one_graph_go_ahead_in_the_smallest_one(runner):
    runner.run(step(5, num_changes=TABLE_ENTRIES + 3))
    first, last = runner.steps
    assert (first.num_tokens, last.num_tokens) == (1, 16)
    assert first.rows.tolist() == [-1]
    assert [*first.table_values, *last.table_values[:3]] == list(range(1, TABLE_ENTRIES + 4))


@pytest.mark.parametrize("count", [1, 15, 16, 17, 40])
def test_every_pair_is_copied_once_and_in_order(runner, count):
    pairs = [(number, number + 100) for number in range(1, count + 1)]
    runner.copy_blocks(pairs)
    assert {part.shape for part in runner.copies} == {(16, 2)}
    together = np.concatenate(runner.copies).tolist()
    assert together == [list(pair) for pair in pairs] + [[-1, -1]] * (-count % 16)


def test_a_graph_that_has_adapters_is_told_every_tokens():
    """Those of padding, and of a step in which nobody has one, are none."""
    runner = make_runner(adapters=object())
    runner.run(replace(step(3), adapters=np.array([1, -1, 0], np.int32)))
    runner.run(step(3))
    assert [ran.adapters.tolist() for ran in runner.steps] == [[1, -1, 0, -1], [-1] * 4]
