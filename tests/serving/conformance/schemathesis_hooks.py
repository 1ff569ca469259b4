"""What schemathesis sends is aimed at the model that is served, and asks for few tokens: else most of it is a 404."""

import os

import schemathesis

MOST_TOKENS = 4


@schemathesis.hook
def map_body(context, body):
    if isinstance(body, dict) and isinstance(body.get("model"), str):
        body["model"] = os.environ["CONFORMANCE_MODEL"]
        for key in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
            if type(body.get(key)) in (int, type(None)):
                body[key] = MOST_TOKENS
        if type(body.get("n")) is int:
            body["n"] = min(body["n"], 2)
    return body
