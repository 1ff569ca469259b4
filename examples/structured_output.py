"""Answers held to a JSON Schema, a regular expression, choices: whatever the model would rather say."""

import json

from mindspore_paged import LLM, SamplingParams

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "legs": {"type": "integer", "minimum": 0, "maximum": 8},
        "flies": {"type": "boolean"},
    },
    "required": ["name", "legs", "flies"],
    "additionalProperties": False,
}


def main() -> None:
    asked = (
        ("Describe an eagle.", {"json": SCHEMA}),
        ("On which date did the Berlin Wall fall?", {"regex": r"\d{1,2} (October|November|December) 19\d\d"}),
        ("Is a whale a fish?", {"choice": ["yes", "no"]}),
    )
    with LLM("configs/smollm2_135m.yaml", show_progress=False) as llm:
        for question, form in asked:
            params = SamplingParams(max_tokens=96, structured_outputs=form)
            text = llm.chat([{"role": "user", "content": question}], params).outputs[0].text
            print(f"{question} {json.loads(text) if 'json' in form else text}")


if __name__ == "__main__":
    main()
