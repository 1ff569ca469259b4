"""Prompts of which the last tokens are taken: truncate_prompt_tokens."""

from mindspore_paged.engine.requests.request_check import ModelLimits
from mindspore_paged.errors import RequestError
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.tokenizer import Tokenizer
from mindspore_paged.wording import shortened


def most_prompt_tokens(params: SamplingParams, limits: ModelLimits) -> int:
    """How many tokens a prompt may keep; raises RequestError where that is none, or more than the model takes.

    params: with a truncate_prompt_tokens, of which -1 leaves room for max_tokens.
    """
    most = params.truncate_prompt_tokens
    if most > limits.max_model_len:
        raise RequestError(
            f"truncate_prompt_tokens is {shortened(most)}; it must be at most max_model_len ({limits.max_model_len})"
        )
    if most == -1:
        most = limits.max_model_len - (params.max_tokens or 1)
        if most < 1:
            raise RequestError(
                f"truncate_prompt_tokens is -1, but max_tokens {shortened(params.max_tokens)} leaves no room for a "
                f"prompt; max_model_len is {limits.max_model_len}"
            )
    return most


def cut_prompt(
    prompt: str | None, token_ids: list[int], most: int, tokenizer: Tokenizer | None
) -> tuple[str | None, list[int]]:
    """A prompt's text and tokens, or what is left of them where there are more than `most` tokens.

    Of a text the special tokens that its tokenizer puts around it are kept, as in Hugging Face transformers with
    truncation_side `left`; a chat's and token ids are cut as they are. prompt: None where it was no text.
    Raises RequestError where nothing but special tokens would be left.
    """
    if len(token_ids) <= most:
        return prompt, token_ids
    if prompt is None:
        return None, token_ids[-most:]
    token_ids = tokenizer.encode_end(prompt, most)
    return tokenizer.decode(token_ids), token_ids
