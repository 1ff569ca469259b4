"""Beam search in a few lines, from whole rows of log-probabilities: what transformers 4.57 does, without tensors.

Independent of the package. It sorts all continuations of all beams, and knows nothing of pages, forks or candidates.
"""

from collections.abc import Callable, Collection


def beam_search(
    logprobs: Callable[[list[int]], list[float]],
    width: int,
    max_length: int,
    eos: Collection[int] = (),
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
) -> list[tuple[list[int], float]]:
    """The answers with their sums of log-probabilities, best first.

    logprobs: those of every token of the vocabulary behind an answer so far.
    """
    eos = frozenset(eos)

    def score(answer):
        return answer[1] / len(answer[0]) ** length_penalty

    running, finished = [([], 0.0)], []
    for length in range(1, max_length + 1):
        every = [
            ([*tokens, token], total + float(logprob))
            for tokens, total in running
            for token, logprob in enumerate(logprobs(tokens))
        ]
        every.sort(key=lambda answer: -answer[1])  # stable: by beam, then by token, among equals
        looked_at = every[: max(2, 1 + len(eos)) * width]
        has_ended = [length == max_length or tokens[-1] in eos for tokens, _ in looked_at]
        finished += [answer for answer, ended in zip(looked_at[:width], has_ended) if ended]
        finished = sorted(finished, key=score, reverse=True)[:width]
        running = [answer for answer, ended in zip(looked_at, has_ended) if not ended][:width]
        if not running:
            break
        if len(finished) == width:
            best_length = max_length if early_stopping == "never" and length_penalty > 0 else length
            if early_stopping is True or running[0][1] / best_length**length_penalty <= score(finished[-1]):
                break
    return finished
