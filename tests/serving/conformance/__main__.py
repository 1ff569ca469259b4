"""Start a server of the demo model and run suites of others against it: `make conformance`.

    provider-check   trustedrouter-provider-check, tiers 1 to 4: catalog, calls, chat, streaming
    chat, responses, anthropic   llm-comply, by OpenAI's, OpenResponses' and Anthropic's published schemas
    langchain        langchain-tests' ChatModelIntegrationTests with ChatOpenAI
    lm-eval          log-likelihoods of a task of multiple choice, as token ids and as text: general_knowledge/ has the
                     task, and what lm-eval finds with the same model in Hugging Face transformers
    schemathesis     every path of /openapi.json: no 5xx, no answer that its schema does not allow

What fails and is known, with the reason, stands in EXPECTED; anything else that fails, or passes against
expectation, makes the exit code 1.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
MODEL = "demo"
SECONDS = 900
TASK = "general_knowledge"
LOGLIKELIHOOD_BOUND = 0.01
"""Nats: the server multiplies weights of 4 bits by tokens of 16, transformers has float32 for both."""
READY = re.compile(r"(http://\S+:\d+)")

TEXT_ONLY = "the model reads text alone"
SMALL = "the demo model of 135 million parameters does not follow the instruction"
EXPECTED = {
    "provider-check": {"chat.pong": SMALL},
    "chat": {"Tool Calling": SMALL, "Image Input": TEXT_ONLY},
    "responses": {"Tool Calling": SMALL, "Image Input": TEXT_ONLY},
    "anthropic": {"Tool Calling": SMALL, "Image Input": TEXT_ONLY},
    "langchain": {},
    "lm-eval": {},
    "schemathesis": {},
}
"""Of each suite the tests that fail, and why."""


@contextmanager
def server() -> Iterator[str]:
    """A server of the demo model in a process of its own; gives its address."""
    command = [sys.executable, "scripts/run_server.py", "--config", "configs/smollm2_135m.yaml", "--port", "0"]
    command += ["--served-model-name", MODEL]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            line = next((line for line in process.stdout if READY.search(line)), None)
            if line is None:
                raise SystemExit(f"the server ended with exit code {process.wait()}: {' '.join(command)}")
            yield READY.search(line)[1]
        finally:
            process.terminate()


def run(tools: Path, program: str, *arguments: str, url: str) -> str:
    """What a program of the suites' environment prints."""
    environment = os.environ | {
        "CONFORMANCE_URL": f"{url}/v1",
        "CONFORMANCE_MODEL": MODEL,
        "COLUMNS": "200",
        "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
        "PYTHONPATH": str(HERE),
        "HF_HOME": str(ROOT / "build" / "huggingface"),  # where lm-eval keeps the questions in a form of its own
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [tools / program, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", timeout=SECONDS, check=False,
    )  # fmt: skip
    return done.stdout


def provider_check(tools: Path, url: str) -> tuple[list[str], list[str], str]:
    output = run(
        tools, "trustedrouter-provider-check", "--base-url", f"{url}/v1", "--model", MODEL, "--tier", "4",
        "--json", "-", url=url,
    )  # fmt: skip
    checks = json.loads(output[output.index("{") :])["checks"]
    outcome = {check["id"]: check["status"].lower() for check in checks}
    return [name for name in outcome if outcome[name] == "pass"], [n for n in outcome if outcome[n] == "fail"], output


def llm_comply(form: str):
    def suite(tools: Path, url: str) -> tuple[list[str], list[str], str]:
        base = f"{url}/v1"
        output = run(tools, "llm-comply", "run", "-u", base, "-k", "none", "-m", MODEL, "--format", form, "-v", url=url)
        return re.findall(r"[✓✅] (.+?) \(", output), re.findall(r"[✗❌] (.+?) \(", output), output

    return suite


def langchain(tools: Path, url: str) -> tuple[list[str], list[str], str]:
    output = run(
        tools, "pytest", "-c", "/dev/null", f"--rootdir={HERE}", f"--confcutdir={HERE}", "-p", "no:cacheprovider",
        "-o", "asyncio_mode=auto", "-o", "asyncio_default_test_loop_scope=session", "-v",
        str(HERE / "langchain_suite.py"), url=url,
    )  # fmt: skip
    outcome = dict(re.findall(r"::(test_\S+) (PASSED|FAILED|ERROR)", output))
    return [n for n in outcome if outcome[n] == "PASSED"], [n for n in outcome if outcome[n] != "PASSED"], output


def lm_eval(tools: Path, url: str) -> tuple[list[str], list[str], str]:
    expected = json.loads((HERE / TASK / "transformers.json").read_text(encoding="utf-8"))
    outcome, outputs = {}, []
    for form, is_tokenized in (("token ids", True), ("text", False)):
        with TemporaryDirectory() as folder:
            about = f"model={MODEL},base_url={url}/v1/completions,num_concurrent=4,tokenized_requests={is_tokenized}"
            output = run(
                tools, "lm_eval", "run", "--model", "local-completions", "--model_args", about, "--batch_size", "8",
                "--tasks", TASK, "--include_path", str(HERE / TASK), "--output_path", folder, "--log_samples", url=url,
            )  # fmt: skip
            outcome |= {f"{form}: {name}": holds for name, holds in _compared(Path(folder), expected)}
        outputs.append(output)
    return [name for name in outcome if outcome[name]], [n for n in outcome if not outcome[n]], "\n".join(outputs)


def _compared(folder: Path, expected: dict) -> Iterator[tuple[str, bool]]:
    """What lm-eval wrote, beside what it found with transformers; accuracies must be equal."""
    samples = [json.loads(line) for path in folder.rglob("samples_*.jsonl") for line in path.open(encoding="utf-8")]
    yield "all questions are answered", len(samples) == len(expected["loglikelihoods"])
    for path in folder.rglob("results_*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))["results"][TASK]
        for metric in ("acc", "acc_norm"):
            yield f"{metric} {found[f'{metric},none']:.4f}", found[f"{metric},none"] == expected[metric]
    for sample in samples:
        pairs = zip(sample["filtered_resps"], expected["loglikelihoods"][sample["doc_id"]], strict=True)
        differences = [abs(float(loglikelihood) - of_transformers) for (loglikelihood, _), of_transformers in pairs]
        yield f"question {sample['doc_id']}", max(differences) < LOGLIKELIHOOD_BOUND


def schemathesis(tools: Path, url: str) -> tuple[list[str], list[str], str]:
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    output = run(
        tools, "schemathesis", "run", f"{url}/openapi.json", "--checks", checks, "--max-examples", "25",
        "--request-timeout", "60", url=url,
    )  # fmt: skip
    failures = re.findall(r"^- (ST\d+ .+)$", output, re.MULTILINE)
    generated = re.search(r"(\d+) generated", output)
    if generated is None:
        return [], ["schemathesis did not run"], output
    return ["case"] * (int(generated[1]) - len(failures)), failures, output


SUITES = {
    "provider-check": provider_check,
    "chat": llm_comply("openai-chat"),
    "responses": llm_comply("open-responses"),
    "anthropic": llm_comply("anthropic"),
    "langchain": langchain,
    "lm-eval": lm_eval,
    "schemathesis": schemathesis,
}


def main() -> int:
    """Run the suites; returns 1 where one does not end as expected."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.serving.conformance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--tools", type=Path, required=True, metavar="DIR", help="bin/ where requirements.txt is installed"
    )
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=list(SUITES), metavar="NAME")
    parser.add_argument("--url", help="of a server that runs already; its model must be called demo")
    parser.add_argument("--verbose", action="store_true", help="print what each suite printed")
    arguments = parser.parse_args()
    as_expected = True
    with server() if arguments.url is None else nullcontext(arguments.url) as url:
        for name in arguments.suites:
            passed, failed, output = SUITES[name](arguments.tools.absolute(), url)
            print(f"{name}: {len(passed)} passed, {len(failed)} failed", flush=True)
            for test in failed:
                print(f"  {test}: {EXPECTED[name].get(test, 'NOT EXPECTED')}", flush=True)
            surprising = set(failed) ^ (set(EXPECTED[name]) & {*passed, *failed})
            as_expected &= not surprising and bool(passed)
            if arguments.verbose or surprising:
                print(output, flush=True)
    return 0 if as_expected else 1


if __name__ == "__main__":
    sys.exit(main())
