"""GGUF files: a header of fields and tensors, each of which can be wrong in its own way."""

from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.answers import model_answer
from tests.fuzz.gguf_samples import trees
from tests.fuzz.gguf_tree import ARRAY, BOOL, FLOAT32, INT32, STRING, UINT32, Array, Field, GgufTree, Text, field_of
from tests.fuzz.havoc import LIES, havoc_of, lie_about, splice
from tests.fuzz.mutant import EVERYTHING, FileFormat, Files, Mutant

FILE = "model.gguf"
_TREES = trees()
_SAMPLES = [{FILE: tree.pack()} for tree in _TREES]
TOKENS = frozenset({"ids", "texts", "chat"})

BAD_TEXTS = (
    *(b"", b" ", b"\xff\xfe", b"\xed\xa0\x80", b"\xc3", b"\0", b"a\nb", b"\x1b[2J", b"\xe2\x80\xa8", b"x" * 5000),
    *(b"<s>", b"</s>", b"a b c", b" a", b"a ", b"llama", b"gpt2", b"bert", b"t5", b"none", b"linear", b"yarn"),
    *(b"mixtral", b"rwkv", b"qwen2", b"default", b"{{", b"{% for %}", b"<0x41>", b"<0xZZ>", b"../x"),
)
NUMBERS = (*LIES, -1, -2, -(2**31), -(2**63), 0.5, 1.5, float("nan"), float("inf"), -1e-5, 1e-45, 1e38)
KINDS = (*range(15), 255, 2**31, 2**32 - 1)
DIMS = (0, 1, 2, 3, 5, 8, 16, 31, 32, 33, 64, 2**16, 2**31, 2**32, 2**32 + 1, 2**62, 2**63, 2**64 - 1)


def change_field(tree: GgufTree, random: Random) -> str:
    """Another value for a key that counts."""
    field = random.choice(tree.fields)
    if isinstance(field.value, Array):
        return _change_array(field, random)
    if field.kind == STRING:
        field.value = Text(random.choice(BAD_TEXTS))
    else:
        field.value = random.choice(NUMBERS) if field.kind != BOOL else random.choice((0, 1, 2, 255))
    if isinstance(field.value, float) and field.kind != FLOAT32:
        field.kind = FLOAT32
    return f"{_name(field)} = {str(field.value)[:60]}"


def _change_array(field: Field, random: Random) -> str:
    array = field.value
    if not array.items:
        return "nothing"
    what = random.choice(("item", "item", "count", "kind", "shorter", "longer", "length", "twin", "empty"))
    at = random.randrange(len(array.items))
    if what == "item":
        item = array.items[at]
        array.items[at] = Text(random.choice(BAD_TEXTS)) if isinstance(item, Text) else random.choice(NUMBERS[:-7])
    elif what == "count":
        array.count = lie_about(len(array.items), random)
    elif what == "kind":
        array.kind = random.choice(KINDS)
    elif what == "shorter":
        del array.items[at]
    elif what == "longer":
        array.items.insert(at, array.items[at])
    elif what == "length" and isinstance(array.items[at], Text):
        array.items[at] = Text(array.items[at].content, lie_about(len(array.items[at].content), random))
    elif what == "twin":
        array.items[at] = array.items[-1]
    else:
        array.items = []
    return f"{_name(field)}: {what} at {at}"


def change_kind(tree: GgufTree, random: Random) -> str:
    """Right key, wrong shape: the value is written as the kind that it says, or as that of before."""
    field = random.choice(tree.fields)
    field.kind = random.choice(KINDS)
    if random.random() < 0.7:
        choices = (7, -1, 0.5, True, "a", "", [1, 2], ["a"], [0.5], [True], [])
        replaced = field_of(_name(field), random.choice(choices))
        field.kind, field.value = replaced.kind, replaced.value
    return f"{_name(field)} is of kind {field.kind}"


def nest(tree: GgufTree, random: Random) -> str:
    """Arrays in arrays."""
    depth = random.choice((1, 2, 5, 60, 900, 20_000, 200_000))
    header = Array(ARRAY, [], 1).pack()
    inner = Array(random.choice((STRING, UINT32, 99)), [], random.choice((0, 1, 2**40))).pack()
    field = random.choice(tree.fields) if random.random() < 0.5 else field_of("general.nested", 1)
    field.kind, field.value = ARRAY, header * depth + inner
    if field not in tree.fields:
        tree.fields.append(field)
    return f"{_name(field)} is {depth} deep"


def lie_in_header(tree: GgufTree, random: Random) -> str:
    what = random.choice(("num_tensors", "num_fields", "version", "magic", "key", "name"))
    if what in ("num_tensors", "num_fields"):
        setattr(tree, what, lie_about(len(tree.tensors if what == "num_tensors" else tree.fields), random))
    elif what == "version":
        tree.version = random.choice((0, 1, 2, 4, 3 << 24, 2**32 - 1))
    elif what == "magic":
        tree.magic = random.choice((b"FUGG", b"ggml", b"ggjt", b"GGUf", b"\0\0\0\0"))
    else:
        text = random.choice(tree.fields).key if what == "key" else random.choice(tree.tensors).name
        text.length = lie_about(len(text.content), random)
    return what


def change_structure(tree: GgufTree, random: Random) -> str:
    """Fields and tensors gone, twice, or called something else."""
    what = random.choice(("field gone", "field twice", "tensor gone", "tensor twice", "key", "name", "swap"))
    field, tensor = random.choice(tree.fields), random.choice(tree.tensors)
    if what == "field gone":
        tree.fields.remove(field)
    elif what == "field twice":
        tree.fields.insert(random.randrange(len(tree.fields)), field)
    elif what == "tensor gone":
        tree.tensors.remove(tensor)
    elif what == "tensor twice":
        tree.tensors.append(tensor)
    elif what == "key":
        field.key = Text(random.choice((*BAD_TEXTS, random.choice(tree.fields).key.content)))
    elif what == "name":
        tensor.name = Text(
            random.choice((*BAD_TEXTS, b"blk.99.attn_q.weight", b"blk.0.attn_q.bias", b"rope_freqs.weight"))
        )
    else:
        other = random.choice(tree.tensors)
        tensor.name, other.name = other.name, tensor.name
    return f"{what}: {_name(field)}, {tensor.name.content!r:.40}"


def change_tensor(tree: GgufTree, random: Random) -> str:
    tensor = random.choice(tree.tensors)
    what = random.choice(("dims", "dims", "num_dims", "kind", "offset", "offset", "extra dim", "fewer dims"))
    if what == "dims" and tensor.dims:
        tensor.dims[random.randrange(len(tensor.dims))] = random.choice(DIMS)
    elif what == "num_dims":
        tensor.num_dims = random.choice((0, 1, 3, 4, 5, 8, 255, 2**16, 2**31, 2**32 - 1))
    elif what == "kind":
        tensor.kind = random.choice((*range(42), 99, 255, 2**31, 2**32 - 1))
    elif what == "offset":
        tensor.offset = random.choice((*LIES, 1, 31, 33, 64, 2**64 - 4096))
    elif what == "extra dim":
        tensor.dims.insert(random.randrange(len(tensor.dims) + 1), random.choice((1, 1, *DIMS)))
    else:
        tensor.dims = tensor.dims[:-1]
    return f"{tensor.name.content!r}: {what} {tensor.dims} {tensor.kind} {tensor.offset}"


def align(tree: GgufTree, random: Random) -> str:
    """general.alignment of any kind and value; where it is a good one the file is written to fit."""
    value = random.choice((0, 1, 2, 3, 7, 8, 16, 64, 4096, 2**20, 2**31, -1, "32", 32.0, [32], True))
    field = field_of("general.alignment", value)
    tree.fields.append(field)
    if isinstance(value, int) and value in (8, 16, 64, 4096):
        tree.alignment = value
    return f"general.alignment {value!r}"


def _name(field: Field) -> str:
    return field.key.content.decode("utf-8", "replace")[:60]


def structured(files: Files, random: Random) -> Mutant:
    """One to three changes of the tree."""
    sample, tree = _tree_of(files)
    changes = (change_field, change_field, change_kind, nest, lie_in_header, change_structure, change_tensor, align)
    chosen = random.choices(changes, k=random.choice((1, 1, 1, 2, 3)))
    what = "; ".join(change(tree, random) for change in chosen)
    return Mutant({FILE: tree.pack()}, what, sample=sample)


def tokenizer_only(files: Files, random: Random) -> Mutant:
    """The tokenizer's fields change, and the tensors are as they were."""
    sample, tree = _tree_of(files)
    fields = [field for field in tree.fields if field.key.content.startswith(b"tokenizer.")]
    what = "no tokenizer"
    if fields:
        of_tokenizer = GgufTree(fields, tree.tensors)
        what = random.choice((change_field, change_kind))(of_tokenizer, random)
    return Mutant({FILE: tree.pack()}, what, frozenset({"tensors"}), sample)


def tensors_only(files: Files, random: Random) -> Mutant:
    """Weights change, and the tokens of a text are as they were."""
    sample, tree = _tree_of(files)
    what = change_tensor(tree, random)
    return Mutant({FILE: tree.pack()}, what, TOKENS, sample)


def harmless(files: Files, random: Random) -> Mutant:
    """What other writers do differently says the same."""
    sample, tree = _tree_of(files)
    what = random.choice(("order", "unknown keys", "tail", "alignment", "tensor order", "version 2", "wide numbers"))
    if what == "order":
        random.shuffle(tree.fields)
    elif what == "unknown keys":
        values = (1, "a", 0.5, True, ["a", ""], [1, 2], [])
        tree.fields += [field_of(f"general.unknown{index}", random.choice(values)) for index in range(3)]
    elif what == "tail":
        tree.tail = random.randbytes(100)
    elif what == "alignment":
        tree.alignment = random.choice((8, 16, 64, 256))
        tree.fields.append(field_of("general.alignment", tree.alignment))
    elif what == "tensor order":
        random.shuffle(tree.tensors)
    elif what == "version 2":
        tree.version = 2
    else:
        for field in tree.fields:
            field.kind = INT32 if field.kind == UINT32 else field.kind
    return Mutant({FILE: tree.pack()}, what, EVERYTHING, sample)


def spliced(files: Files, random: Random) -> Mutant:
    other = random.choice(_SAMPLES)
    return Mutant({FILE: splice(files[FILE], other[FILE], random)}, "two files", sample=_SAMPLES.index(files))


def _tree_of(files: Files) -> tuple[int, GgufTree]:
    sample = _SAMPLES.index(files)
    return sample, _TREES[sample].copy()


def use(folder: Path) -> dict[str, Any]:
    """Open the file, read all of it, and encode, decode and render with its tokenizer."""
    return model_answer(folder / FILE)


FORMATS = (
    FileFormat(
        "gguf",
        _SAMPLES,
        (*[structured] * 5, tokenizer_only, tokenizer_only, tensors_only, harmless, havoc_of(), havoc_of(), spliced),
        use,
    ),
)
