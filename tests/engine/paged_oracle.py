"""A device of a few lines whose "model" is a digest of the sequence so far, read through block_table.

It keeps token ids where a real device keeps keys and values. A wrong block, a stale table entry, a lost or repeated
token, a page used after it was freed: each changes the digest, and so the answer, which `expected_tokens` knows
without any paging.
"""

from types import SimpleNamespace
from zlib import crc32

import numpy as np

from mindspore_paged.cache.block_pool import BlockPool
from mindspore_paged.cache.block_table import BlockTable
from mindspore_paged.cache.cache_manager import CacheManager
from mindspore_paged.engine.engine import LLMEngine
from mindspore_paged.engine.execution.page_mover import PageMover
from mindspore_paged.engine.requests.request_check import ModelLimits
from mindspore_paged.engine.scheduling.scheduler import Scheduler
from mindspore_paged.errors import StepError
from mindspore_paged.step_inputs import StepInputs

VOCAB = 64
HIDDEN = 6
UNWRITTEN = -7


def next_token(context) -> int:
    """The one token that can follow `context`."""
    return crc32(np.asarray(context, np.int32).tobytes()) % VOCAB


def hidden_state(context) -> np.ndarray:
    """What the device has for the last token of `context`, float32 [HIDDEN]."""
    seed = crc32(np.asarray(context, np.int32).tobytes())
    return np.random.default_rng(seed).standard_normal(HIDDEN).astype(np.float32)


def expected_tokens(prompt, count: int, window: int = 0) -> list[int]:
    """What greedy decoding must answer; with a window the last tokens alone say what follows."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens[-window:]))
    return tokens[len(prompt) :]


class OracleRunner:
    """Stands in for ModelRunner; `poison` is a token that makes every step which holds it fail.

    window: how many tokens its one layer sees; 0 = all.
    """

    weight_bytes = kv_cache_bytes = num_compiles = compiles_after_warmup = 0
    num_ranks = 1

    def __init__(self, num_blocks: int, block_size: int, table_shape, poison: int | None = None, window: int = 0):
        self.pages = np.full((num_blocks, block_size), UNWRITTEN, np.int32)
        self.block_table = np.zeros(table_shape, np.int32)
        self.poison = poison
        self.window = window
        self.steps: list[StepInputs] = []

    def copy_blocks(self, pairs):
        """Copy pages in order."""
        for source, destination in pairs:
            self.pages[destination] = self.pages[source]

    def read_pages(self, block_ids):
        """Pages of one layer, of the size of a block."""
        return [self.pages[block_id].copy() for block_id in block_ids]

    def write_pages(self, block_ids, pages):
        """Put pages into blocks."""
        self.pages[block_ids] = pages

    def block_tables(self):
        """The one table."""
        return [self.block_table]

    def close(self):
        """Nothing is held."""

    def run(self, inputs: StepInputs) -> np.ndarray:
        """Write the tokens, then answer each wanted one from what its row holds."""
        logits = np.zeros((len(inputs.logit_indices), VOCAB), np.float32)
        for place, context in enumerate(self._contexts(inputs)):
            logits[place, next_token(context)] = 1.0
        return logits

    def run_hidden(self, inputs: StepInputs) -> np.ndarray:
        """The same, with a state for each wanted token."""
        return np.array([hidden_state(context) for context in self._contexts(inputs)], np.float32)

    def _contexts(self, inputs: StepInputs) -> list[np.ndarray]:
        self.steps.append(inputs)
        self.block_table[inputs.table_indices[:, 0], inputs.table_indices[:, 1]] = inputs.table_values
        if self.poison is not None and self.poison in inputs.input_ids:
            raise StepError(f"token {self.poison} is poison")
        size = self.pages.shape[1]
        blocks = self.block_table[inputs.rows, inputs.positions // size]
        if (blocks == 0).any():
            raise AssertionError("a token would be written to the null block")
        self.pages[blocks, inputs.positions % size] = inputs.input_ids
        contexts = []
        for token in inputs.logit_indices:
            context = self.pages[self.block_table[inputs.rows[token]]].reshape(-1)[: inputs.positions[token] + 1]
            context = context[-self.window :]
            if (context == UNWRITTEN).any():
                raise AssertionError("an unwritten slot is read")
            contexts.append(context)
        return contexts


def make_engine(
    num_blocks=64,
    block_size=4,
    max_num_seqs=8,
    max_num_batched_tokens=16,
    max_model_len=40,
    poison=None,
    eos_token_ids=(),
    tokenizer=None,
    enable_prefix_caching=True,
    enable_chunked_prefill=True,
    host_tier=None,
    capacity=None,
    trigger=None,
    swap_cost=None,
    response_cache=None,
    event_log=None,
    window=0,
    embedding_size=HIDDEN,
    lora=None,
    **scheduling,
) -> LLMEngine:
    """An engine over an OracleRunner; `scheduling` goes to the Scheduler."""
    table = BlockTable(max_num_seqs, -(-max_model_len // block_size))
    cache = CacheManager(BlockPool(num_blocks), table, block_size, enable_prefix_caching, host_tier, capacity, window)
    scheduler = Scheduler(
        cache, max_num_batched_tokens, enable_chunked_prefill, max_model_len=max_model_len, **scheduling
    )
    runner = OracleRunner(num_blocks, block_size, table.block_tables.shape, poison, window)
    return LLMEngine(
        scheduler,
        runner,
        tokenizer,
        ModelLimits(VOCAB, max_model_len, eos_token_ids, embedding_size, max_num_seqs=max_num_seqs),
        mover=PageMover(scheduler, runner, host_tier, trigger, swap_cost),
        response_cache=response_cache,
        event_log=event_log,
        lora=lora,
        debug=True,
    )


def run_to_end(engine: LLMEngine, check: bool = True) -> SimpleNamespace:
    """Step until nothing is left; answers by request id, and every update, with integrity checked after each step."""
    result = SimpleNamespace(answers={}, updates=[])
    for _ in range(10_000):
        if not engine.has_unfinished:
            return result
        output = engine.step()
        result.answers.update((answer.request_id, answer) for answer in output.finished)
        result.updates += output.updates
        if check:
            engine.check_integrity()
    raise AssertionError("requests are left after 10,000 steps")
