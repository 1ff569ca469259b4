"""Compile a model's step as one static graph, without its weights, and report its size; see --help."""

import argparse
import os
import sys
from pathlib import Path

from mindspore_paged.config import load_config
from mindspore_paged.errors import ConfigError
from mindspore_paged.launch.keeper import kept
from mindspore_paged.script import exit_code_of

DESCRIPTION = """Compile a step of a model as one static graph, without room for its weights, and report its size.

All layers share the weights of one and the pages are two blocks, so LLaMA-70B (128 GiB in float16) compiles in a few
GiB; the graph has every node of every layer."""
EPILOG = """examples:
  compile_graph.py --config configs/llama2_70b.yaml               one sequence decodes
  compile_graph.py --config configs/llama2_70b.yaml --tokens 512  a prefill chunk"""


def main() -> int:
    os.environ.setdefault("GLOG_v", "3")  # MindSpore's own warnings are not for the user of a script
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML that names or gives the shape")
    parser.add_argument("--tokens", type=int, default=1, metavar="T", help="tokens of the step (default 1)")
    parser.add_argument("--set", dest="overrides", nargs="+", action="extend", default=[], metavar="section.key=value")
    arguments = parser.parse_args()
    return exit_code_of(lambda: report(arguments))


def report(arguments: argparse.Namespace) -> None:
    if arguments.tokens < 1:
        raise ConfigError(f"--tokens is {arguments.tokens}; it must be at least 1")
    config = load_config(arguments.config, arguments.overrides)

    from mindspore_paged.engine.building.graph_report import (
        compile_without_weights,  # takes seconds: bad input does not wait
    )

    graph = compile_without_weights(config, arguments.tokens)
    print(f"{graph.num_layers} layers, {graph.num_parameters / 1e9:.1f} billion parameters")
    print(f"{graph.nodes.total()} nodes in one static graph of {arguments.tokens} tokens")
    for name, count in graph.nodes.most_common():
        print(f"  {count:6} {name}")
    if graph.launches_per_layer:
        print(f"{graph.launches_per_layer:.1f} launches a layer")
    print(f"compiled in {graph.seconds:.1f} s, peak memory {graph.peak_bytes / 2**30:.1f} GiB")


if __name__ == "__main__":
    sys.exit(kept(main))
