"""An engine with a draft model, both devices of a few lines: the draft model guesses right as often as it is told.

It reads the text out of pages of its own: a wrong block or a rejected draft makes it guess wrong, a slot that it never
wrote makes it fail. So its pages are proven right, where every answer would be right without them.
"""

from zlib import crc32

import numpy as np

from mindspore_paged.engine.execution.draft_model import DraftModel
from mindspore_paged.engine.execution.draft_pages import DraftPages
from mindspore_paged.engine.execution.runner_with_draft import RunnerWithDraft
from mindspore_paged.engine.scheduling.speculation import Speculation
from mindspore_paged.errors import StepError
from tests.engine.paged_oracle import VOCAB, OracleRunner, make_engine, next_token


class DraftRunner(OracleRunner):
    """Guesses what the model says of the same text, of `quality` of the texts; logits of `own_vocab_size` tokens."""

    def __init__(self, runner: OracleRunner, quality: float, own_vocab_size: int):
        super().__init__(*runner.pages.shape, runner.block_table.shape, window=runner.window)
        self.block_table = runner.block_table
        self.quality = quality
        self.own_vocab_size = own_vocab_size
        self.num_logits = 0
        self.failures = iter(())

    def run(self, inputs):
        """As the model does, with another token where the guess is wrong."""
        if next(self.failures, False):
            raise StepError("the draft model's device fails")
        assert len(inputs.input_ids) <= self.max_num_tokens
        assert inputs.input_ids.max() < self.own_vocab_size
        logits = np.zeros((len(inputs.logit_indices), self.own_vocab_size), np.float32)
        for place, context in enumerate(self._contexts(inputs)):
            is_right = crc32(b"draft" + context.tobytes()) % 1000 < 1000 * self.quality
            logits[place, (next_token(context) + (not is_right)) % self.own_vocab_size] = 1.0
        return logits


def make_drafting_engine(
    quality=1.0,
    num_speculative_tokens=3,
    draft_length=None,
    speculation=Speculation,
    own_vocab_size=VOCAB,
    max_num_batched_tokens=16,
    **options,
):
    """An engine of paged_oracle with a DraftModel, whose pages are those of `engine.runner.draft`."""
    engine = make_engine(
        speculation=speculation(None, num_speculative_tokens, draft_length),
        max_num_batched_tokens=max_num_batched_tokens,
        **options,
    )
    runner, cache = engine.runner, engine.scheduler.cache
    draft, pages = DraftRunner(runner, quality, own_vocab_size), DraftPages(*runner.pages.shape)
    draft.max_num_tokens = max_num_batched_tokens
    engine.runner = engine.mover.runner = RunnerWithDraft(runner, draft, pages)
    engine.draft_model = DraftModel(draft, pages, cache, VOCAB, own_vocab_size, max_num_batched_tokens, draft_length)
    return engine


def check_draft_pages(engine) -> None:
    """What the draft model is said to have computed of each row is what it has there: the row's tokens."""
    draft, pages, cache = engine.runner.draft, engine.runner.pages, engine.scheduler.cache
    size = cache.block_size
    for sequence in engine.scheduler.running:
        blocks, origin = cache.table.blocks(sequence.row), cache.table.first(sequence.row) * size
        count = min(pages.num_computed(blocks), sequence.num_computed_tokens - origin)
        written = draft.pages[blocks].reshape(-1)[:count]
        assert written.tolist() == sequence.token_ids[origin : origin + count]
