"""YAML as this package reads it: the core schema of YAML 1.2, which JSON is a part of, and no more than a user writes.

PyYAML parses, but follows YAML 1.1, where `010` is 8, `on` is true and `1:20` is 80. Of that version only the merge
key `<<` is kept, as files for MindFormers may have it.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar

import yaml
from yaml.constructor import ConstructorError

from mindspore_paged.errors import ConfigError
from mindspore_paged.wording import one_line, shortened

MAX_BYTES = 2**18
"""A configuration takes a few thousand bytes."""

MAX_NODES = 10_000
"""Values of a file, each counted as often as aliases repeat it: a few lines of them can stand for 9 ** 9."""

MAX_DEPTH = 32
"""Mappings and lists within each other."""

MAX_DIGITS = 400
"""Of a number; the largest float has 309."""

_TAG = "tag:yaml.org,2002:"
_NULL = re.compile(r"(?:~|null|Null|NULL|)$")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(
    r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


class _Loader(yaml.SafeLoader):
    """Refuses a repeated key, which YAML forbids and PyYAML answers with the last value, and what is out of bounds."""

    yaml_implicit_resolvers: ClassVar = {}
    yaml_constructors: ClassVar = {}

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = self._count = 0
        self._measured: dict[yaml.Node, tuple[int, int]] = {}
        self._open: set[yaml.Node] = set()

    def compose_document(self):
        node = super().compose_document()
        self._measure(node)
        return node

    def compose_node(self, parent, index):
        self._depth += 1
        self._count += 1
        self._refuse_beyond_bounds(self._count, self._depth, self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _measure(self, node: yaml.Node) -> tuple[int, int]:
        """How many nodes `node` stands for, and how deep, were aliases written out; nothing is built of them yet."""
        if isinstance(node, yaml.ScalarNode):
            return 1, 1
        if node in self._open:
            raise ConstructorError(None, None, "an alias stands inside of what it repeats", node.start_mark)
        if node not in self._measured:
            self._open.add(node)
            count = height = 1
            children = node.value
            for child in itertools.chain(*children) if isinstance(node, yaml.MappingNode) else children:
                below = self._measure(child)
                count, height = count + below[0], max(height, 1 + below[1])
                self._refuse_beyond_bounds(count, height, node.start_mark)
            self._open.remove(node)
            self._measured[node] = count, height
        return self._measured[node]

    def _refuse_beyond_bounds(self, count: int, depth: int, mark: yaml.Mark) -> None:
        if count > MAX_NODES:
            raise ConstructorError(None, None, f"more than {MAX_NODES} values", mark)
        if depth > MAX_DEPTH:
            raise ConstructorError(None, None, f"nested more than {MAX_DEPTH} deep", mark)

    def construct_mapping(self, node, deep=False):
        first_lines = {}
        for key_node, _ in node.value:
            # A merge key (<<) is no key of its own: what it brings in may be overridden on purpose.
            key = None if key_node.tag == f"{_TAG}merge" else self.construct_object(key_node, deep)
            if key is None or not isinstance(key, Hashable):
                continue
            line = key_node.start_mark.line + 1
            if key in first_lines:
                problem = f"the key {shortened(key)} stands twice, first on line {first_lines[key]}"
                raise ConstructorError(None, None, problem, key_node.start_mark)
            first_lines[key] = line
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node):
        text = super().construct_scalar(node)
        try:
            return _joined_surrogates(text)
        except UnicodeDecodeError:
            problem = f"{shortened(text)} holds half of a character beyond U+FFFF"
            raise ConstructorError(None, None, problem, node.start_mark) from None

    def text_of(self, node: yaml.Node, pattern: re.Pattern, kind: str) -> str:
        """The text of a scalar, which a tag such as !!int may claim to be of a kind that it is not."""
        text = self.construct_scalar(node)
        if not pattern.match(text) or len(text) > MAX_DIGITS:
            raise ConstructorError(None, None, f"{shortened(text)} is no {kind}", node.start_mark)
        return text


def _joined_surrogates(text: str) -> str:
    """JSON writes a character beyond U+FFFF as two escapes; PyYAML takes them for two characters."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")


def _number(loader: _Loader, node: yaml.Node) -> int:
    text = loader.text_of(node, _INT, "whole number")
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text if base == 10 else text[2:], base)


def _float(loader: _Loader, node: yaml.Node) -> float:
    text = loader.text_of(node, _FLOAT, "number")
    # YAML writes .inf and .nan where Python has no dot.
    return float(text.replace(".", "") if text.lstrip("-+.")[:1].isalpha() else text)


def _bool(loader: _Loader, node: yaml.Node) -> bool:
    return loader.text_of(node, _BOOL, "true or false").lower() == "true"


def _null(loader: _Loader, node: yaml.Node) -> None:
    loader.text_of(node, _NULL, "null")


for _kind, _pattern, _first, _construct in (
    ("null", _NULL, ["~", "n", "N", ""], _null),
    ("bool", _BOOL, list("tTfF"), _bool),
    ("int", _INT, list("-+0123456789"), _number),
    ("float", _FLOAT, list("-+.0123456789"), _float),
    ("merge", re.compile("<<$"), ["<"], None),
    ("str", None, None, yaml.SafeLoader.construct_yaml_str),
    ("seq", None, None, yaml.SafeLoader.construct_yaml_seq),
    ("map", None, None, yaml.SafeLoader.construct_yaml_map),
):
    if _pattern is not None:
        _Loader.add_implicit_resolver(f"{_TAG}{_kind}", _pattern, _first)
    if _construct is not None:
        _Loader.add_constructor(f"{_TAG}{_kind}", _construct)
_Loader.add_constructor(None, yaml.SafeLoader.construct_undefined)


def read_mapping(path: Path) -> dict:
    """The mapping that the YAML file at `path` holds; raises ConfigError (file, line) for anything else."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a YAML file: it is not UTF-8 text") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: not a configuration: it has more than {MAX_BYTES} bytes")
    data = _load(text, str(path))
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of sections, not {type(data).__name__}")
    return data


def parse_value(text: str, origin: str) -> Any:
    """The value that `text` has in YAML; raises ConfigError, which begins with `origin`."""
    return _load(text, origin)


def _load(text: str, origin: str) -> Any:
    try:
        return _json(text)
    except (ValueError, RecursionError):
        pass  # not JSON, or JSON out of bounds, of which YAML says where
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}:" if error.problem_mark else ""
        raise ConfigError(f"{origin}:{line} not valid YAML: {one_line(error.problem or error.context)}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # \UFFFFFFFF and \U00110000, which are no characters
        raise ConfigError(f"{origin}: not valid YAML: {one_line(error)}") from None


def _json(text: str) -> Any:
    """The value of JSON: PyYAML refuses some, as where tabs indent; raises ValueError for what is none or too much."""
    value = json.loads(
        text, object_pairs_hook=without_repeated_keys, parse_int=_json_number, parse_constant=_json_number
    )
    if _size(value, depth=1) > MAX_NODES:
        raise ValueError("too many values")
    return value


def _size(value: Any, depth: int) -> int:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        value.encode("utf-8")  # a ValueError for half of a character
    if not isinstance(value, dict | list):
        return 1
    children = itertools.chain(value, value.values()) if isinstance(value, dict) else value
    return 1 + sum(_size(child, depth + 1) for child in children)


def without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, as `json.loads` asks for one; raises ValueError that names a key which stands twice."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {shortened(twice)} stands twice")
    return mapping


def _json_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("too many digits")
    return int(digits)  # a ValueError for NaN and Infinity
