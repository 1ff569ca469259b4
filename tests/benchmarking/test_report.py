"""Tables, percentiles and files of a benchmark."""

import json
import math
from argparse import Namespace

import pytest

from mindspore_paged.benchmarking.report import (
    draw_bars,
    markdown_table,
    output_stem,
    percentile,
    require_at_least,
    write_results,
)
from mindspore_paged.errors import ConfigError


def test_a_table():
    assert markdown_table(["a", "b"], [[1, "---"], ["x", 2.5]]) == "| a | b |\n|---|---|\n| 1 | --- |\n| x | 2.5 |"


def test_percentiles_lie_between_neighbours():
    assert percentile([4, 1, 2, 3], 50) == 2.5
    assert percentile(iter([5.0]), 99) == 5
    assert math.isnan(percentile([], 50))


def test_flags_below_their_least():
    flags = Namespace(num_requests=3, sizes=[4, 0], nothing=None, rate=float("nan"))
    require_at_least(flags, 1, "num_requests", "nothing")
    with pytest.raises(ConfigError, match="--sizes is 0; it must be at least 1"):
        require_at_least(flags, 1, "num_requests", "sizes")
    with pytest.raises(ConfigError, match="--rate is nan"):
        require_at_least(flags, 0, "rate")


def test_where_files_go(tmp_path):
    assert output_stem(tmp_path, "name") == tmp_path / "name"
    assert output_stem(tmp_path / "v1.2", "name") == tmp_path / "v1.2"
    with pytest.raises(ConfigError, match=r"--output .*: its folder is not there"):
        output_stem(tmp_path / "none" / "x", "name")


def test_files_keep_the_whole_stem(tmp_path):
    paths = write_results(
        tmp_path / "v1.2", {"a": 1}, "table", lambda panels: draw_bars(panels[0], ["g"], {"s": [1], "t": [2]})
    )
    assert [path.name for path in paths] == ["v1.2.json", "v1.2.md", "v1.2.png"]
    assert json.loads(paths[0].read_text()) == {"a": 1}
    assert paths[1].read_text() == "table\n"
    assert paths[2].read_bytes().startswith(b"\x89PNG")
