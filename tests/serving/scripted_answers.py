"""Answers that a test gives, in place of those of a model: they come token by token, as sampled."""

from mindspore_paged.sampling.sampler import SampledToken

END = 1


class ScriptedAnswers:
    """Stands for a sampler: each sequence says the next of `answers`, and ends."""

    def __init__(self, tokenizer, answers):
        self._answers = [[*tokenizer.encode(text, add_special_tokens=False), END] for text in answers]
        self._under_way = {}

    def sample(self, logits, states):
        """As `Sampler.sample`; logits are not looked at."""
        return [self._next_of(state) for state in states]

    def _next_of(self, state):
        if state not in self._under_way:
            self._under_way[state] = iter(self._answers.pop(0))
        return SampledToken(next(self._under_way[state]), -0.5, [])
