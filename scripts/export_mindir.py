"""Export a model to a folder that runs without the model's code; see --help."""

import argparse
import os
import sys
from pathlib import Path

from mindspore_paged.config import load_config
from mindspore_paged.errors import ConfigError
from mindspore_paged.launch.keeper import kept
from mindspore_paged.script import exit_code_of

DESCRIPTION = """Export a model to a folder: the step as one MindIR graph, weights, tokenizer, kernels and a manifest.

The folder can be moved and be read-only; scripts/run_mindir.py and LLM.from_mindir run it without the model's code.
All token buckets are compiled from the one graph at start, over one set of weights and one pool."""
EPILOG = """examples:
  export_mindir.py --config configs/smollm2_135m.yaml --output exported
  export_mindir.py --config configs/smollm2_135m.yaml --output exported --buckets 1,8,64 --kv-blocks 256
  msrun_launcher.sh "scripts/export_mindir.py --config my.yaml --output exported" 2     one folder a rank
then
  run_mindir.py --model exported --chat --prompt "Why is the sky blue?\""""


def main() -> int:
    os.environ.setdefault("GLOG_v", "3")  # MindSpore's own warnings are not for the user of a script
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML file, as run_generate.py has")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--buckets",
        metavar="T,T,…",
        help="token counts to compile at start (default: the YAML's); free to change there",
    )
    parser.add_argument(
        "--kv-blocks", type=int, metavar="N", help="pages of the pool (default: the YAML's); free to change at start"
    )
    parser.add_argument("--portable-kernels", action="store_true", help="kernels for every CPU of this architecture")
    parser.add_argument(
        "--sign-key",
        type=Path,
        metavar="FILE",
        help="sign the folder with the key in this file (32 secret bytes or more), for run_mindir.py --verify-key",
    )
    parser.add_argument("--set", dest="overrides", nargs="+", action="extend", default=[], metavar="section.key=value")
    arguments = parser.parse_args()
    return exit_code_of(lambda: export(arguments))


def export(arguments: argparse.Namespace) -> None:
    config = load_config(arguments.config, [*arguments.overrides, *_overrides(arguments)])

    from mindspore_paged.engine.building.exporting import export_model  # takes seconds: bad input does not wait

    folder = export_model(config, arguments.output, arguments.portable_kernels, sys.stderr.isatty(), arguments.sign_key)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e9:.2f} GB")


def _overrides(arguments: argparse.Namespace) -> list[str]:
    overrides = []
    if arguments.buckets is not None:
        buckets = arguments.buckets.split(",")
        if not all(bucket.strip().isdigit() for bucket in buckets):
            raise ConfigError(f"--buckets is {arguments.buckets!r}; it must be numbers with commas between, as 1,8,64")
        overrides += [f"scheduler.token_buckets=[{arguments.buckets}]"]
        overrides += [f"scheduler.max_num_batched_tokens={int(buckets[-1])}"]
    if arguments.kv_blocks is not None:
        overrides.append(f"cache.num_blocks={arguments.kv_blocks}")
    return overrides


if __name__ == "__main__":
    sys.exit(kept(main))
