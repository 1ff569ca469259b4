"""What the tokenizer_config.json of a Hugging Face folder may say, and the chat templates beside it."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool, StrictStr

from mindspore_paged.formats.hf_files import HfModel, checked, read_json_object_if_there, read_text

CONFIG = "tokenizer_config.json"
TEMPLATE_FILE, TEMPLATE_FOLDER = "chat_template.jinja", "additional_chat_templates"
DEFAULT_TEMPLATE = "default"
MOST_TEMPLATE_BYTES = 2**20
MOST_TEMPLATES = 64


class AddedToken(HfModel):
    """A token's text and how it is found in a text."""

    content: StrictStr
    single_word: StrictBool = False
    lstrip: StrictBool = False
    rstrip: StrictBool = False
    normalized: StrictBool = True
    special: StrictBool = False


class _NamedTemplate(HfModel):
    name: StrictStr
    template: StrictStr


def _templates(value: Any) -> Any:
    if isinstance(value, str):
        return {DEFAULT_TEMPLATE: value}
    if isinstance(value, list):
        return {named.name: named.template for named in map(_NamedTemplate.model_validate, value)}
    return value


def _by_name(value: Any) -> Any:
    # transformers 5 writes a list where 4 has names to texts; both mean tokens that are special.
    return dict(enumerate(value)) if isinstance(value, list) else value


Token = StrictStr | AddedToken
Index = Annotated[int, Field(ge=0, lt=2**31)]


class SpecialTokens(HfModel):
    """What special_tokens_map.json says, and tokenizer_config.json too."""

    bos_token: Token | None = None
    eos_token: Token | None = None
    unk_token: Token | None = None
    pad_token: Token | None = None
    sep_token: Token | None = None
    cls_token: Token | None = None
    mask_token: Token | None = None
    additional_special_tokens: tuple[Token, ...] = ()

    def for_transformers(self) -> dict[str, Any]:
        """The JSON object that transformers is given."""
        return {key: _as_json(getattr(self, key)) for key in self.model_fields_set}


class AddedTokens(HfModel):
    """What added_tokens.json says: the ids of tokens that a vocabulary was given later."""

    by_text: dict[StrictStr, Index]


class TokenizerConfig(SpecialTokens):
    """The keys that LLaMA's tokenizers read; whatever else the file holds is not looked at.

    Among the others are names of files and of code, and positional arguments of classes: a folder does not say which
    files are read.
    """

    tokenizer_class: StrictStr | None = None
    extra_special_tokens: Annotated[dict[str | int, Token], BeforeValidator(_by_name)] = Field(default_factory=dict)
    added_tokens_decoder: dict[Index, AddedToken] | None = None
    add_bos_token: StrictBool | None = None
    add_eos_token: StrictBool | None = None
    add_prefix_space: StrictBool | None = None
    from_slow: StrictBool | None = None
    legacy: StrictBool | None = None
    split_special_tokens: StrictBool | None = None
    # Of CodeLlama.
    prefix_token: Token | None = None
    middle_token: Token | None = None
    suffix_token: Token | None = None
    eot_token: Token | None = None
    fill_token: Token | None = None
    suffix_first: StrictBool | None = None
    chat_template: Annotated[
        dict[StrictStr, StrictStr], BeforeValidator(_templates), Field(max_length=MOST_TEMPLATES)
    ] = Field(default_factory=dict)

    def for_transformers(self) -> dict[str, Any]:
        """The JSON object that transformers is given: tokens keep their own flags, templates are left out."""
        values = super().for_transformers()
        values.pop("chat_template", None)
        extra = values.pop("extra_special_tokens", {})
        if extra:
            values["additional_special_tokens"] = [*values.get("additional_special_tokens", ()), *extra.values()]
        return {key: value if key == "added_tokens_decoder" else _typed(value) for key, value in values.items()}


def read_tokenizer_config(folder: Path) -> TokenizerConfig:
    """The tokenizer_config.json of a folder, or all defaults where it has none; raises CheckpointError."""
    path = folder / CONFIG
    return checked(path, TokenizerConfig, read_json_object_if_there(path))


def read_chat_templates(folder: Path, config: TokenizerConfig) -> dict[str, str]:
    """The Jinja texts by name: those of files if there are any, or else those of tokenizer_config.json."""
    single = folder / TEMPLATE_FILE
    texts = {DEFAULT_TEMPLATE: read_text(single, MOST_TEMPLATE_BYTES)} if single.is_file() else {}
    for path in sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))[:MOST_TEMPLATES]:
        texts[path.stem] = read_text(path, MOST_TEMPLATE_BYTES)
    return texts or config.chat_template


def _as_json(value: Any) -> Any:
    if isinstance(value, AddedToken):
        return value.model_dump(exclude_unset=True)
    if isinstance(value, dict):
        return {str(key): _as_json(each) for key, each in value.items()}
    return [_as_json(each) for each in value] if isinstance(value, list | tuple) else value


def _typed(value: Any) -> Any:
    """With the mark by which transformers knows tokens in tokenizer_config.json."""
    if isinstance(value, list):
        return [_typed(each) for each in value]
    return {"__type": "AddedToken", **value} if isinstance(value, dict) else value
