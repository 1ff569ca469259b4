"""The formats by name."""

from functools import cache
from importlib import import_module

from tests.fuzz.mutant import FileFormat

PLANTED = "planted"
"""A format whose reader has every fault there is, for tests of the fuzzer itself."""

_MODULES = {
    "gguf": "gguf_format",
    "safetensors": "safetensors_format",
    "folder": "folder_format",
    "chat_template": "template_format",
    "yaml": "yaml_format",
    "mindformers": "yaml_format",
    "ckpt": "ckpt_format",
    "page": "page_format",
    "prefix": "prefix_format",
    "event_log": "event_log_format",
    "manifest": "manifest_format",
    "prompts": "prompts_format",
    PLANTED: "planted_format",
}
FORMATS = tuple(name for name in _MODULES if name != PLANTED)


@cache
def file_format(name: str) -> FileFormat:
    """The format called `name`; what reads it is imported now."""
    module = import_module(f"tests.fuzz.{_MODULES[name]}")
    return next(each for each in module.FORMATS if each.name == name)
