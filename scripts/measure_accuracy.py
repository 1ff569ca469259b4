"""Measure what types of pages and weights cost in accuracy: perplexity and log-probabilities of a text; --help."""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mindspore_paged.config import EngineConfig, load_config
from mindspore_paged.errors import ConfigError, StepError
from mindspore_paged.files import write_text
from mindspore_paged.launch.keeper import kept
from mindspore_paged.sampling.sampler import SampledToken
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.script import exit_code_of

TEXT = Path(__file__).parent / "texts" / "american_documents.txt"
CHUNK = 64
DESCRIPTION = f"""Let a model read a text, as configured and then in each variant, and compare what it expected.

The text is read in windows of --window tokens, each a prompt whose log-probabilities are asked for (prompt_logprobs),
{CHUNK} tokens a step, through the pages: every token's keys and values are stored as cache.kv_cache_dtype says before
anything attends to them, as in the decoding of an answer. Counted is each token but the first of a window; with
--count-from only those behind so many others, in whole windows: those of 512 counted from 256 give llama-perplexity's
figure. Differences are those of its log-probability, in nats, to the first line's; same top is the share of places
where both hold the same token for the most probable."""
EPILOG = """examples:
  measure_accuracy.py --config configs/smollm2_135m.yaml \\
    --variant cache.kv_cache_dtype=bfloat16 --variant cache.kv_cache_dtype=int8
  measure_accuracy.py --config model.yaml --variant model.dtype=float16 cache.kv_cache_dtype=int8
  measure_accuracy.py --config model.yaml --set model.weights=model.Q4_K_M.gguf --window 512 --count-from 256"""


@dataclass(frozen=True)
class Reading:
    """What a model expected of each token that counts: its log-probability float64 [N], and the likeliest token [N]."""

    log_probabilities: np.ndarray
    likeliest: np.ndarray

    @property
    def perplexity(self) -> float:
        """e to the mean surprise."""
        return math.exp(-self.log_probabilities.mean())


@dataclass(frozen=True)
class Row:
    """A line of the table; bytes and megabytes are of one rank."""

    variant: str
    weights_mb: float
    kv_bytes_per_token: int
    perplexity: float
    mean_difference: float
    largest_difference: float
    same_top: float


def main() -> int:
    os.environ.setdefault("GLOG_v", "3")  # MindSpore's own warnings are not for the user of a script
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML of the model")
    parser.add_argument("--set", dest="overrides", nargs="+", action="extend", default=[], metavar="section.key=value")
    parser.add_argument(
        "--variant", dest="variants", nargs="+", action="append", default=[], metavar="section.key=value",
        help="what else to set for one more line; may be given again",
    )  # fmt: skip
    parser.add_argument("--text", type=Path, default=TEXT, metavar="FILE", help=f"default {TEXT.name}")
    parser.add_argument("--window", type=int, default=1024, metavar="TOKENS", help="most of a context (default 1024)")
    parser.add_argument("--count-from", type=int, default=0, metavar="TOKENS", help="of a window (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too")
    arguments = parser.parse_args()
    return exit_code_of(lambda: measure(arguments))


def measure(arguments: argparse.Namespace) -> None:
    """Read the text in every variant and print the table."""
    if arguments.window < 2:
        raise ConfigError(f"--window is {arguments.window}; it must be at least 2")
    if not 0 <= arguments.count_from <= arguments.window - 2:
        raise ConfigError(f"--count-from is {arguments.count_from}; allowed: 0 to --window - 2, {arguments.window - 2}")
    if arguments.json is not None and not arguments.json.absolute().parent.is_dir():
        raise ConfigError(f"--json {arguments.json}: its folder is not there")
    try:
        text = arguments.text.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--text {arguments.text}: {error}") from None
    variants = [[], *arguments.variants]
    configs = [config_of(arguments, variant) for variant in variants]  # all are checked before the first is built
    rows: list[Row] = []
    first = None
    for variant, config in zip(variants, configs, strict=True):
        row, first = measure_one(" ".join(variant) or "as configured", config, text, arguments, first)
        rows.append(row)
    print(markdown(rows))
    if arguments.json is not None:
        write_text(arguments.json, json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def config_of(arguments: argparse.Namespace, variant: Sequence[str]) -> EngineConfig:
    """The configuration of a variant, with one graph that gives the logits of all its tokens.

    A prompt whose log-probabilities are asked for has max_num_seqs tokens a step.
    """
    forced = [
        f"scheduler.max_model_len={arguments.window}",
        f"scheduler.max_num_seqs={CHUNK}",
        f"scheduler.max_num_batched_tokens={CHUNK}",
        f"scheduler.token_buckets=[{CHUNK}]",
        "scheduler.enable_chunked_prefill=true",
        "scheduler.long_prefill_share=null",
        "cache.enable_prefix_caching=false",  # each window is read once
        "cache.host_memory=null",
        "cache.page_files=null",
        "cache.preload_prefixes=[]",
    ]
    return load_config(arguments.config, [*arguments.overrides, *variant, *forced])


def measure_one(
    name: str, config: EngineConfig, text: str, arguments: argparse.Namespace, first: Reading | None
) -> tuple[Row, Reading]:
    """The variant's line, and the reading to compare the others with: `first`, or if there is none its own."""
    from mindspore_paged.llm import LLM  # takes seconds: --help and bad input do not wait for it

    with LLM(config, show_progress=sys.stderr.isatty()) as llm:
        if llm.tokenizer is None:
            raise ConfigError("the weights bring no tokenizer; set model.tokenizer")
        reading = read(llm, llm.tokenizer.encode(text), arguments.window, name, arguments.count_from)
        runner, cache = llm.engine.runner, llm.engine.scheduler.cache
        kv_bytes_per_token = runner.kv_cache_bytes // (cache.pool.num_blocks * cache.block_size)
        weights_mb = runner.weight_bytes / 1e6
    first = reading if first is None else first
    if len(first.likeliest) != len(reading.likeliest):
        raise ConfigError(f"{name}: the text has another number of tokens than as configured")
    differences = np.abs(reading.log_probabilities - first.log_probabilities)
    row = Row(
        name, weights_mb, kv_bytes_per_token, reading.perplexity, float(differences.mean()), float(differences.max()),
        float(np.mean(reading.likeliest == first.likeliest)),
    )  # fmt: skip
    return row, first


def read(llm, token_ids: Sequence[int], window: int, name: str = "", count_from: int = 0) -> Reading:
    """Let the model read the tokens in windows, one after the other."""
    needed = window if count_from else 2
    if len(token_ids) < needed:
        raise ConfigError(f"the text has fewer than {needed} tokens: {len(token_ids)}")
    parts = [part for part in windows_of(token_ids, window) if len(part) == window or not count_from]
    told = []
    for part in tqdm(parts, desc=name, unit="window", leave=False, disable=None):
        told += expected_of(llm, part, name)[count_from:]
    log_probabilities = np.array([token.logprob for token in told])
    return Reading(log_probabilities, np.array([token.top_logprobs[0][0] for token in told]))


def windows_of(token_ids: Sequence[int], window: int) -> Iterator[Sequence[int]]:
    """The tokens in parts of `window`; a last part of one token has nothing to count and is left out."""
    for start in range(0, len(token_ids), window):
        if start + 1 < len(token_ids):
            yield token_ids[start : start + window]


def expected_of(llm, token_ids: Sequence[int], name: str) -> list[SampledToken]:
    """What the model expected of each token but the first, with the likeliest one at its place.

    The answer is held to the last token, which stands in no prompt: so a window may be as long as the model allows.
    Raises StepError for logits that are not finite.
    """
    *prompt, last = token_ids
    params = SamplingParams(max_tokens=1, logprobs=1, prompt_logprobs=1, allowed_token_ids=[last])
    *_, update = llm.stream(prompt, params)
    if update.error is not None:
        raise StepError(f"{name}: {update.error}")
    return [*update.prompt_logprobs[1:], *update.logprobs]


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    lines = [
        "| variant | weights MB | KV bytes a token | perplexity | mean difference | largest | same top |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.variant} | {row.weights_mb:.1f} | {row.kv_bytes_per_token} | {row.perplexity:.4f} | "
            f"{row.mean_difference:.5f} | {row.largest_difference:.4f} | {row.same_top:.2%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(kept(main))
