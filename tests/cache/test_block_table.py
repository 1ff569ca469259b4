import numpy as np
import pytest

from mindspore_paged.cache.block_table import BlockTable
from mindspore_paged.errors import InvalidBlockError


def apply(device: np.ndarray, table: BlockTable) -> None:
    """Do on `device` what a step does with the changes."""
    indices, values = table.take_changes()
    device[indices[:, 0], indices[:, 1]] = values


def test_the_device_follows_by_changes_alone():
    table = BlockTable(4, 6)
    device = np.zeros((4, 6), np.int32)
    generator = np.random.default_rng(3)
    rows: list[int] = []
    for _ in range(300):
        if table.num_free_rows and generator.random() < 0.4:
            rows.append(table.acquire_row())
        elif rows and generator.random() < 0.3:
            table.release_row(rows.pop(generator.integers(len(rows))))
        elif rows:
            row = rows[generator.integers(len(rows))]
            if table.num_blocks(row) < 6:
                table.append(row, [int(generator.integers(1, 99))])
            else:
                table.replace(row, int(generator.integers(6)), int(generator.integers(1, 99)))
        if generator.random() < 0.5:
            apply(device, table)
            np.testing.assert_array_equal(device, table.device_copy())
        table.check_integrity()


def test_only_what_changed_is_sent():
    table = BlockTable(2, 4)
    row = table.acquire_row()
    table.append(row, [7, 8])
    indices, values = table.take_changes()
    assert indices.tolist() == [[row, 0], [row, 1]]
    assert values.tolist() == [7, 8]
    table.append(row, [9])
    indices, values = table.take_changes()
    assert (indices.tolist(), values.tolist()) == ([[row, 2]], [9])


def test_without_changes_one_true_entry_is_stated_again():
    table = BlockTable(2, 4)
    indices, values = table.take_changes()
    assert (indices.tolist(), values.tolist()) == ([[0, 0]], [0])
    row = table.acquire_row()
    table.append(row, [7])
    table.take_changes()
    indices, values = table.take_changes()
    assert (indices.tolist(), values.tolist()) == ([[0, 0]], [7 if row == 0 else 0])


def test_entries_of_a_released_row_point_to_the_null_block_again():
    table = BlockTable(1, 4)
    device = np.zeros((1, 4), np.int32)
    table.append(table.acquire_row(), [5, 6, 7])
    apply(device, table)
    table.release_row(0)
    table.append(table.acquire_row(), [8])
    apply(device, table)
    assert device.tolist() == [[8, 0, 0, 0]]


def test_entries_behind_the_end_of_a_shortened_row_point_to_the_null_block_again():
    table = BlockTable(1, 4)
    device = np.zeros((1, 4), np.int32)
    table.append(table.acquire_row(), [5, 6, 7])
    apply(device, table)
    assert table.truncate(0, 3) == table.truncate(0, 4) == []
    assert table.truncate(0, 1) == [6, 7]
    assert (table.num_blocks(0), table.blocks(0)) == (1, [5])
    apply(device, table)
    assert device.tolist() == [[5, 0, 0, 0]]
    table.append(0, [8])
    table.check_integrity()


def test_after_a_failed_step_everything_is_sent_again():
    table = BlockTable(2, 2)
    table.append(table.acquire_row(), [5])
    table.take_changes()  # lost with the step
    table.forget_device()
    device = np.full((2, 2), 99, np.int32)
    apply(device, table)
    np.testing.assert_array_equal(device, table.device_copy())


def test_misuse_is_refused():
    table = BlockTable(1, 2)
    row = table.acquire_row()
    with pytest.raises(InvalidBlockError, match="all 1 rows"):
        table.acquire_row()
    with pytest.raises(InvalidBlockError, match="row 0 would hold 3 blocks; the table has 2 a row"):
        table.append(row, [1, 2, 3])
    with pytest.raises(InvalidBlockError, match="row 0 has no block 0"):
        table.replace(row, 0, 1)
    table.release_row(row)
    with pytest.raises(InvalidBlockError, match="released twice"):
        table.release_row(row)
