"""Command line: prompts in, text or JSON out.

`scripts/run_generate.py`, `mindspore-paged` and, for exported models, `scripts/run_mindir.py` end here.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from mindspore_paged.bounded_file import read_bounded
from mindspore_paged.config import EngineConfig, load_config
from mindspore_paged.engine.requests.outputs import RequestOutput, as_interrupted, request_output
from mindspore_paged.errors import ConfigError, RequestError
from mindspore_paged.files import write_text
from mindspore_paged.launch.interruption import last_words
from mindspore_paged.launch.keeper import kept
from mindspore_paged.mindir.configuration import load_mindir_config
from mindspore_paged.prompts_file import PromptEntry, read_prompts_file
from mindspore_paged.sampling.beam_search_params import beam_search_params, defaults_for_beams
from mindspore_paged.sampling.sampling_params import SamplingParams
from mindspore_paged.sampling.structured_outputs import LONGEST_SPECIFICATION, StructuredOutputs
from mindspore_paged.script import exit_code_of

EXIT_FAILED = 1

EPILOG = """examples:
  run_generate.py --config configs/smollm2_135m.yaml --chat --prompt "Why is the sky blue?"
  run_generate.py --weights model.gguf --prompt "Once upon a time" "The capital of France is" --max-tokens 64
  run_generate.py --weights path/to/huggingface_folder --prompts-file prompts.jsonl --json answers.json
  run_generate.py --config configs/smollm2_135m.yaml --set cache.block_size=32 scheduler.max_num_seqs=4 --prompt Hi
  run_generate.py --weights Qwen3-0.6B --chat --set model.chat_template_kwargs.enable_thinking=false --prompt Hi
  run_generate.py --weights model.gguf --set scheduler.num_speculative_tokens=4 --prompts-file texts_to_correct.jsonl
  run_generate.py --config configs/smollm2_135m.yaml --chat --prompt "Describe a cat." --json-schema animal.json
  run_generate.py --weights model.gguf --set model.lora_adapters={sql: sql_adapter} --lora-adapter sql --prompt Hi
  run_generate.py --config configs/smollm2_135m.yaml --prompt "The capital of France is" --beam-width 4

"""
MINDIR_EPILOG = """examples:
  run_mindir.py --model exported --chat --prompt "Why is the sky blue?"
  run_mindir.py --model exported --prompts-file prompts.jsonl --json answers.json
  run_mindir.py --model exported --set cache.num_blocks=512 scheduler.token_buckets=[1,8,64] --prompt Hi
"""
PROMPTS_EPILOG = """
a line of the prompts file is one of
  {"prompt": "text"}   {"prompt_token_ids": [1, 2]}   {"messages": [{"role": "user", "content": "Hi"}]}
messages are as OpenAI's API writes them, and may have beside them: tools, chat_template_kwargs (such as
{"enable_thinking": false}), continue_final_message (go on where the last message ends), add_generation_prompt.
A line may carry sampling keys of its own: max_tokens, temperature, top_p, top_k, min_p, n, seed, stop, stop_token_ids,
ignore_eos, logprobs, prompt_logprobs, presence_penalty, frequency_penalty, repetition_penalty, logit_bias, typical_p,
top_n_sigma, xtc_probability, xtc_threshold, dry_multiplier, dry_base, dry_allowed_length, dry_penalty_last_n,
dry_sequence_breakers, min_tokens, allowed_token_ids, bad_words, truncate_prompt_tokens (of a longer prompt the last
ones; -1: as many as there is room for), skip_special_tokens, spaces_between_special_tokens, include_stop_str_in_output,
structured_outputs (one of
{"json": SCHEMA} {"json_object": true} {"regex": "…"} {"choice": ["…", "…"]} {"grammar": "Lark"} {"structural_tag": …});
and priority, request_class, cache_salt (who has another one does not find its pages), lora_adapter (of those that
model.lora_adapters names)
"""


def main(argv: Sequence[str] | None = None, of_mindir: bool = False) -> int:
    """Run the command, `of_mindir` for exported models.

    Returns 0, 1 if a request failed while running, or 2 (and one line on stderr) for bad input.
    """
    os.environ.setdefault("GLOG_v", "3")  # MindSpore's own warnings are not for the user of a script
    arguments = (_mindir_parser() if of_mindir else _generate_parser()).parse_args(argv)
    return exit_code_of(lambda: _generate(arguments))


def kept_main() -> int | None:
    """The installed command: `serve …` is scripts/run_server.py, `generate …` or anything else scripts/run_generate.py.

    `doctor` says what this machine can run.
    """
    return kept({"serve": _serve, "doctor": _doctor, "generate": _named_generate}.get(_first_argument(), main))


def _first_argument() -> str:
    return "".join(sys.argv[1:2])


def _named_generate() -> int:
    return main(sys.argv[2:])


def _serve() -> int:
    from mindspore_paged.serving.run import main as serve

    return serve(sys.argv[2:])


def _doctor() -> int:
    from mindspore_paged.doctor import main as examine

    return exit_code_of(lambda: examine(sys.argv[2:]))


def _parser(name: str, description: str, examples: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=name,
        description=description,
        epilog=examples + PROMPTS_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _mindir_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "run_mindir.py", "Generate text with a model that export_mindir.py exported, without its code.", MINDIR_EPILOG
    )
    model = parser.add_argument_group("model")
    model.add_argument("--model", type=Path, required=True, metavar="DIR", help="what export_mindir.py wrote")
    model.add_argument(
        "--verify-key",
        type=Path,
        metavar="FILE",
        help="load nothing of the folder unless this key signed it (export_mindir.py --sign-key)",
    )
    model.add_argument(
        "--local-kernels",
        action="store_true",
        help="run it with the kernels that are installed here, not with those it brings (docs/security.md)",
    )
    _add_set(model, "change what is not part of the graph, such as cache.num_blocks=512 or scheduler.max_num_seqs=16")
    _add_prompts_and_the_rest(parser)
    return parser


def _generate_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "run_generate.py",
        "Generate text with a LLaMA model through PagedAttention in one static MindSpore graph.",
        EPILOG,
    )
    model = parser.add_argument_group("model (at least one)")
    model.add_argument("--config", type=Path, metavar="FILE", help="YAML file, ours or a MindFormers predict YAML")
    model.add_argument(
        "--weights",
        type=Path,
        metavar="PATH",
        help="GGUF file, Hugging Face folder, or MindSpore checkpoint; alone it is enough if it describes its model",
    )
    _add_set(model, "change a key of the YAML, such as cache.num_blocks=512 or scheduler.max_num_seqs=16")
    model.add_argument(
        "--lora-adapter",
        metavar="NAME",
        help="answer with this one of model.lora_adapters, unless a line says otherwise",
    )
    _add_prompts_and_the_rest(parser)
    return parser


def _add_set(group, help_text: str) -> None:
    group.add_argument(
        "--set",
        dest="overrides",
        nargs="+",
        action="extend",
        default=[],
        metavar="section.key=value",
        help=help_text,
    )


def _add_prompts_and_the_rest(parser: argparse.ArgumentParser) -> None:
    prompts = parser.add_argument_group("prompts (at least one)")
    prompts.add_argument("--prompt", nargs="+", action="extend", default=[], metavar="TEXT", help="one or more prompts")
    prompts.add_argument("--prompts-file", type=Path, metavar="FILE.jsonl", help="one request a line, see below")
    prompts.add_argument("--chat", action="store_true", help="put each --prompt through the model's chat template")
    sampling = parser.add_argument_group("sampling (over the YAML's `sampling`, under the keys of a prompts-file line)")
    sampling.add_argument("--max-tokens", type=int, metavar="N", help="tokens to generate at most")
    sampling.add_argument("--temperature", type=float, metavar="X", help="0 is greedy")
    sampling.add_argument(
        "--beam-width",
        type=int,
        metavar="N",
        help="search for the likeliest answers with so many beams, and tell them all, best first (transformers' rules)",
    )
    sampling.add_argument("--ignore-eos", action="store_true", default=None, help="go on after end-of-sequence tokens")
    sampling.add_argument(
        "--json-schema", type=Path, metavar="FILE", help="hold answers to a JSON Schema (structured_outputs below)"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="OUT", help="write answers and statistics to this file")


def _generate(arguments: argparse.Namespace) -> int:
    config = _config(arguments)
    prompts = _prompts(arguments, _sampling(arguments, config.sampling))
    _check_output(arguments.json)

    from mindspore_paged.llm import LLM  # takes seconds: --help and bad input do not wait for it

    with LLM(config, show_progress=sys.stderr.isatty()) as llm:
        lora_adapter = getattr(arguments, "lora_adapter", None)  # exported models have none
        requests = [_request(llm, entry, lora_adapter) for entry in prompts]
        errors = _answer(llm, requests, arguments.json)
        _print_summary(llm.get_statistics())
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return EXIT_FAILED if errors else 0


def _answer(llm, requests: list, json_path: Path | None) -> list[str]:
    """Run the requests and print their answers, as they come if there is one; returns what went wrong."""
    if len(requests) == 1 and requests[0].params.n == 1 and llm.tokenizer is not None and json_path is None:
        return _stream_answer(llm, requests[0])
    with last_words(lambda: _give_what_is_finished(requests, json_path)):
        outputs = llm.run(requests)
    errors = _print_answers(outputs)
    if json_path is not None:
        _write_json(json_path, outputs, statistics=llm.get_statistics())
    return errors


def _give_what_is_finished(requests: list, json_path: Path | None) -> str:
    """Print the answers that a run which is interrupted has finished, write all that it has, and say how many."""
    outputs = [as_interrupted(request_output(request)) for request in requests]
    finished = [output for output in outputs if all(answer.finish_reason != "abort" for answer in output.outputs)]
    told = f"{len(finished)} of {len(outputs)} requests were answered"
    if json_path is not None:
        _write_json(json_path, outputs, statistics={})
        told += f", see {json_path}"
    _print_answers(finished)
    return told


def _config(arguments: argparse.Namespace) -> EngineConfig:
    if "model" in arguments:
        return load_mindir_config(arguments.model, arguments.overrides, arguments.verify_key, arguments.local_kernels)
    if arguments.config is None and arguments.weights is None:
        raise ConfigError("no model: give --config FILE, --weights PATH, or both")
    overrides = list(arguments.overrides)
    if arguments.weights is not None:
        overrides.append(f"model.weights={json.dumps(str(arguments.weights))}")
    return load_config(arguments.config, overrides)


def _sampling(arguments: argparse.Namespace, defaults: SamplingParams) -> SamplingParams:
    flags = ("max_tokens", "temperature", "ignore_eos")
    given = {flag: getattr(arguments, flag) for flag in flags if getattr(arguments, flag) is not None}
    if arguments.json_schema is not None:
        given["structured_outputs"] = _schema_file(arguments.json_schema)
    if arguments.beam_width is not None:
        return defaults_for_beams(defaults, **given)
    return replace(defaults, **given)


def _schema_file(path: Path) -> StructuredOutputs:
    try:
        return StructuredOutputs(json=read_bounded(path, 4 * LONGEST_SPECIFICATION).decode("utf-8"))
    except OSError as error:
        raise RequestError(f"--json-schema {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RequestError(f"--json-schema {path}: not UTF-8 text") from None
    except RequestError as error:
        raise RequestError(f"--json-schema {path}: {error}") from None


def _prompts(arguments: argparse.Namespace, params: SamplingParams) -> list[PromptEntry]:
    prompts = [
        PromptEntry([{"role": "user", "content": text}] if arguments.chat else text, params, f"--prompt {number}")
        for number, text in enumerate(arguments.prompt, start=1)
    ]
    if arguments.prompts_file is not None:
        prompts += read_prompts_file(arguments.prompts_file, params)
    if not prompts:
        raise RequestError("no prompt: give --prompt TEXT or --prompts-file FILE.jsonl")
    if arguments.beam_width is not None:
        return [_searched(entry, arguments.beam_width) for entry in prompts]
    return prompts


def _searched(entry: PromptEntry, beam_width: int) -> PromptEntry:
    try:
        return replace(entry, params=beam_search_params(entry.params, beam_width))
    except RequestError as error:
        raise RequestError(f"{entry.origin}: {error}") from None


def _request(llm, entry: PromptEntry, lora_adapter: str | None):
    try:
        return llm.make_request(
            entry.prompt,
            entry.params,
            entry.priority,
            entry.request_class,
            entry.cache_salt,
            entry.lora_adapter or lora_adapter,
        )
    except RequestError as error:
        raise RequestError(f"{entry.origin}: {error}") from None


def _check_output(path: Path | None) -> None:
    """Find out before the work, not after it, that its result cannot be written."""
    if path is None:
        return
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"--json {path}: not a file in a folder that can be written to")


def _stream_answer(llm, request) -> list[str]:
    print(request.prompt or "", end="", flush=True)
    errors = []
    with last_words(_end_line):
        for update in llm.stream(request):
            print(update.text, end="", flush=True)
            errors += [update.error] if update.error else []
    print(flush=True)
    return errors


def _end_line() -> str:
    print(flush=True)
    return "the answer ends here"


def _print_answers(outputs: list[RequestOutput]) -> list[str]:
    for output in outputs:
        for answer in output.outputs:
            print(f"--- {output.request_id} [{answer.index}], {len(answer.token_ids)} tokens, {answer.finish_reason}")
            print(answer.text or answer.token_ids)
    return [f"{output.request_id}: {output.error}" for output in outputs if output.error]


def _print_summary(statistics: dict) -> None:
    speculation = ""
    if statistics["num_draft_tokens"]:
        speculation = (
            f"{statistics['tokens_per_sequence_step']:.2f} tokens a step, {statistics['num_accepted_tokens']} of "
            f"{statistics['num_draft_tokens']} drafts accepted; "
        )
    print(
        f"\n{statistics['num_output_tokens']} tokens, {statistics['throughput']:.1f} tokens/s, "
        f"first after {statistics['time_to_first_token_s']:.2f} s; "
        f"memory {statistics['memory_usage_gb']:.2f} GB, block utilization {statistics['block_utilization']:.0%}, "
        f"prefix cache hits {statistics['prefix_cache_hit_rate']:.0%}, preemptions {statistics['num_preemptions']}; "
        f"{speculation}"
        f"{statistics['compiled_graphs']} graphs compiled, {statistics['compiles_after_warmup']} after warm-up",
        file=sys.stderr,
    )


def _write_json(path: Path, outputs: list[RequestOutput], *, statistics: dict) -> None:
    document = {"outputs": [_as_json(output) for output in outputs], "statistics": statistics}
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _as_json(output: RequestOutput) -> dict:
    document = asdict(output)
    for completion in document["outputs"]:
        for key in ("logprobs", "cumulative_logprob"):
            if completion[key] is None:
                del completion[key]
    del document["embedding"]  # a prompts file asks for none
    if document["error"] is None:
        del document["error"]
    return document
