"""From token ids to text, a token at a time: only text that no later token can change is given out."""

from collections.abc import Mapping, Sequence
from typing import Protocol

REPLACEMENT = "\ufffd"
"""What decoding puts in place of bytes that are not UTF-8, or not yet."""

LONGEST_CHARACTER = 4
"""Bytes in a UTF-8 character at most, so also the tokens that one can be split over."""

PROMPT_CONTEXT = 8
"""Tokens of the prompt that the first generated ones are decoded with."""

PROMPT_REACH = 64
"""Tokens at the end of a prompt among which these are looked for, where the last ones are special or bad bytes."""


class Decoder(Protocol):
    """The part of `tokenizers.Tokenizer` that turns ids back into text."""

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """The text of `ids`, with REPLACEMENT for what is not UTF-8."""


class IncrementalDetokenizer:
    """The text of one sequence as it grows: what `append` and `finish` return adds up to `text`.

    After `finish` this is the text that decoding all generated tokens at once gives, cut before the first stop string.
    It differs in two cases, both on purpose. Where the tokenizer strips a space at the start of a text, the space is
    kept behind a prompt. Where one bad byte spoils the whole run of byte tokens around it, characters already given
    out are not taken back.

    The work for one token does not grow with the sequence. The object must survive a preemption of its sequence.

    tokenizer: None for a sequence without text; `text` stays empty and no stop string is ever found.
    stop: the text ends before the first of these to be complete, however the tokens split it; of several that end on
        the same character, before the longest.
    prompt_token_ids: the prompt that the generated tokens follow.
    skip_special_tokens: special tokens have no text.
    include_stop: the text ends behind the stop string, not before it.
    min_tokens: no stop string is looked for in the text of so many tokens.
    joined_tokens: the text of one of these directly behind another is what this says, without what the decoder puts
        between them (vLLM's spaces_between_special_tokens: false); None for none. Where special tokens have no text
        these have none either.
    """

    def __init__(
        self,
        tokenizer: Decoder | None,
        stop: Sequence[str] = (),
        prompt_token_ids: Sequence[int] = (),
        skip_special_tokens: bool = True,
        include_stop: bool = False,
        min_tokens: int = 0,
        joined_tokens: Mapping[int, str] | None = None,
    ):
        self._num_passed_on = -min_tokens  # tokens, from the one on of which stop strings are looked for
        joined = {} if skip_special_tokens else joined_tokens or {}
        self._stream = None
        if tokenizer is not None:
            self._stream = _TokenStream(tokenizer, prompt_token_ids, skip_special_tokens, joined)
        self._scanner = _StopScanner(stop, include_stop)
        self._given_out: list[str] = []

    @property
    def text(self) -> str:
        """Everything given out so far."""
        return "".join(self._given_out)

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended the text, or None."""
        return self._scanner.found

    def append(self, token_id: int) -> str:
        """Take one generated token; returns the text that is now safe to show. After a stop string there is none."""
        if self._stream is None or self.stopped_by is not None:
            return ""
        text = self._stream.append(token_id)
        self._num_passed_on += 1
        return self._give_out(text if self._num_passed_on <= 0 else self._scanner.feed(text))

    def finish(self) -> str:
        """Return what was held back, as no more tokens come; an incomplete character becomes U+FFFD.

        What is held back may complete a stop string: look at `stopped_by` afterwards.
        """
        if self._stream is None or self.stopped_by is not None:
            return ""
        return self._give_out(self._scanner.feed(self._stream.flush()) + self._scanner.flush())

    def _give_out(self, text: str) -> str:
        self._given_out.append(text)
        return text


class _TokenStream:
    """Decodes tokens as soon as they end on a complete character.

    tokens:   ... older | context | pending | not yet generated
    given out: --------------------|

    Pending tokens are decoded behind their context, as the text of a token may depend on the one before it, most often
    in whether it starts with a space. `tokenizers.decoders.DecodeStream` does the same, but raises an exception on
    bad runs of byte tokens and cannot give out an incomplete end.
    """

    def __init__(
        self,
        tokenizer: Decoder,
        prompt_token_ids: Sequence[int],
        skip_special_tokens: bool,
        joined_tokens: Mapping[int, str],
    ):
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._joined_tokens = joined_tokens
        self._is_behind_joined = False
        self._pending: list[int] = []
        self._context, self._context_text = self._end_of(prompt_token_ids)

    def append(self, token_id: int) -> str:
        is_joined = token_id in self._joined_tokens
        if is_joined and self._is_behind_joined:
            before = self.flush() if self._pending else ""
            self._context, self._context_text = [token_id], self._decode([token_id])
            return before + self._joined_tokens[token_id]
        self._is_behind_joined = is_joined
        self._pending.append(token_id)
        # Only the end is looked at: a long run of bad bytes would otherwise cost the square of its length. It is empty
        # when the tokens are special ones, or a space that is stripped when it stands alone.
        end = self._decode(self._pending[-LONGEST_CHARACTER:])
        if not end or end.endswith(REPLACEMENT):
            return ""
        return self._behind_context(end) if len(self._pending) <= LONGEST_CHARACTER else self.flush()

    def flush(self) -> str:
        return self._behind_context(self._decode(self._pending))

    def _end_of(self, prompt: Sequence[int]) -> tuple[list[int], str]:
        """Tokens near the end of the prompt that are whole characters, with their text; none if there are none.

        A character that the prompt breaks off is left out: generated bytes must not complete it out of sight. A window
        that begins inside of one is moved: of byte tokens a decoder spoils the whole run for its sake.
        """
        for end in range(len(prompt), max(0, len(prompt) - PROMPT_REACH), -1):
            for start in range(end - PROMPT_CONTEXT, end - PROMPT_CONTEXT - LONGEST_CHARACTER, -1):
                tokens = list(prompt[max(0, start) : end])
                text = self._decode(tokens)
                if text and not text.endswith(REPLACEMENT):
                    return tokens, text
                if start <= 0 or not text.startswith(REPLACEMENT):
                    break
        last = list(prompt[-PROMPT_CONTEXT:])
        return ([], "") if self._decode(last) else (last, "")  # a space alone may be no text, but it is a beginning

    def _behind_context(self, alone: str) -> str:
        """What the pending tokens add; alone: their text without their context."""
        together = self._decode(self._context + self._pending)
        behind_context = together.startswith(self._context_text)
        text = together[len(self._context_text) :] if behind_context else alone
        self._context, self._context_text, self._pending = self._pending, alone, []
        return text

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=self._skip_special_tokens)


class _StopScanner:
    """Lets text pass until a stop string is complete, and holds back what may be the beginning of one.

    passes_it_on: the stop string itself, too.
    """

    def __init__(self, stop: Sequence[str], passes_it_on: bool):
        self.found: str | None = None
        self._stop = stop
        self._passes_it_on = passes_it_on
        self._held = ""

    def feed(self, text: str) -> str:
        self._held += text
        matches = [(self._held.find(stop), stop) for stop in self._stop if stop in self._held]
        if matches:
            start, self.found = min(matches, key=lambda match: (match[0] + len(match[1]), match[0]))
            end = start + len(self.found) if self._passes_it_on else start
            text, self._held = self._held[:end], ""
            return text
        return self._pass_on(len(self._held) - self._length_of_possible_beginning())

    def flush(self) -> str:
        return self._pass_on(len(self._held))

    def _pass_on(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        return text

    def _length_of_possible_beginning(self) -> int:
        return max(map(self._length_of_beginning_of, self._stop), default=0)

    def _length_of_beginning_of(self, stop: str) -> int:
        longest = min(len(stop) - 1, len(self._held))
        return next((length for length in range(longest, 0, -1) if self._held.endswith(stop[:length])), 0)
