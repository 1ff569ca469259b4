"""Command line of the server: `scripts/run_server.py` and `mindspore-paged serve`."""

import argparse
import json
import os
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from mindspore_paged.config import EngineConfig, ServerSection, load_config
from mindspore_paged.errors import ConfigError
from mindspore_paged.launch.worker import current_worker
from mindspore_paged.mindir.configuration import load_mindir_config
from mindspore_paged.script import exit_code_of

EPILOG = """examples:
  run_server.py --config configs/smollm2_135m.yaml
  run_server.py --weights model.gguf --port 0 --served-model-name gpt-4o-mini
  run_server.py --weights Qwen3-0.6B --host 0.0.0.0 --api-key-file keys.txt --set scheduler.max_num_seqs=32
  bash scripts/msrun_launcher.sh "scripts/run_server.py --config configs/smollm2_135m.yaml" 2

then, from another terminal:
  curl http://127.0.0.1:8000/v1/models
  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{
    "model": "demo", "messages": [{"role": "user", "content": "Why is the sky blue?"}], "stream": true}'
  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' -d '{
    "model": "demo", "prompt": "The capital of France is", "max_tokens": 8}'

or with OpenAI's client:
  from openai import OpenAI
  client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="a line of keys.txt, or anything")
  print(client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "Hi"}]))

What a request does not say (temperature, max_tokens, ...) comes from the configuration's `sampling`: greedy and 128
tokens, unless it says otherwise; --set sampling.temperature=1.0 sampling.max_tokens=null is what OpenAI does.
SIGTERM or Ctrl-C: nothing new is taken, what runs may end (server.drain_seconds), then the server ends; the second
ends it at once. All keys of `server`, paths and errors: docs/serving.md
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve; returns 0 after a signal, 1 if the engine failed, or 2 (and one line on stderr) for bad input."""
    os.environ.setdefault("GLOG_v", "3")  # MindSpore's own warnings are not for the user of a script
    arguments = _parser().parse_args(argv)
    return exit_code_of(lambda: _run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_server.py",
        description="Serve a model by HTTP, as OpenAI's clients expect it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    model = parser.add_argument_group("model (at least one)")
    model.add_argument("--config", type=Path, metavar="FILE", help="YAML file, ours or a MindFormers predict YAML")
    model.add_argument("--weights", type=Path, metavar="PATH", help="GGUF file, Hugging Face folder, or checkpoint")
    model.add_argument("--model", type=Path, metavar="DIR", help="what export_mindir.py wrote, in place of both")
    model.add_argument("--verify-key", type=Path, metavar="FILE", help="of --model: the key that must have signed it")
    model.add_argument(
        "--local-kernels", action="store_true", help="of --model: run it with the kernels that are installed here"
    )
    model.add_argument(
        "--set",
        dest="overrides",
        nargs="+",
        action="extend",
        default=[],
        metavar="section.key=value",
        help="change a key of the YAML, such as scheduler.max_num_seqs=16 or server.max_queued_requests=1000",
    )
    server = parser.add_argument_group("server (over the YAML's `server`)")
    server.add_argument("--host", help="where to listen (127.0.0.1: this machine alone)")
    server.add_argument("--port", type=int, help="(8000); 0 takes any free one, and the line that is printed tells")
    server.add_argument("--api-key-file", metavar="FILE", help="one key a line; each request needs one of them")
    server.add_argument(
        "--served-model-name", nargs="+", metavar="NAME", help="what clients call the model; the first is in answers"
    )
    return parser


def _run(arguments: argparse.Namespace) -> int:
    config = _config(arguments)
    options = config.server

    from mindspore_paged.serving.auth import read_api_keys
    from mindspore_paged.serving.connections import listen
    from mindspore_paged.serving.tracing import tracer_provider

    api_keys = read_api_keys(options.api_key_file)
    _check_tls(options)
    listener = provider = None
    if current_worker().rank == 0:  # before the model is loaded: that the port is taken shows at once
        provider = tracer_provider(options.otlp_traces_endpoint)
        listener = listen(options.host, options.port, options.connection_timeout)

    from mindspore_paged.llm import LLM  # takes seconds: --help and bad input do not wait for it
    from mindspore_paged.serving.server import serve
    from mindspore_paged.serving.starting import answered_while_starting

    if listener is None:
        LLM(config, show_progress=False)  # works for rank 0, and ends by SystemExit
        return 0
    with answered_while_starting(listener, options):
        llm = LLM(config, show_progress=sys.stderr.isatty())
    return serve(llm, listener, options, api_keys, provider)


def _config(arguments: argparse.Namespace) -> EngineConfig:
    overrides = [*arguments.overrides, *_of_flags(arguments)]
    if arguments.model is not None:
        if arguments.config is not None or arguments.weights is not None:
            raise ConfigError("--model is a whole model; --config and --weights do not go with it")
        return load_mindir_config(arguments.model, overrides, arguments.verify_key, arguments.local_kernels)
    if arguments.config is None and arguments.weights is None:
        raise ConfigError("no model: give --config FILE, --weights PATH, or --model DIR")
    if arguments.verify_key is not None or arguments.local_kernels:
        raise ConfigError("--verify-key and --local-kernels are of an exported model, and need --model DIR")
    if arguments.weights is not None:
        overrides.append(f"model.weights={json.dumps(str(arguments.weights))}")
    return load_config(arguments.config, overrides)


def _of_flags(arguments: argparse.Namespace) -> list[str]:
    """The flags of the server as overrides of its section."""
    given = {
        "host": arguments.host,
        "port": arguments.port,
        "api_key_file": arguments.api_key_file,
        "served_model_names": arguments.served_model_name,
    }
    return [f"server.{key}={json.dumps(value)}" for key, value in given.items() if value is not None]


def _check_tls(options: ServerSection) -> None:
    if options.tls_certificate is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(options.tls_certificate, options.tls_key)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        files = f"server.tls_certificate {options.tls_certificate}, server.tls_key {options.tls_key}"
        raise ConfigError(f"{files}: {error.strerror or error}") from None
