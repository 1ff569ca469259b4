"""Text to token ids and back, with the chat template of the model."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

from mindspore_paged.errors import CheckpointError, RequestError
from mindspore_paged.files import write_text
from mindspore_paged.formats.gguf_file import GgufFile, is_gguf
from mindspore_paged.formats.hf_files import HfModel, checked, generation_eos_token_ids, read_json_object
from mindspore_paged.tokenizer.chat_template import ChatTemplate
from mindspore_paged.tokenizer.end_of_turn import end_token_ids
from mindspore_paged.tokenizer.gguf_vocabulary import gguf_backend, gguf_sequence_ends
from mindspore_paged.tokenizer.hf_folder import (
    SENTENCEPIECE,
    TOKENIZER,
    has_hf_tokenizer,
    read_backend,
    read_hf_tokenizer,
)
from mindspore_paged.wording import one_line

SAVED = "saved_tokenizer.json"
"""Beside tokenizer.json in a folder that `Tokenizer.save` wrote: what else is to be known, so that no one asks more."""

_GGUF_TEMPLATES = {"default": "tokenizer.chat_template", "tool_use": "tokenizer.chat_template.tool_use"}


class _Saved(HfModel):
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    special_tokens: dict[str, str | list[str]] = Field(default_factory=dict)
    chat_template: str | dict[str, str] | None = None
    bos_before_chats: bool = False


class Tokenizer:
    """A model's tokenizer.

    backend: the `tokenizers.Tokenizer` beneath, for `tokenizers.decoders.DecodeStream` (text as it grows).
    bos_token_id: the token that starts a sequence, or None. eos_token_ids: those that end one, or a turn of a chat.
    bos_before_chats: a chat starts with it also where the chat template does not say so.
    """

    def __init__(
        self,
        backend: Backend,
        bos_token_id: int | None,
        eos_token_ids: tuple[int, ...],
        chat_template: ChatTemplate | None,
        bos_before_chats: bool = False,
    ):
        self.backend = backend
        self.bos_token_id = bos_token_id
        self.eos_token_ids = eos_token_ids
        self._chat_template = chat_template
        self._bos_before_chats = bos_before_chats

    @property
    def vocab_size(self) -> int:
        """The number of tokens, added ones included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @cached_property
    def longest_token(self) -> int:
        """Characters that one token stands for at most."""
        return max(map(len, self.backend.get_vocab(with_added_tokens=True)))

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Texts and ids of the tokens that stand for no text: decoding leaves them out."""
        added = self.backend.get_added_tokens_decoder()
        return {token.content: token_id for token_id, token in added.items() if token.special}

    @cached_property
    def added_tokens(self) -> dict[int, str]:
        """Ids and texts of the tokens that were added to the vocabulary as they are, special or not."""
        return {token_id: token.content for token_id, token in self.backend.get_added_tokens_decoder().items()}

    @property
    def has_chat_template(self) -> bool:
        """Whether the model can be given messages."""
        return self._chat_template is not None

    @property
    def template_with_tools(self) -> str:
        """The text of the chat template for chats with tools; empty where there is none."""
        return self._chat_template.text_with_tools if self._chat_template is not None else ""

    def save(self, folder: Path) -> None:
        """Write files to `folder` from which `load_tokenizer` makes this tokenizer again."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / TOKENIZER, self.backend.to_str(pretty=True))
        template = self._chat_template
        facts = _Saved(
            bos_token_id=self.bos_token_id,
            eos_token_ids=self.eos_token_ids,
            special_tokens=template.special_tokens if template else {},
            chat_template=template.source if template else None,
            bos_before_chats=self._bos_before_chats,
        )
        write_text(folder / SAVED, facts.model_dump_json(indent=1))

    def encode(self, text: str, add_special_tokens: bool = True, most_tokens: int | None = None) -> list[int]:
        """The token ids of a raw prompt; BOS and EOS are added only where the model's own files say so.

        Special tokens that are spelled out in `text` become those tokens, as in Hugging Face transformers.
        add_special_tokens: false adds neither of them in any case.
        most_tokens: a text that cannot have so few is refused before it is encoded; None encodes any.
        """
        return self._encode(text, add_special_tokens, most_tokens)

    def encode_end(self, text: str, count: int) -> list[int]:
        """As `encode`, of a text with more than `count` tokens: BOS and EOS where they belong, between them its end.

        Raises RequestError where `count` has no room for a token of the text.
        """
        num_added = self.backend.num_special_tokens_to_add(is_pair=False)
        if count <= num_added:
            raise RequestError(f"{count} tokens hold nothing of the prompt: {num_added} special tokens are around it")
        (encoding,) = self.backend.encode_batch([text], add_special_tokens=False)
        encoding.truncate(count - num_added, direction="left")
        return self.backend.post_process(encoding).ids

    def encode_chat(
        self,
        messages: Sequence[dict[str, Any]],
        add_generation_prompt: bool | None = None,
        *,
        most_tokens: int | None = None,
        **options: Any,
    ) -> list[int]:
        """The token ids of a chat, with one BOS: the template's, or one before it where the model's file asks for it.

        add_generation_prompt, options (tools, continue_final_message, chat_template_kwargs): see `ChatTemplate.render`.
        most_tokens: as for `encode`.
        """
        text = self.apply_chat_template(messages, add_generation_prompt, **options)
        token_ids = self._encode(text, False, most_tokens)
        lacks_bos = self._bos_before_chats and token_ids[:1] != [self.bos_token_id]
        return [self.bos_token_id, *token_ids] if lacks_bos else token_ids

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        return self.backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def _encode(self, text: str, add_special_tokens: bool, most_tokens: int | None) -> list[int]:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            # Half a surrogate pair, from JSON or from an argument that was not UTF-8.
            raise RequestError(f"the prompt is not Unicode text: {text[error.start]!r} at {error.start}") from None
        if most_tokens is not None and len(text) > most_tokens and len(text) > most_tokens * self.longest_token:
            raise RequestError(
                f"the prompt has {len(text)} characters, which no {most_tokens} tokens hold; max_model_len is "
                f"{most_tokens}"
            )
        try:
            # A batch of one: only for batches does tokenizers let other threads of Python run meanwhile.
            return self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - tokenizers raises anything; a panic in Rust is no Exception
            raise RequestError(f"the model's tokenizer cannot encode the prompt: {one_line(error)}") from None

    def apply_chat_template(
        self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool | None = None, **options: Any
    ) -> str:
        """The prompt that the model's chat template makes of `messages`, which are as OpenAI's API writes them.

        add_generation_prompt, options (tools, continue_final_message, chat_template_kwargs): see `ChatTemplate.render`.
        Raises RequestError where the model has no chat template, or where the template refuses the messages.
        """
        if self._chat_template is None:
            raise RequestError("messages: this model has no chat template; give it a prompt instead")
        return self._chat_template.render(messages, add_generation_prompt, **options)


def load_tokenizer(source: str | Path | GgufFile | None) -> Tokenizer | None:
    """The tokenizer of a GGUF file or a Hugging Face folder, or None where `source` carries none.

    source: a path, or the `tokenizer_source` of an open checkpoint, which saves parsing a GGUF file twice.
    Raises CheckpointError for a tokenizer that is damaged or of an unsupported kind.
    """
    if isinstance(source, GgufFile):
        return _from_gguf(source)
    if source is None:
        return None
    path = Path(source).expanduser()
    if is_gguf(path):
        return _from_gguf(GgufFile(path))
    folder = path.parent if path.name in (TOKENIZER, SENTENCEPIECE) and path.is_file() else path
    if (folder / SAVED).is_file():
        return _from_saved(folder)
    return _from_folder(folder) if has_hf_tokenizer(folder) else None


def _from_gguf(file: GgufFile) -> Tokenizer | None:
    backend = gguf_backend(file)
    if backend is None:
        return None
    ends = gguf_sequence_ends(file)
    _add_sequence_ends(backend, ends)
    ids = file.special_token_ids
    special_tokens = {f"{name}_token": backend.id_to_token(ids[name]) for name in ("bos", "eos") if name in ids}
    templates = {name: file.optional(key, str) for name, key in _GGUF_TEMPLATES.items()}
    return Tokenizer(
        backend,
        bos_token_id=ids.get("bos"),
        eos_token_ids=end_token_ids(backend, file.eos_token_ids),
        chat_template=_chat_template(file.path, templates, special_tokens),
        # llama.cpp adds it to every prompt, whatever made it. transformers leaves it to the template.
        bos_before_chats="bos" in ends,
    )


def _chat_template(path: Path, by_name: dict[str, str | None], special_tokens: dict[str, Any]) -> ChatTemplate | None:
    given = {name: text for name, text in by_name.items() if text}
    try:
        return ChatTemplate(given, special_tokens) if given else None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _add_sequence_ends(backend: Backend, ends: dict[str, int]):
    """Make `backend` put the tokens `ends["bos"]` and `ends["eos"]`, where present, around what it encodes."""
    single = [*(name for name in ("bos",) if name in ends), "$A", *(name for name in ("eos",) if name in ends)]
    # Under names of our own: a token's text may be anything, also what a template means something else by.
    special_tokens = [
        {"id": name, "ids": [index], "tokens": [backend.id_to_token(index)]} for name, index in ends.items()
    ]
    backend.post_processor = TemplateProcessing(single=single, special_tokens=special_tokens)


def _from_folder(folder: Path) -> Tokenizer:
    parts = read_hf_tokenizer(folder)
    stated = (*generation_eos_token_ids(folder), parts.eos_token_id)
    return Tokenizer(
        parts.backend,
        bos_token_id=parts.bos_token_id,
        eos_token_ids=end_token_ids(parts.backend, stated),
        chat_template=_chat_template(folder, parts.templates, parts.special_tokens),
    )


def _from_saved(folder: Path) -> Tokenizer:
    path = folder / SAVED
    facts = checked(path, _Saved, read_json_object(path))
    return Tokenizer(
        read_backend(folder / TOKENIZER),
        facts.bos_token_id,
        facts.eos_token_ids,
        ChatTemplate(facts.chat_template, facts.special_tokens) if facts.chat_template else None,
        facts.bos_before_chats,
    )
