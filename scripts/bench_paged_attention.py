"""Measure paged_attention on this CPU, against the memory's read bandwidth and MindSpore's built-in operators."""

import argparse
import json
import os
import sys
from pathlib import Path

from tqdm import tqdm

from mindspore_paged.files import write_text
from mindspore_paged.launch.keeper import kept
from mindspore_paged.script import exit_code_of

DESCRIPTION = """Measure paged_attention on this CPU: a decode step of 8 rows x 4096 tokens, float32, blocks of 16
tokens scattered at random, in a static graph. Three things are timed in turn, 9 rounds, and the medians reported:

  read bandwidth  a plain read of 512 MiB by all threads: what the memory can give
  paged_attention GB of keys and values read a second, and that as a share of the read bandwidth
  built-in ops    the same attention by gather, batched matmul, mask and softmax, and how many times longer it takes

Targets: at least 60% of the read bandwidth, at least 10 times faster than the built-in ops. Takes about half a minute;
other work on the machine spoils the figures."""


def report(figures: dict) -> str:
    """One shape's figures in words."""
    return (
        f"{figures['shape']}, 8 rows x 4096 tokens, a layer:\n"
        f"  read bandwidth   {figures['read_bandwidth_gb_per_s']:6.1f} GB/s\n"
        f"  paged_attention  {figures['paged_attention_gb_per_s']:6.1f} GB/s = "
        f"{figures['share_of_read_bandwidth']:.0%} of it   {figures['paged_attention_ms']:.2f} ms\n"
        f"  built-in ops     {figures['times_faster_than_built_in']:6.1f} times slower   "
        f"{figures['built_in_ms']:.2f} ms   (results differ by at most {figures['largest_difference']:.1g})"
    )


def main() -> int:
    os.environ.setdefault("GLOG_v", "3")  # MindSpore's own warnings are not for the user of a script
    """Run the benchmark; returns the exit code, 2 if the operators are not compiled or FILE cannot be written."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    arguments = parser.parse_args()
    return exit_code_of(lambda: run(arguments.json))


def run(json_path: Path | None) -> None:
    """Measure every shape, and print and write the figures."""
    if json_path:
        json_path.touch()  # a wrong path is told now, not at the end
    from mindspore_paged.benchmarking.attention import NUM_ROUNDS, measure_all  # MindSpore takes seconds to import

    with tqdm(total=NUM_ROUNDS, desc="rounds", file=sys.stderr) as progress:
        results = measure_all(progress)
    print("\n".join(map(report, results)))
    if json_path:
        write_text(json_path, json.dumps({"results": results}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(kept(main))
