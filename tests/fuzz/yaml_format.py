"""YAML configurations: our own, and MindFormers' predict files."""

import re
from pathlib import Path
from random import Random
from typing import Any

import yaml

from mindspore_paged.config import load_config
from tests.fuzz.havoc import havoc_of
from tests.fuzz.json_values import mutated, mutated_text
from tests.fuzz.mutant import EVERYTHING, FileFormat, Files, Mutant
from tests.mindformers_samples import LLAMA2_70B, PREDICT_FILE

FILE = "config.yaml"
_CONFIGS = Path(__file__).parents[2] / "configs"
_OWN = [{FILE: (_CONFIGS / name).read_bytes()} for name in ("smollm2_135m.yaml", "tiny.yaml", "llama3_8b.yaml")]
_MINDFORMERS = [
    {FILE: PREDICT_FILE.format(
        model_config=LLAMA2_70B, load_checkpoint="a", use_parallel=False, model_parallel=1, vocab_file="b"
    ).encode()}
]  # fmt: skip
VALUES = (
    *(
        "auto",
        "4GiB",
        "512MiB",
        "-1GiB",
        "1e400GiB",
        "10" * 200 + "GiB",
        "0x10",
        "1_000",
        "yes",
        "off",
        "1e5",
        "cpu",
        "ascend",
    ),
    *(
        "random",
        "demo",
        "~",
        "$HOME",
        "\0",
        "llama2-7b",
        "bfloat16",
        "int8",
        "stored",
        "2024-99-99",
        "1:30",
        ".nan",
        ".inf",
    ),
    *([1, 2, 4], [4, 2, 1], [0], [2**40], {"type": "linear", "factor": 2}, {"type": "llama3"}, 16, 15, 10**9),
)
SNIPPETS = (
    "a: &a [*a]\n",
    "a: &a {b: *a}\n",
    "x: &x [1,1,1,1,1,1,1,1,1]\ny: &y [*x,*x,*x,*x,*x,*x,*x,*x,*x]\nz: &z [*y,*y,*y,*y,*y,*y,*y,*y,*y]\n"
    "u: &u [*z,*z,*z,*z,*z,*z,*z,*z,*z]\nv: &v [*u,*u,*u,*u,*u,*u,*u,*u,*u]\nw: [*v,*v,*v,*v,*v,*v,*v,*v,*v]\n",
    "<<: [{a: 1}, {b: 2}]\n",
    "<<: 5\n",
    "? [a, b]\n: c\n",
    "? {a: b}\n: c\n",
    "a: !!python/object/apply:os.system [ls]\n",
    "a: !!binary x\n",
    "a: !!set {1, 2}\n",
    "a: !!timestamp 5\n",
    "a: !!int x\n",
    "a: !!float x\n",
    "a: !!bool x\n",
    "a: !unknown x\n",
    "a: *nobody\n",
    "a: 2024-99-99\n",
    "a: 190:20:30\n",
    "a: 0o77777777777777777777777\n",
    "a: " + "9" * 5000 + "\n",
    "a: 1" + ":59" * 4000 + "\n",
    "a: " + "[" * 3000 + "\n",
    "a: " + "[" * 3000 + "]" * 3000 + "\n",
    "".join(f"{' ' * depth}k:\n" for depth in range(900)),
    "--- \n---\n",
    "%YAML 9.9\n---\n",
    "%TAG ! x\n",
    "\ta: b\n",
    "a: 'b\n",
    'a: "\\ud800"\n',
    'a: "\\x00"\n',
    'a: "\\U00110000"\n',
    "a: |\n  " + "x" * 100_000 + "\n",
    "model: {model_config: {}}\n",
    "run_mode: predict\n",
    "\x85\u2028\ufeff\n",
    "a: \x01\n",
    "? " + "a" * 2000 + "\n",
)


def values(files: Files, random: Random) -> Mutant:
    """Other values, written as JSON, which is YAML."""
    files[FILE], what = mutated(_plain(yaml.safe_load(files[FILE])), random, VALUES)
    return Mutant(files, what)


def yaml_values(files: Files, random: Random) -> Mutant:
    """A line of the text with another value, or none."""
    lines = files[FILE].decode().split("\n")
    at = random.choice([number for number, line in enumerate(lines) if re.match(r"\s*[\w.]+:", line)])
    key = lines[at].split(":", 1)[0]
    value = random.choice(
        (*VALUES, "", "[", "]", "*a", "&a x", "!!str", "|", ">", "? a", "- a", "@", "%", "`", "'", '"', "{a: b")
    )
    lines[at] = f"{key}: {value}"
    return Mutant({FILE: "\n".join(lines).encode()}, lines[at][:80])


def snippets(files: Files, random: Random) -> Mutant:
    """Something that YAML can do, before, behind or within."""
    snippet = random.choice(SNIPPETS)
    lines = files[FILE].decode().splitlines(keepends=True)
    at = random.choice((0, len(lines), random.randrange(len(lines))))
    indent = random.choice(("", "", "  "))
    lines.insert(at, "".join(indent + line for line in snippet.splitlines(keepends=True)))
    return Mutant({FILE: "".join(lines).encode("utf-8", "surrogatepass")}, snippet[:60])


def text(files: Files, random: Random) -> Mutant:
    """Letters in the text."""
    changed = mutated_text(files[FILE].decode(), random)
    return Mutant({FILE: changed.encode("utf-8", "surrogatepass")}, "letters")


def harmless(files: Files, random: Random) -> Mutant:
    """The same values written otherwise."""
    tree = _plain(yaml.safe_load(files[FILE]))
    items = list(tree.items())
    random.shuffle(items)
    written = yaml.safe_dump(dict(items), sort_keys=False, default_flow_style=random.choice((None, True, False)))
    return Mutant({FILE: written.encode()}, "written otherwise", EVERYTHING)


def _plain(value: Any) -> Any:
    return value if value is not None else {}


def use(folder: Path) -> dict[str, Any]:
    """Read the configuration, and once more with an override."""
    config = load_config(folder / FILE)
    load_config(folder / FILE, ["cache.block_size=32"])
    return {"config": repr(config).replace(str(folder), "")}


_MUTATORS = (*[values] * 4, yaml_values, yaml_values, snippets, text, harmless, havoc_of())
FORMATS = tuple(
    FileFormat(name, samples, _MUTATORS, use, names_file=False)  # a refusal names the key
    for name, samples in (("yaml", _OWN), ("mindformers", _MINDFORMERS))
)
