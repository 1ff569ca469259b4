"""Log-probabilities in OpenAI's two forms."""

from collections.abc import Sequence

from mindspore_paged.sampling.sampler import SampledToken
from mindspore_paged.serving.schemas.chat import ChatLogprobs, TokenLogprob, TopLogprob
from mindspore_paged.serving.schemas.completions import CompletionLogprobs
from mindspore_paged.serving.token_texts import TokenTexts

LOWEST = -9999.0
"""What OpenAI tells of a token that cannot come: JSON has no infinity."""


def chat_logprobs(tokens: Sequence[SampledToken] | None, texts: TokenTexts) -> ChatLogprobs | None:
    """Those of a chat's answer or of a piece of it; None where none were asked for."""
    if tokens is None:
        return None
    return ChatLogprobs(
        content=[
            TokenLogprob(
                **_told(token.token_id, token.logprob, texts),
                top_logprobs=[TopLogprob(**_told(*top, texts)) for top in token.top_logprobs or ()],
            )
            for token in tokens
        ]
    )


def completion_logprobs(
    tokens: Sequence[SampledToken] | None, texts: TokenTexts, offset: int, first: int | None = None
) -> CompletionLogprobs | None:
    """Those of a completion or of a piece of it, which begins `offset` characters after the text; None for none.

    first: the token before all of them, of which nothing is known as none stands before it; None where there is none.
    """
    if tokens is None:
        return None
    ids, known = [token.token_id for token in tokens], [_finite(token.logprob) for token in tokens]
    top = [_top_by_text(token, texts) for token in tokens]
    if first is not None:
        ids, known, top = [first, *ids], [None, *known], [None, *top]
    offsets = []
    for token_id in ids:
        offsets.append(offset)
        offset += len(texts.of(token_id)[0])
    return CompletionLogprobs(
        tokens=[texts.unique(token_id) for token_id in ids],
        token_logprobs=known,
        top_logprobs=top,
        text_offset=offsets,
    )


def _top_by_text(token: SampledToken, texts: TokenTexts) -> dict[str, float]:
    top = {texts.unique(token_id): _finite(logprob) for token_id, logprob in token.top_logprobs or ()}
    return top | {texts.unique(token.token_id): _finite(token.logprob)}  # OpenAI's have the chosen one always


def _told(token_id: int, logprob: float, texts: TokenTexts) -> dict:
    text, data = texts.of(token_id)
    return {"token": text, "logprob": _finite(logprob), "bytes": list(data)}


def _finite(logprob: float) -> float:
    return max(logprob, LOWEST)
