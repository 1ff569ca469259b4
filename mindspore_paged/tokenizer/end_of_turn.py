"""The tokens that end an answer: those that a model's files name, and those known by their text."""

from collections.abc import Iterable

from tokenizers import Tokenizer as Backend

END_TEXTS = frozenset(
    {
        "<|eot_id|>",  # Llama 3
        "<|eom_id|>",  # Llama 3, where a tool is to be called
        "<|im_end|>",  # ChatML: Qwen, SmolLM2, many others
        "<|end|>",  # Phi 3
        "<end_of_turn>",  # Gemma
        "<eos>",
        "<turn|>",
        "<|tool_response>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",  # DeepSeek
        "<end_of_utterance>",
        "<EOT>",  # CodeLlama
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "[e~[",
        "<|return|>",
        "<|call|>",
        "<|calls|>",
        "<|flush|>",
        # Models of code, between two files: what is padded, and what begins the next file or repository.
        "<|fim_pad|>",
        "<fim-pad>",
        "<fim_pad>",
        "<PAD>",
        "[PAD]",
        "<|fim_repo|>",
        "<fim-repo>",
        "<|repo_name|>",
        "<reponame>",
        "<REPO>",
        "<|file_sep|>",
    }
)
"""Texts that no vocabulary has for another purpose; as llama.cpp knows them (special_eog_ids in llama-vocab.cpp)."""

SENTENCE_END = "</s>"
"""An end too, but only as a control token: it is also what a word of HTML may look like."""

MESSAGE_END = "<|end|>"
_TURN_ENDS_OF_MESSAGES = ({"<|return|>", "<|call|>"}, {"<|calls|>", "<|flush|>"})
# Where a vocabulary has either pair, a turn is made of several messages and MESSAGE_END ends one of them.


def end_token_ids(backend: Backend, stated: Iterable[int | None]) -> tuple[int, ...]:
    """The tokens that end an answer: the stated ones in their order, then those that the tokenizer has by text.

    backend: control tokens are looked for among its added tokens.
    stated: what the model's files name as ends (of a sequence, a turn, a message); None and repeats are left out.
    """
    added = backend.get_added_tokens_decoder()
    known = {token.content: index for index, token in added.items() if _is_end(token.content, token.special)}
    if any(pair <= known.keys() for pair in _TURN_ENDS_OF_MESSAGES):
        known.pop(MESSAGE_END, None)
    return tuple(dict.fromkeys(index for index in (*stated, *sorted(known.values())) if index is not None))


def _is_end(text: str, is_control: bool) -> bool:
    return text in END_TEXTS or (text == SENTENCE_END and is_control)
