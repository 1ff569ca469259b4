"""YAML as this package reads it: safe, no key twice in a mapping, and 1e-5 is a number."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from mindspore_paged.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a repeated key, which YAML forbids and PyYAML answers with the last value."""

    def construct_mapping(self, node, deep=False):
        first_lines = {}
        for key_node, _ in node.value:
            # A merge key (<<) is no key of its own: what it brings in may be overridden on purpose.
            key = None if key_node.tag == "tag:yaml.org,2002:merge" else self.construct_object(key_node, deep)
            if key is None or not isinstance(key, Hashable):
                continue
            line = key_node.start_mark.line + 1
            if key in first_lines:
                problem = f"the key {key!r} stands twice, first on line {first_lines[key]}"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            first_lines[key] = line
        return super().construct_mapping(node, deep)


# YAML 1.2 and JSON read 1e-5 as a number; PyYAML follows YAML 1.1 and wants 1.0e-5.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+|\d+\.\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_mapping(path: Path) -> dict:
    """The mapping that the YAML file at `path` holds; raises ConfigError (file, line) for anything else."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a YAML file: it is not UTF-8 text") from None
    data = _load(text, str(path))
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of sections, not {type(data).__name__}")
    return data


def parse_value(text: str, origin: str) -> Any:
    """The value that `text` has in YAML; raises ConfigError, which begins with `origin`."""
    return _load(text, origin)


def _load(text: str, origin: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}:" if error.problem_mark else ""
        raise ConfigError(f"{origin}:{line} not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-99-99
        raise ConfigError(f"{origin}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{origin}: not valid YAML: nested too deeply") from None
