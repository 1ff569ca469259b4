"""Chat templates are programs that come with a model's files: they run here, in a process of their own, with bounds.

No sandbox within a process can bound them: `'a' * 10**10` is one step, and a list of two that are the same list of
two, and so on, is small until it is printed. A process that takes too much is ended, the next template gets another.

As a script this imports nothing of the package. Each line that comes is a request, each line that goes an answer; the
paths of its libraries are its arguments.
"""

import sys

if __name__ == "__main__":
    sys.path += sys.argv[1:]

import json
import resource
import signal
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


def make_environment() -> ImmutableSandboxedEnvironment:
    """A sandbox with the helpers that Hugging Face's templates expect."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationTag]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
    return environment


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}`, which marks the assistant's words for training: only its body counts."""

    tags = frozenset({"generation"})

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    # Jinja's own filter escapes <, > and & for HTML, which a prompt must not have.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str):
    raise jinja2.TemplateError(message)


@lru_cache(maxsize=8)
def _compiled(source: str) -> jinja2.Template:
    return make_environment().from_string(source)


def _answer(request: dict[str, Any]) -> dict[str, str]:
    try:
        text = _compiled(request["source"]).render(request["variables"])
        if len(text) > request["characters"]:
            return {"bound": f"it makes {len(text)} characters of them, more than {request['characters']}"}
        return {"text": text}
    except MemoryError:
        return {"bound": "it takes too much memory"}
    except Exception as error:  # noqa: BLE001 - a template may raise anything
        name = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
        return {"refusal": f"{name}{error}"[:1000]}


def _serve() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever is interrupted closes the pipe
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    with open("/proc/self/statm", encoding="ascii") as file:
        size_at_start = int(file.read().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        resource.setrlimit(resource.RLIMIT_AS, (size_at_start + request["bytes"], most))
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])  # SIGPROF ends the process, whatever it does
        answer = json.dumps(_answer(request))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
