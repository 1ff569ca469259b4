"""llama.cpp's own tools, run and read: llama-quantize, llama-batched-bench and llama-bench."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mindspore_paged.errors import ConfigError

CACHE_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
"""llama.cpp's names of our kv_cache_dtype."""

QUANTIZE, BATCHED_BENCH, BENCH = "llama-quantize", "llama-batched-bench", "llama-bench"
LAST_LINES = 3


@dataclass(frozen=True)
class LlamaTools:
    """The tools in one folder; raises ConfigError, one line, for a tool that is missing or fails.

    threads: for decode and prefill alike. kv_cache_dtype: as our configuration spells it.
    """

    folder: Path
    threads: int
    kv_cache_dtype: str = "float16"

    def __post_init__(self):
        missing = [name for name in (QUANTIZE, BATCHED_BENCH, BENCH) if not os.access(self.folder / name, os.X_OK)]
        if missing:
            raise ConfigError(
                f"--llama-bin {self.folder}: no program {' or '.join(missing)} in it; build llama.cpp with "
                f"`cmake --build build --target {QUANTIZE} {BATCHED_BENCH} {BENCH}` and give build/bin"
            )

    def quantize(self, source: Path, target: Path, precision: str) -> None:
        """Write `source` again with weights of type `precision`; another is left in place if it fails on the way."""
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        try:
            self._run(QUANTIZE, "--allow-requantize", source, part, precision, self.threads)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def decode_rates(self, model: Path, batches: Sequence[int], context: int, num_steps: int) -> dict[int, float]:
        """Tokens a second of `num_steps` decode steps from `context` tokens on, by batch (S_TG of the tool)."""
        arguments = [
            *("-m", model, "-npp", context, "-ntg", num_steps, "-npl", ",".join(map(str, batches))),
            *("-c", max(batches) * (context + num_steps), "-b", 2048, "-ub", 512),
            *("-t", self.threads, "-tb", self.threads, "-ngl", 0),
            *("-ctk", self._cache_type, "-ctv", self._cache_type, "--output-format", "jsonl"),
        ]
        rates = {}
        for line in self._run(BATCHED_BENCH, *arguments).splitlines():
            if line.startswith("{"):
                case = _json(BATCHED_BENCH, line)
                rates[_number(BATCHED_BENCH, case, "pl")] = float(_number(BATCHED_BENCH, case, "speed_tg"))
        lacking = [batch for batch in batches if batch not in rates]
        if lacking:
            raise ConfigError(f"{BATCHED_BENCH} gave no result for batch {lacking[0]}")
        return {batch: rates[batch] for batch in batches}

    def prefill_rate(self, model: Path, num_tokens: int) -> float:
        """Tokens a second of one prompt of `num_tokens` (pp of llama-bench, once, after its own warm-up)."""
        arguments = [
            *("-m", model, "-p", num_tokens, "-n", 0, "-r", 1, "-t", self.threads, "-ngl", 0),
            *("-b", 2048, "-ub", 512, "-ctk", self._cache_type, "-ctv", self._cache_type, "-o", "json"),
        ]
        results = _json(BENCH, self._run(BENCH, *arguments))
        if not isinstance(results, list) or len(results) != 1:
            raise ConfigError(f"{BENCH} gave no result, or several, for one prompt")
        return float(_number(BENCH, results[0], "avg_ts"))

    @property
    def _cache_type(self) -> str:
        return CACHE_TYPES[self.kv_cache_dtype]

    def _run(self, name: str, *arguments) -> str:
        done = subprocess.run(
            [str(self.folder / name), *map(str, arguments)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            last = " / ".join((done.stderr or done.stdout).strip().splitlines()[-LAST_LINES:])
            raise ConfigError(f"{name} failed with exit code {done.returncode}: {last or 'it said nothing'}")
        return done.stdout


def _json(name: str, text: str):
    try:
        return json.loads(text)
    except ValueError:
        raise ConfigError(f"{name} wrote what is not JSON: {text.strip()[:80]!r}") from None


def _number(name: str, result: dict, key: str):
    value = result.get(key) if isinstance(result, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ConfigError(f"{name} gave {value!r} as {key}; it must be a positive number")
    return value
