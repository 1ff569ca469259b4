"""How bodies say what an answer is held to: OpenAI's response_format, vLLM's structured_outputs and guided_* keys."""

from collections.abc import Mapping
from typing import Any

from mindspore_paged.sampling.structured_outputs import StructuredOutputs, structured_outputs
from mindspore_paged.serving.errors import bad_request
from mindspore_paged.wording import shortened

GUIDED = {f"guided_{kind}": kind for kind in ("json", "regex", "choice", "grammar")}
"""vLLM's older keys, and what they are in structured_outputs."""

_TYPES = ("text", "json_object", "json_schema", "structural_tag")


def answer_format(given: Mapping[str, Any], form: Any, param: str) -> StructuredOutputs | None:
    """What the keys of a body hold its answer to; None where they hold it to nothing.

    given: structured_outputs and the guided_* keys, None for those that are not there. form: a response_format, or what
    stands for it at `param`. Raises ApiError for what is none, or where two of them say something.
    """
    said = {key: value for key, value in given.items() if value is not None}
    form = _of_format(form, param)
    if form is not None:
        said[param] = form
    if not said:
        return None
    if len(said) > 1:
        raise bad_request(f"{' and '.join(said)} hold the answer to different forms; give one of them", [*said][-1])
    ((key, value),) = said.items()
    return structured_outputs({GUIDED[key]: value} if key in GUIDED else value)


def _of_format(form: Any, param: str) -> dict[str, Any] | None:
    if form is None:
        return None
    kind = form.get("type") if isinstance(form, Mapping) else None
    if kind not in _TYPES:
        raise bad_request(f"{param}.type is {shortened(kind)}; it must be one of {', '.join(_TYPES)}", param)
    if kind == "text":
        return None
    if kind == "json_object":
        return {"json_object": True}
    if kind == "structural_tag":
        return {"structural_tag": {key: value for key, value in form.items() if key != "type"}}
    # In /v1/responses the keys of json_schema stand beside the type.
    where, described = (f"{param}.json_schema", form["json_schema"]) if "json_schema" in form else (param, form)
    schema = described.get("schema") if isinstance(described, Mapping) else None
    if not isinstance(schema, Mapping):
        raise bad_request(f"{where}.schema is {shortened(schema)}; it must be a JSON Schema, a mapping", param)
    if not isinstance(described.get("name"), str):
        raise bad_request(f"{where}.name is {shortened(described.get('name'))}; it must be text", param)
    strict = described.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise bad_request(f"{where}.strict is {shortened(strict)}; it must be true or false", param)
    if strict is False:  # what a grammar cannot follow is not looked at
        schema = {**schema, "x-guidance": {"lenient": True}}
    return {"json": dict(schema)}
