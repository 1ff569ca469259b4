"""Show where a step's time goes, by group of operators, beside what memory and CPU allow at best; --help explains."""

import argparse
import json
import os
import sys
from pathlib import Path

from tqdm import tqdm

from mindspore_paged.config import EngineConfig, load_config
from mindspore_paged.custom_ops.build import BuildError, cpu_library
from mindspore_paged.custom_ops.op_times import MachineSpeed, measure_machine
from mindspore_paged.errors import ConfigError
from mindspore_paged.files import write_text
from mindspore_paged.launch.keeper import kept
from mindspore_paged.launch.worker import current_worker
from mindspore_paged.script import exit_code_of

DESCRIPTION = """Show where the time of a step goes, on the CPU. Real steps of the engine on random tokens, greedy:
a decode step for each batch, in which every sequence gets one token, and a prefill step of one whole prompt.
max_model_len, max_num_seqs, graphs and pages are chosen to fit --batches, --context and --prefill.

  scheduling        the host, before the graph: which sequences run, their pages, the inputs
  graph             the call of the compiled graph, made of
    embedding … lm_head   the operators, by what they do; qkv, gate_up and lm_head begin with the norm
    MindSpore             the rest: starting operators, operators that are not timed, logits to the host
  sampling, output  the host, after the graph: logits to tokens; pages, text and counting

calls, MB (weights and pages read or written) and GFLOP are those of one step. floor ms is the larger of MB at the
memory's read bandwidth and GFLOP at the CPU's rate of float32, both measured at the start; x floor is how many times
longer it took. Each line is a median over the steps, totals are sums of lines."""
EPILOG = """examples:
  profile_step.py --config configs/smollm2_135m.yaml
  profile_step.py --config configs/smollm2_135m.yaml --batches 1,8 --context 1024 --prefill 0 --output profile.json
  profile_step.py --config configs/smollm2_135m.yaml --set model.weight_dtype=int8

how to read it:
  x floor near 1: the operator is as fast as this machine allows; only fewer bytes (model.weight_dtype,
  cache.kv_cache_dtype) or a larger batch make a token cheaper. Far above 1: there is time to win in the operator.
  Below 1: what it read was still in the CPU's cache. Much MindSpore: small operators, or runtime.fused_ops is off.
  docs/cpu_performance.md says more. Other work on the machine spoils the figures."""
DEFAULT_BATCHES = "1,8,32"
SMALLEST_CHUNK = 256  # tokens of the steps that compute the prompts of a decode batch


def main() -> int:
    os.environ.setdefault("GLOG_v", "3")  # MindSpore's own warnings are not for the user of a script
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML of the model")
    parser.add_argument("--set", dest="overrides", nargs="+", action="extend", default=[], metavar="section.key=value")
    parser.add_argument(
        "--batches", default=DEFAULT_BATCHES, metavar="N,N,…", help="sequences of a decode step (default %(default)s)"
    )
    parser.add_argument(
        "--context", type=int, default=64, metavar="TOKENS", help="prompt of each of them (default %(default)s)"
    )
    parser.add_argument(
        "--prefill", type=int, default=512, metavar="TOKENS", help="tokens of the prefill step, 0: none (default 512)"
    )
    parser.add_argument(
        "--steps", type=int, default=20, metavar="N", help="steps to take medians of (default %(default)s)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the figures there too")
    arguments = parser.parse_args()
    return exit_code_of(lambda: profile(arguments))


def profile(arguments: argparse.Namespace) -> None:
    batches = _batches(arguments.batches)
    for flag, least in (("context", 1), ("steps", 1), ("prefill", 0)):
        if getattr(arguments, flag) < least:
            raise ConfigError(f"--{flag} is {getattr(arguments, flag)}; it must be at least {least}")
    if arguments.output is not None and not arguments.output.absolute().parent.is_dir():
        raise ConfigError(f"--output {arguments.output}: its folder is not there")
    if current_worker().size > 1:
        raise ConfigError("a step of several ranks cannot be taken apart; run this script without msrun")
    own = load_config(arguments.config, arguments.overrides)
    if own.runtime.ops_backend != "cpu":
        raise ConfigError(f"runtime.ops_backend is {own.runtime.ops_backend}; only the operators of cpu are timed")
    if own.cache.block_size == "auto":
        raise ConfigError("cache.block_size is auto; give a number with --set cache.block_size=16")
    try:
        speed = measure_machine(cpu_library())
    except BuildError as error:
        raise ConfigError(str(error)) from error
    print(f"read bandwidth {speed.bytes_per_second / 1e9:.1f} GB/s, float32 {speed.flops_per_second / 1e9:.0f} GFLOP/s")
    points = []
    for point in _profiles(arguments, own, batches):
        points.append(as_json(point, speed))
        print("\n" + table(points[-1], own.fused_ops))
    if arguments.output is not None:
        figures = {
            "read_gb_per_s": speed.bytes_per_second / 1e9,
            "gflop_per_s": speed.flops_per_second / 1e9,
            "config": str(arguments.config),
            "overrides": arguments.overrides,
            "fused_ops": own.fused_ops,
            "points": points,
        }
        write_text(arguments.output, json.dumps(figures, indent=1) + "\n")


def _batches(text: str) -> list[int]:
    try:
        batches = [int(part) for part in text.split(",")]
    except ValueError:
        batches = [0]
    if min(batches) < 1:
        raise ConfigError(f"--batches is {text!r}; it must be numbers from 1 with commas between, as {DEFAULT_BATCHES}")
    return sorted(set(batches))


def _profiles(arguments: argparse.Namespace, own: EngineConfig, batches: list[int]):
    """Each point's StepProfile as soon as it is measured."""
    from mindspore_paged import step_profile  # these take seconds: --help and bad input do not wait for them
    from mindspore_paged.llm import LLM

    chunk = max(arguments.prefill, 2 * batches[-1], SMALLEST_CHUNK)
    longest = max(
        arguments.prefill + 1,
        *(step_profile.longest_sequence(batch, arguments.context, chunk, arguments.steps) for batch in batches),
    )
    blocks = max(1, batches[-1]) * -(-longest // own.cache.block_size)
    forced = [
        f"scheduler.max_num_seqs={batches[-1]}",
        f"scheduler.max_num_batched_tokens={chunk}",
        f"scheduler.token_buckets={sorted({*batches, arguments.prefill or chunk, chunk})}",
        f"scheduler.max_model_len={longest}",
        "scheduler.enable_chunked_prefill=true",
        "scheduler.long_prefill_share=null",
        f"cache.num_blocks={blocks + 1}",  # and the null block
        "cache.memory_budget=null",
        "cache.enable_prefix_caching=false",
        "cache.host_memory=null",
        "cache.page_files=null",
        "cache.preload_prefixes=[]",
        "cache.response_cache_entries=0",
        "cache.elastic_min_blocks=null",
    ]
    config = load_config(arguments.config, [*arguments.overrides, *forced])
    with LLM(config, show_progress=sys.stderr.isatty()) as llm:
        for batch in batches:
            bar = _bar(arguments.steps, f"decode {batch}")
            yield step_profile.profile_decode(llm.engine, cpu_library(), batch, arguments.context, bar)[0]
        if arguments.prefill:
            bar = _bar(arguments.steps, f"prefill {arguments.prefill}")
            yield step_profile.profile_prefill(llm.engine, cpu_library(), arguments.prefill, bar)[0]


def _bar(num_steps: int, what: str) -> tqdm:
    return tqdm(range(num_steps), desc=what, unit="step", leave=False, disable=None)


def as_json(point, speed: MachineSpeed) -> dict:
    """A StepProfile with its floors; times in ms, and `ops` in the order of the step."""
    ops = {
        name: {
            "ms": op.seconds * 1e3,
            "calls": op.calls,
            "bytes": op.bytes,
            "flop": 2 * op.products,
            "floor_ms": speed.floor_seconds(op.bytes, op.products) * 1e3,
        }
        for name, op in point.ops.items()
    }
    return {
        "phase": point.phase,
        "tokens": point.tokens,
        "graph_tokens": point.graph_tokens,
        "context": point.context,
        "steps": point.num_steps,
        "step_ms": point.seconds * 1e3,
        "tokens_per_second": point.tokens / point.seconds,
        "host_share": sum(point.host.values()) / point.seconds,
        "host_ms": {part: seconds * 1e3 for part, seconds in point.host.items()},
        "graph_ms": point.graph_seconds * 1e3,
        "mindspore_ms": point.mindspore_seconds * 1e3,
        "floor_ms": sum(op["floor_ms"] for op in ops.values()),
        "ops": ops,
    }


def table(point: dict, fused: bool) -> str:
    what = f"batch {point['tokens']}" if point["phase"] == "decode" else f"{point['tokens']} tokens"
    padded = f" (padded to {point['graph_tokens']})" if point["graph_tokens"] > point["tokens"] else ""
    total = {
        "ms": point["graph_ms"],
        "calls": sum(op["calls"] for op in point["ops"].values()),
        "bytes": sum(op["bytes"] for op in point["ops"].values()),
        "flop": sum(op["flop"] for op in point["ops"].values()),
        "floor_ms": point["floor_ms"],
    }
    rows = [("scheduling", {"ms": point["host_ms"]["scheduling"]}), ("graph", total if fused else {"ms": total["ms"]})]
    rows += [(f"  {name}", op) for name, op in point["ops"].items()]
    rows += [("  MindSpore" if fused else "  MindSpore *", {"ms": point["mindspore_ms"]})]
    rows += [(part, {"ms": point["host_ms"][part]}) for part in ("sampling", "output")]
    rows += [("step", {"ms": point["step_ms"]})]
    lines = [
        f"{point['phase']}, {what}{padded}, context {point['context']:.0f}, {point['steps']} steps: "
        f"{point['step_ms']:.2f} ms, {point['tokens_per_second']:.1f} tokens/s, host {point['host_share']:.1%}",
        f"{'':18}{'ms':>10}{'share':>8}{'calls':>7}{'MB':>10}{'GFLOP':>9}{'floor ms':>10}{'x floor':>9}",
        *(_line(name, row, point["step_ms"]) for name, row in rows),
    ]
    if not fused:
        lines.append("* and all operators without a line: only those of the pages are timed where layers are not fused")
    return "\n".join(lines)


def _line(name: str, row: dict, step_ms: float) -> str:
    line = f"{name:18}{row['ms']:10.3f}{row['ms'] / step_ms:8.1%}"
    if "calls" not in row:
        return line
    times = f"{row['ms'] / row['floor_ms']:9.2f}" if row["floor_ms"] else f"{'-':>9}"
    return f"{line}{row['calls']:7}{row['bytes'] / 1e6:10.2f}{row['flop'] / 1e9:9.3f}{row['floor_ms']:10.3f}{times}"


if __name__ == "__main__":
    sys.exit(kept(main))
