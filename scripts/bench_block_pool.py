"""Measure the pager's own work, without a model or a device: pool, scheduler and prefix cache on made-up tokens."""

import argparse
import json
import os
import random
import statistics
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter

import numpy as np
from tqdm import tqdm

from mindspore_paged import SamplingParams
from mindspore_paged.cache.block_pool import BlockPool
from mindspore_paged.cache.block_table import BlockTable
from mindspore_paged.cache.cache_manager import CacheManager
from mindspore_paged.cache.host_tier import HostTier
from mindspore_paged.engine.execution.page_mover import MAX_MOVES
from mindspore_paged.engine.execution.planned_inputs import build_step_inputs
from mindspore_paged.engine.requests.detokenizer import IncrementalDetokenizer
from mindspore_paged.engine.requests.sequence import Request, Sequence
from mindspore_paged.engine.scheduling.length_predictor import LengthPredictor, class_of, output_limit
from mindspore_paged.engine.scheduling.policies import policy_by_name
from mindspore_paged.engine.scheduling.prefill_window import PrefillWindow
from mindspore_paged.engine.scheduling.scheduler import Scheduler
from mindspore_paged.files import write_text
from mindspore_paged.launch.keeper import kept
from mindspore_paged.script import exit_code_of

BLOCK_SIZE, STEP_TOKENS = 16, 256
SMALL_POOL, LARGE_POOL, MAX_RATIO = 1_000, 1_000_000, 2.0
ROWS, CONTEXT, WAITING, STEPS, MAX_STEP_MS = 256, 1_000, 500, 300, 1.0

DESCRIPTION = f"""Measure the pager's own work, without a model or a device, on made-up tokens, {BLOCK_SIZE} a block.

  pool        time to allocate, append and free a block in an aged pool of {SMALL_POOL:,} blocks and in one of
              {LARGE_POOL:,}, in turn in one run; bar: the large pool takes at most {MAX_RATIO} times as long
  step        one step's bookkeeping for {ROWS} decoding rows of about {CONTEXT:,} tokens: schedule, lay out the inputs,
              commit, append a token to each; bar: median below {MAX_STEP_MS:.0f} ms while nothing else waits
  compaction  fragmentation (share of the free blocks outside the longest free run) before and after
  waiting     steps until the first token of short requests among long ones, by the features that are on
  prefixes    share of tokens found in the cache, where prompts begin alike and the pool is too small for all beginnings

Pool and step are times: other work on the machine spoils them, so the load average is reported. The other three are
counts and the same on every machine. Takes about half a minute."""


def make_sequence(arrival: int, prompt: list[int], max_tokens: int = 512) -> Sequence:
    """A request with one sequence."""
    request = Request(f"request {arrival}", arrival, None, prompt, SamplingParams(max_tokens=max_tokens), 0.0)
    request.sequences = [Sequence(request, 0, IncrementalDetokenizer(None))]
    return request.sequences[0]


def make_cache(num_blocks: int, rows: int, max_blocks_per_seq: int, **options) -> CacheManager:
    """A pool and a table, empty."""
    return CacheManager(BlockPool(num_blocks), BlockTable(rows, max_blocks_per_seq), BLOCK_SIZE, **options)


def seconds(call: Callable[[], object]) -> float:
    """Time one call."""
    started = perf_counter()
    call()
    return perf_counter() - started


class Churn:
    """Sequences that come, grow by single blocks and go, in random order; without prefixes, so that all go at once."""

    PROMPT_BLOCKS, GROWTH_BLOCKS, MAX_BLOCKS = 16, 16, 512
    TURNS = 4  # sequences that go in a round, and that come

    def __init__(self, num_blocks: int):
        self.max_rows = num_blocks // self.PROMPT_BLOCKS
        self.cache = make_cache(num_blocks, self.max_rows, self.MAX_BLOCKS, enable_prefix_caching=False)
        self.random = random.Random(0)
        self.rows: list[int] = []
        self.seconds, self.blocks = Counter(), Counter()  # by operation

    def age(self) -> "Churn":
        """Keep the pool full until every block was given back twice on average; then let a quarter of the load end."""
        with tqdm(total=2 * self.cache.pool.num_blocks, desc="ageing", unit="block", leave=False) as progress:
            while progress.n < progress.total:
                self.round()
                progress.update(self.blocks["free"] - progress.n)
        for _ in range(len(self.rows) // 4):
            self.cache.free(self._pick_out())
        self.max_rows = len(self.rows)
        return self

    def round(self) -> None:
        """End some sequences, start others, lengthen many by a block; each kind is timed as a batch."""
        pool, table = self.cache.pool, self.cache.table
        if min(self.max_rows - len(self.rows), pool.num_available // self.PROMPT_BLOCKS) < self.TURNS:
            going = [self._pick_out() for _ in range(self.TURNS)]
            self._time("free", self.cache.free, going, sum(map(table.num_blocks, going)))
        coming = min(self.max_rows - len(self.rows), pool.num_available // self.PROMPT_BLOCKS, self.TURNS)
        self._time("allocate", self._start, range(coming), coming * self.PROMPT_BLOCKS)
        growing = min(pool.num_available, self.TURNS * self.GROWTH_BLOCKS)
        self._time("append", self._lengthen, self.random.choices(self.rows, k=growing), growing)

    def microseconds(self, rounds: int) -> dict[str, float]:
        """Time of each operation, per block, over the next rounds."""
        self.seconds, self.blocks = Counter(), Counter()
        for _ in range(rounds):
            self.round()
        return {operation: 1e6 * self.seconds[operation] / self.blocks[operation] for operation in self.seconds}

    def _pick_out(self) -> int:
        place = self.random.randrange(len(self.rows))
        self.rows[place], self.rows[-1] = self.rows[-1], self.rows[place]
        return self.rows.pop()

    def _time(self, operation: str, call: Callable[[int], None], arguments: Iterable[int], num_blocks: int) -> None:
        self.seconds[operation] += seconds(lambda: deque(map(call, arguments), maxlen=0))
        self.blocks[operation] += num_blocks

    def _start(self, _: int) -> None:
        row, _ = self.cache.admit([], self.PROMPT_BLOCKS * BLOCK_SIZE)
        self.cache.grow(row, 0, self.PROMPT_BLOCKS * BLOCK_SIZE)
        self.rows.append(row)

    def _lengthen(self, row: int) -> None:
        num_tokens = self.cache.table.num_blocks(row) * BLOCK_SIZE
        self.cache.grow(row, num_tokens, num_tokens + 1)


def measure_pool(repeats: int = 15, rounds: int = 25) -> dict:
    """Median microseconds a block in a small and in a large pool, both aged, and their ratios."""
    pools = [Churn(num_blocks).age() for num_blocks in (SMALL_POOL, LARGE_POOL)]
    samples = [[pool.microseconds(rounds) for pool in pools] for _ in tqdm(range(repeats), desc="pool", leave=False)]
    figures = {}
    for operation in ("allocate", "append", "free"):
        in_small, in_large = (statistics.median(s[side][operation] for s in samples) for side in (0, 1))
        figures[operation] = {"small_us": in_small, "large_us": in_large, "ratio": in_large / in_small}
    return figures


def measure_step() -> dict:
    """Milliseconds that a step of decodes takes on the host."""
    return {"nothing waiting": step_milliseconds(0), f"{WAITING} waiting": step_milliseconds(WAITING)}


def step_milliseconds(num_waiting: int) -> dict[str, float]:
    """Median and 99th percentile over STEPS steps of ROWS sequences, for as many as there are rows."""
    rng = random.Random(0)
    cache = make_cache(ROWS * (CONTEXT + 2 * STEPS) // BLOCK_SIZE, ROWS, 2 * CONTEXT // BLOCK_SIZE)
    scheduler = Scheduler(cache, 2 * ROWS * CONTEXT)  # a budget that takes all prompts in the first step
    for arrival in range(ROWS + num_waiting):
        scheduler.add(make_sequence(arrival, rng.choices(range(1000), k=CONTEXT + rng.randint(-100, 100))))
    decode_step(scheduler)
    milliseconds = [1e3 * seconds(lambda: decode_step(scheduler)) for _ in tqdm(range(STEPS), desc="step", leave=False)]
    return {"median_ms": statistics.median(milliseconds), "p99_ms": float(np.percentile(milliseconds, 99))}


def decode_step(scheduler: Scheduler) -> None:
    """What the engine does on the host for a step, but for sampling and text."""
    plan = scheduler.schedule()
    build_step_inputs(plan, scheduler.cache.table.take_changes())
    scheduler.commit(plan)
    for chunk in plan.chunks:
        if chunk.is_last:
            chunk.sequence.token_ids.append(1)


def measure_compaction(num_blocks: int = 10_000) -> dict:
    """Fragmentation of an aged pool before and after it is compacted, as the engine does, MAX_MOVES at a time."""
    cache = Churn(num_blocks).age().cache
    states, num_moved = {"aged": free_state(cache)}, 0
    while moves := cache.compact(MAX_MOVES):
        num_moved += len(moves)
        states[f"after compaction {len(states)}"] = free_state(cache) | {"blocks_moved": num_moved}
    return states


def free_state(cache: CacheManager) -> dict:
    """How the free blocks lie."""
    free_runs = cache.pool.free_runs
    return {"fragmentation": free_runs.fragmentation, "longest_run": free_runs.longest, "free_blocks": len(free_runs)}


def measure_waiting() -> dict:
    """Steps until the first token of short requests, and until all are done, by the features that are on."""
    variants = {
        "first come, first served": (False, None, "fcfs"),
        "reservation by prediction": (True, None, "fcfs"),
        "prefill window": (False, 0.5, "fcfs"),
        "shortest first by prediction": (False, None, "shortest"),
        "all of them": (True, 0.5, "shortest"),
    }
    return {name: serve_mixed_load(*variant) for name, variant in tqdm(variants.items(), desc="waiting", leave=False)}


def serve_mixed_load(reserve: bool, long_prefill_share: float | None, policy: str) -> dict:
    """Serve 400 short and 40 long requests that arrive at random; all may answer with 512 tokens, none does."""
    rng = random.Random(0)
    cache = make_cache(num_blocks=600, rows=16, max_blocks_per_seq=256, enable_prefix_caching=False)
    predictor = LengthPredictor()
    scheduler = Scheduler(
        cache,
        STEP_TOKENS,
        policy=policy_by_name(policy, lambda r: predictor.predict(class_of(r), 0, output_limit(r, 4096))),
        predictor=predictor,
        reserve_predicted=reserve,
        prefill_window=PrefillWindow(STEP_TOKENS, BLOCK_SIZE, 512, long_prefill_share) if long_prefill_share else None,
    )
    arrivals, answers = {}, {}
    for number in range(440):
        is_long = number % 11 == 10
        prompt = [number] * (rng.randint(1500, 3000) if is_long else rng.randint(16, 128))
        arrivals[sequence := make_sequence(number, prompt)] = rng.randrange(1800)
        answers[sequence] = rng.randint(100, 200) if is_long else rng.randint(8, 64)
    first_token_at, steps = serve(scheduler, arrivals, answers)
    waits = [first_token_at[s] - arrivals[s] for s in arrivals if len(s.request.prompt_token_ids) <= 128]
    return {"mean_wait": statistics.mean(waits), "total_steps": steps, "preemptions": scheduler.num_preemptions}


def serve(
    scheduler: Scheduler, arrivals: dict[Sequence, int], answers: dict[Sequence, int], tier: HostTier | None = None
) -> tuple[dict[Sequence, int], int]:
    """Run all to their ends; returns the step of each one's first token, and how many steps it took."""
    to_come = sorted(arrivals, key=arrivals.get, reverse=True)
    first_token_at, step = {}, 0
    while to_come or scheduler.has_unfinished:
        while to_come and arrivals[to_come[-1]] <= step:
            scheduler.add(to_come.pop())
        plan = scheduler.schedule()
        step += 1
        for _, name in scheduler.cache.take_transfers().saves:
            if tier is not None:
                tier.put(name, np.zeros(1, np.float32))  # the page: nobody reads what it holds
        scheduler.commit(plan)
        for sequence in [chunk.sequence for chunk in plan.chunks if chunk.is_last]:
            sequence.token_ids.append(sequence.request.arrival)
            first_token_at.setdefault(sequence, step)
            if sequence.num_output_tokens == answers[sequence]:
                scheduler.finish(sequence, "stop")
    return first_token_at, step


def measure_prefixes() -> dict:
    """Share of the tokens of prompts that the cache had: all beginnings fit, they do not, a host tier below."""
    return {
        "large pool": serve_common_prefixes(2_000),
        "small pool": serve_common_prefixes(200),
        "small pool with a host tier": serve_common_prefixes(200, HostTier(2**20)),
    }


def serve_common_prefixes(num_blocks: int, tier: HostTier | None = None) -> dict:
    """Serve 300 prompts that begin with one of 12 texts of 512 tokens and go on with 64 of their own."""
    rng = random.Random(0)
    scheduler = Scheduler(make_cache(num_blocks, rows=4, max_blocks_per_seq=64, host_tier=tier), STEP_TOKENS)
    beginnings = [rng.choices(range(1000), k=512) for _ in range(12)]
    prompts = [rng.choice(beginnings) + rng.choices(range(1000), k=64) for _ in range(300)]
    arrivals = {make_sequence(number, prompt): 8 * number for number, prompt in enumerate(prompts)}
    serve(scheduler, arrivals, dict.fromkeys(arrivals, 16), tier)
    if tier is not None:
        tier.close()
    return {"share_found": scheduler.prefix_cache_hit_rate}


def report(results: dict) -> str:
    """All figures, and whether the bars were met."""
    lines = []
    for part, cases in results.items():
        lines.append(part)
        for case, figures in cases.items():
            lines.append(f"  {case:30}" + "".join(f"  {name} {value:6.4g}" for name, value in figures.items()))
    ratio = max(operation["ratio"] for operation in results["pool"].values())
    milliseconds = results["step"]["nothing waiting"]["median_ms"]
    for name, value, bar in (("ratio of the pools", ratio, MAX_RATIO), ("step, ms", milliseconds, MAX_STEP_MS)):
        lines.append(f"{name}: {value:.2f}, bar {bar}: {'met' if value <= bar else 'MISSED'}")
    return "\n".join(lines)


def main() -> int:
    """Run the benchmark; returns the exit code, 2 if FILE cannot be written."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    arguments = parser.parse_args()
    return exit_code_of(lambda: run(arguments.json))


def run(json_path: Path | None) -> None:
    """Measure everything, and print and write the figures."""
    if json_path:
        json_path.touch()  # a wrong path is told now, not at the end
    load_average = os.getloadavg()
    parts = (measure_pool, measure_step, measure_compaction, measure_waiting, measure_prefixes)
    results = {measure.__name__.removeprefix("measure_"): measure() for measure in parts}
    print(f"{report(results)}\nload average at the start: {load_average[0]:.2f} on {os.cpu_count()} cores")
    if json_path:
        write_text(json_path, json.dumps({"load_average": load_average, **results}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(kept(main))
