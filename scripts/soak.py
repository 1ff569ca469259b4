"""Run random requests for as long as you like, with faults injected, and look for wrong answers and leaks; --help."""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import BPE
from tqdm import tqdm

from mindspore_paged.benchmarking.report import markdown_table, require_at_least
from mindspore_paged.benchmarking.server_process import ServerProcess
from mindspore_paged.config import RANDOM_WEIGHTS, load_config
from mindspore_paged.errors import ConfigError
from mindspore_paged.launch.keeper import kept
from mindspore_paged.launch.ports import free_ports
from mindspore_paged.launch.worker import current_worker
from mindspore_paged.script import exit_code_of

ROOT = Path(__file__).parent.parent
TEXT = ROOT / "scripts" / "texts" / "american_documents.txt"
EXIT_FAULTY = 1
LARGEST_GROWTH = 0.02
"""Share by which memory may grow from the middle of a soak to its end."""

HTTP = "http"
SPARE_THREADS = min(32, os.cpu_count() + 4)
"""Threads that asyncio's pool of a server may begin at any time; it never has more."""

PLACES = {
    "process": (1, []),
    "ranks": (2, ["parallel.tensor_parallel_size=auto"]),
    "replicas": (2, ["parallel.tensor_parallel_size=1", "parallel.data_parallel_size=2"]),
    HTTP: (1, []),
}
"""Where a soak runs: the workers that msrun starts, two unless --ranks says otherwise, and the configuration that makes
them ranks or replicas; or a server, which is asked by HTTP."""

LONGEST = 96
"""Tokens of a sequence at most."""

PLAIN = [
    "cache.enable_prefix_caching=false",
    "scheduler.num_speculative_tokens=0",
    "scheduler.max_num_seqs=8",
    "scheduler.max_num_batched_tokens=64",
    "scheduler.token_buckets=[8,32,64]",
    f"scheduler.max_model_len={LONGEST}",
    "cache.block_size=16",
    "cache.num_blocks=60",
]
"""The engine that runs each request alone: no feature could make its answers other ones."""

EVERYTHING = [
    *PLAIN,
    "cache.enable_prefix_caching=true",
    "cache.num_blocks=22",
    "cache.swap=always",
    "cache.compaction=true",
    "cache.elastic_min_blocks=10",
    "cache.contiguous_priority=2",
    "cache.response_cache_entries=4",
    "scheduler.num_speculative_tokens=3",
    "scheduler.policy=priority",
    "scheduler.long_prefill_share=0.5",
    "scheduler.long_prompt_tokens=40",
]
"""The engine of the soak: all features at once, over a pool that holds three or four long sequences."""

TIERS_IN_PAGES = 20, 60
"""Pages that the host tier holds, and the page files: both are full all the time."""

DESCRIPTION = """Run random requests of every kind against the same requests run alone: greedy and seeded, n > 1,
penalties, stop strings, log-probabilities, priorities, aborts at random moments, over a tiny pool with preemption, host
tier, page files, speculation, compaction, elastic capacity and a response cache, while calls of the device fail (run,
copy, read, write), operators refuse steps, the disk is full, fails or changes what was written. In one process, in two
ranks that share the model, in two replicas, and, without faults, in a server whose clients leave at random moments,
read slowly, or begin a request and never end it; one after the other.

Every answer must be that of the request alone, to the last bit; one that was aborted or hit by a fault must begin like
it. After every round all pages must be back and all bookkeeping must agree. Memory, threads and open files are counted
at the beginning, in the middle and at the end. Exit code 1 for a wrong answer, or for memory that grows by more than 2%
from the middle to the end, or for threads or files that are left."""
EPILOG = """examples:
  soak.py --minutes 1
  soak.py --config configs/smollm2_135m.yaml --minutes 30 --kinds 60 --ranks 3 --output soak.json
  soak.py --requests 200000 --places process ranks
  soak.py --requests 10000 --places http"""


def main() -> int:
    os.environ.setdefault("GLOG_v", "3")  # MindSpore's own warnings are not for the user of a script
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, default=ROOT / "configs" / "tiny.yaml", metavar="FILE", help="default configs/tiny.yaml"
    )
    parser.add_argument("--minutes", type=float, default=1.0, metavar="N", help="of all places together (default 1)")
    parser.add_argument("--requests", type=int, metavar="N", help="stop after so many in all, in place of --minutes")
    parser.add_argument("--places", nargs="+", choices=PLACES, default=list(PLACES), help="default: all of them")
    parser.add_argument("--ranks", type=int, default=2, metavar="N", help="that share the model in `ranks` (default 2)")
    parser.add_argument("--kinds", type=int, default=600, metavar="N", help="different requests (default 600)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of requests, aborts and faults (default 0)")
    parser.add_argument("--no-faults", action="store_true", help="inject none")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--set", dest="overrides", nargs="+", action="extend", default=[], metavar="section.key=value")
    parser.add_argument("--stage", choices=("alone", "mixed", HTTP), help=argparse.SUPPRESS)  # in processes of its own
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    stages = {None: soak, "alone": _stage, "mixed": _stage, HTTP: _serve}
    return exit_code_of(lambda: stages[arguments.stage](arguments))


def soak(arguments: argparse.Namespace) -> int:
    require_at_least(arguments, 1, "kinds", "requests")
    require_at_least(arguments, 2, "ranks")
    require_at_least(arguments, 0, "minutes", "seed")
    load_config(arguments.config, arguments.overrides)  # what is wrong with it is told now
    if arguments.output is not None and not arguments.output.absolute().parent.is_dir():
        raise ConfigError(f"--output {arguments.output}: its folder is not there")
    reports = {}
    with tempfile.TemporaryDirectory(prefix="soak-") as work:
        for place in arguments.places:
            folder = Path(work) / place
            folder.mkdir()
            if any(not _run(stage, place, folder, arguments) for stage in ("alone", "mixed")):
                return EXIT_FAULTY
            reports[place] = json.loads((folder / "mixed.json").read_text(encoding="utf-8"))
            print(_table({place: reports[place]}), file=sys.stderr, flush=True)  # whatever comes of the next place
    print(_table(reports))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")
    faults = [f"{place}: {fault}" for place, report in reports.items() for fault in _faults_of(report)]
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return EXIT_FAULTY if faults else 0


def _run(stage: str, place: str, folder: Path, arguments: argparse.Namespace) -> bool:
    """One stage in processes of its own; False if it failed, after its output was shown."""
    # A replica answers as one process does; ranks add up in another order.
    workers, overrides = PLACES["process" if (stage, place) == ("alone", "replicas") else place]
    workers = arguments.ranks if place == "ranks" else workers
    share = 1 / len(arguments.places)
    flags = ["--stage", HTTP if (stage, place) == ("mixed", HTTP) else stage, "--scratch", folder]
    flags += ["--config", arguments.config.resolve(), "--kinds", arguments.kinds]
    flags += ["--seed", arguments.seed, "--minutes", arguments.minutes * share]
    flags += ["--requests", max(1, round(arguments.requests * share))] if arguments.requests else []
    flags += ["--no-faults"] if arguments.no_faults else []
    flags += ["--set", *overrides, *arguments.overrides] if overrides or arguments.overrides else []
    words = [str(word) for word in (Path(__file__).resolve(), *flags)]
    command = [sys.executable, *words]
    if workers > 1:
        command = ["bash", str(ROOT / "scripts" / "msrun_launcher.sh"), shlex.join(words), str(workers)]
    print(f"{place}: {'each request alone' if stage == 'alone' else 'all together'}", file=sys.stderr, flush=True)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, cwd=folder, env=environment, check=False).returncode == 0


def _stage(arguments: argparse.Namespace) -> int:
    """A stage, on every rank; only the first gets past the making of the LLM."""
    from mindspore_paged.llm import LLM  # takes seconds: --help and bad input do not wait for it
    from mindspore_paged.soak.driver import Soak, answer_alone
    from mindspore_paged.soak.faults import FaultRates, injected_faults
    from mindspore_paged.soak.traffic import draw_kinds

    is_mixed = arguments.stage == "mixed"
    own = _tokenizer(arguments) + (_with_tiers(arguments) if is_mixed else PLAIN)
    config = load_config(arguments.config, [*own, *arguments.overrides])
    faulty = is_mixed and not arguments.no_faults
    with injected_faults(FaultRates(), arguments.seed) if faulty else nullcontext({}) as faults:
        llm = LLM(config, show_progress=False)
    with llm:
        corpus = _corpus(llm.tokenizer)
        kinds = draw_kinds(arguments.kinds, corpus, LONGEST, arguments.seed)
        answers = arguments.scratch / "alone.json"
        if not is_mixed:
            answers.write_text(json.dumps(answer_alone(llm, kinds, _bar)), encoding="utf-8")
            (arguments.scratch / "corpus.json").write_text(json.dumps(corpus), encoding="utf-8")
            return 0
        expected = json.loads(answers.read_text(encoding="utf-8"))
        with tqdm(desc="Requests", unit="request", total=arguments.requests) as bar:
            report = Soak(llm, kinds, expected, arguments.seed).run(_end(arguments), bar.update)
    data = report.as_json() | {"faults": dict(faults)}
    (arguments.scratch / "mixed.json").write_text(json.dumps(data), encoding="utf-8")
    return 0


def _corpus(tokenizer) -> list[int]:
    """The text as tokens, in pieces that a sequence could hold: a tokenizer takes no longer ones."""
    text = TEXT.read_text(encoding="utf-8")
    pieces = (text[start : start + LONGEST // 2] for start in range(0, len(text), LONGEST // 2))
    return [token for piece in pieces for token in tokenizer.encode(piece, add_special_tokens=False)]


def _serve(arguments: argparse.Namespace) -> int:
    """The stage of a server, in a process of its own, and of its clients, here."""
    from mindspore_paged.soak.http_soak import HttpSoak
    from mindspore_paged.soak.traffic import draw_kinds

    corpus, expected = (
        json.loads((arguments.scratch / f"{name}.json").read_text(encoding="utf-8")) for name in ("corpus", "alone")
    )
    kinds = draw_kinds(arguments.kinds, corpus, LONGEST, arguments.seed)
    overrides = [*_tokenizer(arguments), *_with_tiers(arguments), "runtime.debug=true", *arguments.overrides]
    (port,) = free_ports(1)
    command = [sys.executable, ROOT / "scripts" / "run_server.py", "--config", arguments.config, "--port", port]
    command += ["--served-model-name", "soak", "--set", *overrides]
    log = arguments.scratch / "server.log"
    with ServerProcess(command, f"http://127.0.0.1:{port}", log) as server:
        with tqdm(desc="Requests", unit="request", total=arguments.requests) as bar:
            clients = HttpSoak(server.base_url, "soak", server.pid, kinds, expected, arguments.seed)
            report = clients.run(_end(arguments), bar.update)
        if server.stop():  # what it checks when idle, it says in its log
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            report.wrong.append(f"the server ended with exit code {server.exit_code}: {' / '.join(last)}")
    data = report.as_json() | {"faults": {}}
    (arguments.scratch / "mixed.json").write_text(json.dumps(data), encoding="utf-8")
    return 0


def _end(arguments: argparse.Namespace) -> Callable[[int, float], bool]:
    if arguments.requests:
        return lambda requests, _: requests >= arguments.requests
    return lambda _, seconds: seconds >= 60 * arguments.minutes


def _bar(kinds):
    return tqdm(kinds, desc="Alone", unit="request")


def _with_tiers(arguments: argparse.Namespace) -> list[str]:
    """Everything, and tiers that are too small for the pages of this model."""
    from mindspore_paged.cache.pool_size import page_bytes_per_token
    from mindspore_paged.engine.building.opening import open_weights, resolve_model_config

    config = load_config(arguments.config, EVERYTHING)
    model_config = resolve_model_config(config, open_weights(config))
    page = page_bytes_per_token(model_config, config.kv_cache_dtype) * config.cache.block_size
    in_memory, in_files = TIERS_IN_PAGES
    return [
        *EVERYTHING,
        f"cache.host_memory={in_memory * page}",
        f"cache.page_files={json.dumps(str(arguments.scratch / 'pages'))}",
        f"cache.page_files_budget={in_files * (page + 1024)}",
    ]


def _tokenizer(arguments: argparse.Namespace) -> list[str]:
    """Random weights have no tokenizer: theirs is one of bytes, so that there are texts to compare."""
    if load_config(arguments.config, arguments.overrides).model.weights != RANDOM_WEIGHTS:
        return []
    folder = arguments.scratch / f"tokenizer_{current_worker().rank}"
    folder.mkdir(exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(BPE({character: index for index, character in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    return [f"model.tokenizer={json.dumps(str(folder))}"]


def _faults_of(report: dict) -> list[str]:
    _, middle, end = report["resources"]
    faults = list(report["wrong"])
    if end["rss_mb"] > middle["rss_mb"] * (1 + LARGEST_GROWTH):
        faults.append(f"memory grew from {middle['rss_mb']:.0f} MB in the middle to {end['rss_mb']:.0f} MB at the end")
    threads = ("threads", SPARE_THREADS) if end["python_threads"] is None else ("python_threads", 0)
    for what, spare in (threads, ("descriptors", 0)):
        if end[what] > middle[what] + spare:
            faults.append(f"{what} grew from {middle[what]} in the middle to {end[what]} at the end")
    return faults


COUNTED = ("preemptions", "pages_loaded", "accepted_tokens", "blocks_moved")


def _table(reports: dict[str, dict]) -> str:
    rows = []
    for place, report in reports.items():
        requests, statistics, samples = report["requests"], report["statistics"], report["resources"]
        rows.append([
            place,
            f"{report['seconds']:.0f}",
            *(requests.get(what, 0) for what in ("ended", "aborted", "failed", "wrong")),
            sum(report["faults"].values()),
            *(statistics.get(f"num_{what}", "-") for what in COUNTED),
            *(" ".join(f"{sample[what]:.0f}" for sample in samples) for what in ("rss_mb", "threads", "descriptors")),
        ])  # fmt: skip
    columns = ["where", "seconds", "requests", "aborted", "failed", "wrong", "faults injected", "preemptions"]
    columns += ["pages loaded", "drafts accepted", "blocks moved", "memory MB", "threads", "open files"]
    return markdown_table(columns, rows)


if __name__ == "__main__":
    sys.exit(kept(main))
