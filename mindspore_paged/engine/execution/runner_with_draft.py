"""The runner of a model that has a draft model beside it: what happens to blocks happens to both."""

import numpy as np

from mindspore_paged.engine.execution.draft_pages import DraftPages
from mindspore_paged.engine.execution.runner import Runner
from mindspore_paged.errors import StepError
from mindspore_paged.step_inputs import StepInputs


class RunnerWithDraft:
    """Runs steps of `runner`; pages that are copied are copied for `draft` too, and those that come in forgotten.

    Pages go out without the draft model's part: tiers, files and other engines hold the model's own. pages: what the
    draft model has computed of the pool's blocks.
    """

    num_ranks = 1

    def __init__(self, runner: Runner, draft: Runner, pages: DraftPages):
        self.runner = runner
        self.draft = draft
        self.pages = pages

    @property
    def token_buckets(self) -> tuple[int, ...]:
        """Of the model's graphs; the draft model has the same."""
        return self.runner.token_buckets

    @property
    def weight_bytes(self) -> int:
        """Of both models."""
        return self.runner.weight_bytes + self.draft.weight_bytes

    @property
    def kv_cache_bytes(self) -> int:
        """Of both models' pages."""
        return self.runner.kv_cache_bytes + self.draft.kv_cache_bytes

    @property
    def num_compiles(self) -> int:
        """Graphs of both models."""
        return self.runner.num_compiles + self.draft.num_compiles

    @property
    def compiles_after_warmup(self) -> int:
        """Graphs of both models that were compiled since they were ready."""
        return self.runner.compiles_after_warmup + self.draft.compiles_after_warmup

    def run(self, inputs: StepInputs) -> np.ndarray:
        """A step of the model."""
        return self.runner.run(inputs)

    def run_hidden(self, inputs: StepInputs) -> np.ndarray:
        """A step of the model without its head."""
        return self.runner.run_hidden(inputs)

    def copy_blocks(self, pairs: list[tuple[int, int]]) -> None:
        """Copy pages of both models; raises StepError if the model's own cannot be."""
        self.runner.copy_blocks(pairs)
        try:
            self.draft.copy_blocks(pairs)
        except StepError:  # it computes them again
            self.pages.forget([destination for _, destination in pairs])
        else:
            self.pages.copy(pairs)

    def read_pages(self, block_ids: list[int]) -> list[np.ndarray]:
        """The model's pages."""
        return self.runner.read_pages(block_ids)

    def write_pages(self, block_ids: list[int], pages: list[np.ndarray]) -> None:
        """Write the model's pages; the draft model computes its own."""
        self.pages.forget(block_ids)
        self.runner.write_pages(block_ids, pages)

    def block_tables(self) -> list[np.ndarray]:
        """The block_table that both models have."""
        return self.runner.block_tables()

    def close(self) -> None:
        """Let go of whatever either holds."""
        self.draft.close()
        self.runner.close()
