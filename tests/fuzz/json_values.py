"""JSON that no other program writes: kinds of values swapped, keys gone or twice, depths, numbers, broken text."""

import json
import re
from collections.abc import Iterator
from random import Random
from typing import Any

_MARK = "raw text number "

RAW = (
    "[" * 100_000 + "]" * 100_000,
    '{"a":' * 50_000 + "1" + "}" * 50_000,
    "[" * 990 + "]" * 990,
    '{"a":' * 500 + "1" + "}" * 500,
    "9" * 5000,
    "-" + "9" * 400,
    "1e999",
    "-1e999",
    "1e-999",
    "NaN",
    "Infinity",
    "-Infinity",
    "01",
    "0x10",
    "'a'",
    "tru",
    '"\\ud800"',
    '"\\udc00x"',
    '"\\u0000"',
    '"\\uFFFF"',
    '"a\nb"',
    '"\\ud83d\\ude00"',
    "/* */ 1",
    "[1,]",
)
"""What json.dumps does not write."""

PLAIN = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 16, 255, 65536, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63, 2**64, 10**30),
    *(-(2**31), -(2**63), 0.0, -0.0, 0.5, 1.0, 2.0, 1e-5, 1e-320, 1e308, -1.5, 1e20),
    *("", " ", "a", "1", "-1", "true", "null", "None", "<s>", "</s>", "\x00", "\x1b[31m", "a\nb", "\u2028", "\u202e"),
    *(
        "x" * 10_000,
        "é" * 300,
        "😀",
        "../../etc/passwd",
        "/etc/passwd",
        "/dev/zero",
        ".",
        "..",
        "a/b",
        "F32",
        "float32",
    ),
    *([], {}, [[]], [{}], {"": None}, [None], [1], ["a"], {"a": 1}, [True, "1", 1.0], list(range(3)), ["x"] * 1000),
    *({"content": None}, {"content": "a"}, {"type": "a"}, {"name": "default", "template": "x"}),
)


def places(tree: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Every (mapping or list, key or index) in the tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        if depth < 20:
            yield from places(value, depth + 1)


def mutated(tree: Any, random: Random, extra: tuple = ()) -> tuple[bytes, str]:
    """JSON text of the tree after one to three changes, and what they were. extra: more values to put in."""
    tree = {"root": json.loads(json.dumps(tree))}
    raw: list[str] = []
    changes = [_change(tree, random, extra, raw) for _ in range(random.choice((1, 1, 1, 2, 3)))]
    text = json.dumps(tree["root"], ensure_ascii=random.random() < 0.5)
    text = re.sub(f'"{_MARK}(\\d+)"', lambda match: raw[int(match[1])], text)
    return text.encode("utf-8", "surrogatepass"), "; ".join(changes)


def _change(tree: Any, random: Random, extra: tuple, raw: list[str]) -> str:
    holder, key = random.choice(list(places(tree)))
    value = holder[key]
    kind = random.randrange(10)
    if kind <= 3:
        holder[key] = _value(random, extra, raw)
        return f"{str(key)[:30]} = {str(holder[key])[:40]!r}"
    if kind == 4 and holder is not tree:
        del holder[key]
        return f"without {str(key)[:30]}"
    if kind == 5:
        _, other = other_place = random.choice(list(places(tree)))
        holder[key] = json.loads(json.dumps(other_place[0][other]))
        return f"{str(key)[:30]} has the value of {str(other)[:30]}"
    if kind == 6 and isinstance(holder, dict) and holder is not tree:
        name = random.choice(("", "a", key + " ", key.upper(), "__metadata__", "\x00", "\u0130", "k" * 3000, "root"))
        holder[name] = holder.pop(key)
        return f"{key[:30]} is called {name[:30]!r}"
    if kind == 7 and isinstance(value, list | dict):
        return _grow(value, random, extra, raw)
    if kind == 8 and isinstance(value, int | float):
        holder[key] = random.choice((-value, value + 1, value - 1, value * 2, value * 1000, float(value), str(value)))
        return f"{str(key)[:30]} = {holder[key]!r}"
    if kind == 9 and isinstance(value, str):
        holder[key] = mutated_text(value, random)
        return f"{str(key)[:30]} = {holder[key][:40]!r}"
    holder[key] = random.choice(([value], {"a": value}, [value, value], {"content": value}))
    return f"{str(key)[:30]} wrapped"


def _grow(value: list | dict, random: Random, extra: tuple, raw: list[str]) -> str:
    new = _value(random, extra, raw)
    if isinstance(value, list):
        value.insert(random.randrange(len(value) + 1), new)
        return f"a list gets {str(new)[:40]!r}"
    name = random.choice(("unknown", "", "__proto__", "a.b", "0", "\ud800", "x" * 100))
    value[name] = new
    return f"a mapping gets {name!r}"


def _value(random: Random, extra: tuple, raw: list[str]) -> Any:
    if random.random() < 0.25:
        raw.append(random.choice(RAW))
        return f"{_MARK}{len(raw) - 1}"
    value = random.choice((*PLAIN, *extra))
    return json.loads(json.dumps(value))


def mutated_text(text: str, random: Random) -> str:
    """The text with a character changed, gone, doubled, or with something foreign in it."""
    at = random.randrange(len(text) + 1)
    piece = random.choice(
        ("", "\x00", "\n", "\ud800", "😀", "\u0301", " ", "\u2581", "a" * 500, "%s", "{", "\\", "\x1b[")
    )
    return text[:at] + piece + text[at + random.randrange(2) :]


def broken(content: bytes, random: Random) -> tuple[bytes, str]:
    """The text of a JSON file, in a form that is none or hardly one."""
    text = content.decode("utf-8", "replace")
    forms = {
        "UTF-16": text.encode("utf-16"),
        "byte order mark": b"\xef\xbb\xbf" + content,
        "Latin-1 within": content.replace(b"a", b"\xe4", 1),
        "an overlong byte": content.replace(b":", b"\xc0\xba", 1),
        "two documents": content + content,
        "a comment": b"// a comment\n" + content,
        "spaces": b" " * 100_000 + content,
        "a comma at the end": re.sub(rb"}\s*$", b",}", content),
        "single quotes": content.replace(b'"', b"'"),
        "key twice": re.sub(rb"^\s*{", b'{"a":1,"a":2,', content),
        "first key twice": _first_key_twice(content),
        "not an object": b"[" + content + b"]",
        "deep": random.choice(RAW).encode(),
        "NUL": content.replace(b" ", b"\0", 1),
    }
    what = random.choice(list(forms))
    return forms[what], what


def _first_key_twice(content: bytes) -> bytes:
    match = re.match(rb'\s*{\s*("[^"]*"\s*:)', content)
    return b"{" + match[1] + b"null," + content[match.start(1) :] if match else content


def same_content(tree: Any, random: Random) -> bytes:
    """The same values as another program might write them: order, spaces, escapes, keys that nobody knows."""
    if isinstance(tree, dict):
        items = list(tree.items())
        random.shuffle(items)
        tree = dict(items)
    indent, ascii_only = random.choice((None, 1, 4)), random.random() < 0.5
    separators = random.choice((None, (",", ":"), (" , ", " : ")))
    return json.dumps(tree, indent=indent, ensure_ascii=ascii_only, separators=separators).encode("utf-8")
