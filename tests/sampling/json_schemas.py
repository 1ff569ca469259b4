"""JSON Schemas of every kind that is followed, drawn by a seed; small enough that an answer ends.

OPEN_ENDED stand apart: the digits of their numbers and of a time's seconds may go on for ever, and of some models do.
"""

from random import Random

LETTERS = "abcdefgh"
OPEN_ENDED = (
    {"type": "number", "minimum": -23, "maximum": -18.0},
    {"type": "string", "format": "time"},
    {"type": "array", "items": {"type": "string", "format": "date-time"}, "minItems": 2, "maxItems": 3},
)


def draw_schema(random: Random, depth: int = 0) -> dict:
    """One schema: of the kinds of JSON-Schema-Test-Suite's folders that grammars can follow."""
    leaves = (_string, _integer, _number, _enum, _const, _boolean, _null, _pattern, _format, _types)
    nested = (_object, _object, _array, _tuple, _any_of, _one_of_by_const, _by_reference, _all_of)
    return random.choice(leaves if depth == 3 or (depth and random.random() < 0.4) else (*leaves, *nested * 2))(
        random, depth + 1
    )


def _string(random, depth):
    low = random.randrange(4)
    return {"type": "string", "minLength": low, "maxLength": low + random.randrange(6)}


def _integer(random, depth):
    low = random.randrange(-500, 400)
    bounds = {"minimum": low, "maximum": low + random.randrange(200)}
    if random.random() < 0.3:
        bounds = {"exclusiveMinimum": low, "exclusiveMaximum": low + 2 + random.randrange(90)}
    return {"type": "integer", **bounds}


def _number(random, depth):
    """Halves: a number without a step may have digits for ever."""
    low = random.randrange(-50, 50)
    return {"type": "number", "minimum": low, "maximum": low + 0.5 * random.randrange(1, 40), "multipleOf": 0.5}


def _enum(random, depth):
    values = ["red", "grün", 'a "b" \\ c', 3, -1.5, True, None, ["x", 1], {"k": "v"}, "", "\n"]
    return {"enum": random.sample(values, random.randrange(1, 5))}


def _const(random, depth):
    return {"const": random.choice(["fixed", 7, None, [1, 2], {"a": {"b": []}}, "日本"])}


def _boolean(random, depth):
    return {"type": "boolean", "description": "yes or no", "title": "B"}


def _null(random, depth):
    return {"type": "null"}


def _pattern(random, depth):
    return {
        "type": "string",
        "pattern": random.choice([r"^[a-z]{2,5}$", r"^\d{3}-\d{2}$", "^(ab|cd){1,3}$", r"^x?y\.z$"]),
    }


def _format(random, depth):
    return {"type": "string", "format": random.choice(["date", "ipv4", "uuid"])}


def _types(random, depth):
    return {"type": random.sample(["boolean", "null", "integer"], 2), "minimum": 0, "maximum": 20}


def _object(random, depth):
    names = random.sample(LETTERS, random.randrange(1, 5))
    schema = {"type": "object", "properties": {name: draw_schema(random, depth) for name in names}}
    schema["required"] = random.sample(names, random.randrange(len(names) + 1))
    schema["additionalProperties"] = False
    return schema


def _array(random, depth):
    low = random.randrange(3)
    return {
        "type": "array",
        "items": draw_schema(random, depth),
        "minItems": low,
        "maxItems": low + random.randrange(3),
    }


def _tuple(random, depth):
    first = [draw_schema(random, depth) for _ in range(random.randrange(1, 3))]
    return {"type": "array", "prefixItems": first, "items": False, "minItems": len(first)}


def _any_of(random, depth):
    return {"anyOf": [draw_schema(random, depth) for _ in range(random.randrange(1, 4))]}


def _one_of_by_const(random, depth):
    kinds = random.sample(LETTERS, 2)
    return {
        "oneOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": kind}, "value": draw_schema(random, depth)},
                "required": ["kind", "value"],
                "additionalProperties": False,
            }
            for kind in kinds
        ]
    }


def _by_reference(random, depth):
    """To a definition; these stand at the top alone."""
    if depth > 1:
        return _object(random, depth)
    leaf = {"$ref": "#/$defs/leaf"}
    return {
        "$defs": {"leaf": draw_schema(random, 3)},
        "type": "object",
        "properties": {"first": leaf, "rest": {"type": "array", "items": leaf, "maxItems": 2}},
        "required": ["first"],
        "additionalProperties": False,
    }


def _all_of(random, depth):
    low = random.randrange(10)
    return {"allOf": [{"type": "integer", "minimum": low}, {"maximum": low + random.randrange(30)}]}
