"""Compiles the Ascend C kernels for this CPU, over the emulator of their API.

Each kernel is compiled once for every combination of element types, as CANN's own build does; on the CPU they all end
in one library, so each copy's entry gets the combination's name: `paged_attention_custom_float_half`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from mindspore_paged.custom_ops import build
from mindspore_paged.custom_ops.build import BUILD_COMMAND, BuildError, build_stamp, find_compiler, run_compiler

ASCENDC_SOURCES = Path(__file__).parent.resolve() / "ascendc"
EMULATOR_LIBRARY_NAME = "libpaged_ops_ascend_emulator.so"
SOURCE_SUFFIXES = {".h", ".cc", ".cpp"}
WHAT = "the emulated Ascend operators"
EMULATOR_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-fopenmp", "-fvisibility=hidden")
LINK_FLAGS = ("-shared", "-Wl,-z,defs")  # a kernel that an entry names and nobody defines is told now, not at loading

Types = Mapping[str, str]
"""For each DTYPE_* macro that a kernel reads, the Ascend C type that it stands for."""

CACHE_TYPES = ("half", "bfloat16_t", "int8_t")
INPUT_TYPES = ("float", "half", "bfloat16_t")
KERNEL_TYPES: Mapping[str, tuple[Types, ...]] = {
    "reshape_and_cache_custom": tuple(
        {"DTYPE_KEY": key, "DTYPE_KEY_CACHE": cache} for key in INPUT_TYPES for cache in CACHE_TYPES
    ),
    "paged_attention_custom": tuple(
        {"DTYPE_QUERY": query, "DTYPE_KEY_CACHE": cache}
        for query in INPUT_TYPES
        for cache in CACHE_TYPES
        if query in ("float", cache) or cache == "int8_t"  # the cube unit multiplies equal 16-bit types only
    ),
    "rope_and_cache_custom": tuple(
        {"DTYPE_QKV": qkv, "DTYPE_KEY_CACHE": cache} for qkv in INPUT_TYPES for cache in CACHE_TYPES
    ),
    "fused_add_rms_norm_custom": tuple({"DTYPE_X": x} for x in INPUT_TYPES),
    "act_and_mul_custom": tuple({"DTYPE_GATE_UP": gate_up} for gate_up in INPUT_TYPES),
    **{
        f"{verb}_blocks_custom": tuple({"DTYPE_KEY_CACHE": cache} for cache in CACHE_TYPES)
        for verb in ("copy", "read", "write")
    },
}


def emulator_library(output_dir: Path = build.DEFAULT_OUTPUT_DIR) -> Path:
    """Give the path of the compiled emulator; raises BuildError, with the command to run, if there is none."""
    library = Path(output_dir) / EMULATOR_LIBRARY_NAME
    if not library.is_file():
        raise BuildError(
            f"the emulated Ascend operators are not compiled: {library} is missing; "
            f"run `{BUILD_COMMAND} --backend ascend_emulator`"
        )
    return library


def build_emulator(output_dir: Path, *, sources: Path = ASCENDC_SOURCES, force: bool = False) -> Path:
    """Compile every kernel of `sources`/op_kernel and the entries in emulator/ops, unless the library is up to date.

    Returns the library's path. Raises BuildError where a kernel is missing or unknown, or the compiler refuses one.
    """
    compiler = find_compiler()
    check_kernels(sources / "op_kernel")
    units = [*kernel_units(sources), *entry_units(sources)]

    def compile_library(library: Path) -> None:
        objects = [library.parent / f"{name}.o" for name, _ in units]
        commands = [
            [*compiler, *EMULATOR_FLAGS, *arguments, "-c", "-o", str(target)]
            for target, (_, arguments) in zip(objects, units, strict=True)
        ]
        build.run_in_parallel(commands, WHAT)
        run_compiler([*compiler, *EMULATOR_FLAGS, *LINK_FLAGS, *map(str, objects), "-o", str(library)], WHAT)

    flags = (*EMULATOR_FLAGS, *LINK_FLAGS, *(argument for _, arguments in units for argument in arguments))
    headers = (sources.parent / "op").glob("*.h")  # the entries check their arguments as the CPU operators do
    compiled = (file for file in sources.rglob("*") if file.suffix in SOURCE_SUFFIXES)
    stamp = build_stamp(compiler, flags, [*headers, *compiled])
    return build.build_unless_current(Path(output_dir) / EMULATOR_LIBRARY_NAME, stamp, compile_library, force=force)


def check_kernels(folder: Path) -> None:
    """Raise BuildError unless `folder` holds the kernels of KERNEL_TYPES, and no other."""
    found = {file.stem for file in folder.glob("*_custom.cpp")}
    for name in sorted(found ^ KERNEL_TYPES.keys()):
        fault = "its element types are not in KERNEL_TYPES" if name in found else "the file is missing"
        raise BuildError(f"kernel {folder / name}.cpp: {fault}")


def kernel_units(sources: Path) -> Iterator[tuple[str, list[str]]]:
    """For each kernel and combination of types, a name and the compiler's arguments."""
    for kernel, combinations in KERNEL_TYPES.items():
        for types in combinations:
            name = "_".join((kernel, *types.values()))
            defines = [f"-D{macro}={type_name}" for macro, type_name in types.items()]
            file = sources / "op_kernel" / f"{kernel}.cpp"
            yield name, [*defines, f"-D{kernel}={name}", f"-I{sources / 'emulator'}", str(file)]


def entry_units(sources: Path) -> Iterator[tuple[str, list[str]]]:
    """The same for the functions that MindSpore calls."""
    for file in sorted((sources / "emulator" / "ops").glob("*.cc")):
        yield f"entry_{file.stem}", [f"-I{sources / 'emulator'}", f"-I{sources.parent}", str(file)]
