"""What Atlas A2's cube unit would get wrong is refused: each test breaks the good kernel cube_matmul in one place."""

import dataclasses

import numpy as np
import pytest

from tests.custom_ops.ascendc.cube_calls import Variant, compile_variants, pack
from tests.custom_ops.ascendc.emulated import READ_ONLY, WRITTEN, RefusedError

TRANSPOSED, PLAIN = 1, 0


@dataclasses.dataclass(frozen=True)
class Mutant:
    """The change, what is multiplied with it, and what the message must contain."""

    changes: tuple[tuple[str, str], ...]
    message: str
    shape: tuple[int, int, int] = (5, 32, 48)
    k_step: int = 48
    b_is_transposed: int = TRANSPOSED
    defines: tuple[tuple[str, str], ...] = ()


def without(*texts: str) -> tuple[tuple[str, str], ...]:
    return tuple((text, "") for text in texts)


def flag(event: str, event_id: str = "half") -> tuple[str, str]:
    return f"SetFlag<HardEvent::{event}>({event_id});", f"WaitFlag<HardEvent::{event}>({event_id});"


M_TO_MTE1 = "kFirstMToMte1Event + half"

SYNCHRONISATION = {
    "mte2_mte1": Mutant(without(*flag("MTE2_MTE1")), "pipe MTE1 reads bytes [0, 32) of L1 that pipe MTE2 wrote before"),
    "mte1_m": Mutant(without(*flag("MTE1_M")), "pipe M reads bytes [0, 32) of L0A that pipe MTE1 wrote before"),
    "m_fix": Mutant(without(*flag("M_FIX")), "pipe FIX reads bytes [0, 32) of L0C that pipe M wrote before"),
    # The first of each of these flags is set at the start and the last one taken at the end; the rest goes.
    "m_mte1": Mutant(
        (
            (f"    WaitFlag<HardEvent::M_MTE1>({M_TO_MTE1});\n    LoadA", "    LoadA"),
            (f"    SetFlag<HardEvent::M_MTE1>({M_TO_MTE1});\n    ++steps_", "    ++steps_"),
        ),
        "of L0A that pipe M read before, without a flag M_MTE1",
        k_step=16,
    ),
    "mte1_mte2": Mutant(
        (
            ("    WaitFlag<HardEvent::MTE1_MTE2>(half);\n    CopyA", "    CopyA"),
            (
                "    SetFlag<HardEvent::MTE1_MTE2>(half);\n    SetFlag<HardEvent::M_FIX>",
                "    SetFlag<HardEvent::M_FIX>",
            ),
        ),
        "of L1 that pipe MTE1 read before, without a flag MTE1_MTE2",
    ),
    "fix_m": Mutant(
        (
            ("    WaitFlag<HardEvent::FIX_M>(half);\n    for", "    for"),
            ("    SetFlag<HardEvent::FIX_M>(half);\n    ++products_", "    ++products_"),
        ),
        "of L0C that pipe FIX read before, without a flag FIX_M",
    ),
    "m_m": Mutant(without("PipeBarrier<PIPE_M>();"), "without PipeBarrier<PIPE_M>", k_step=16),
    "event_of_tpipe": Mutant(
        (("kFirstMToMte1Event = 3", "kFirstMToMte1Event = 0"),), "M_MTE1 id 0 is set a second time"
    ),
}

MEMORY = {
    "l0a_misaligned": Mutant(
        (("LoadA(a2, a1", "LoadA(a2[16], a1"),), "dst starts at byte 32 of L0A, its address must be a multiple of 512"
    ),
    "l0b_misaligned": Mutant(
        (("LoadB(b2, b1", "LoadB(b2[128], b1"),), "dst starts at byte 256 of L0B, its address must be a multiple of 512"
    ),
    "l0c_misaligned": Mutant(
        (("Mmad(c0, a2", "Mmad(c0[128], a2"),), "dst starts at byte 512 of L0C, its address must be a multiple of 1024"
    ),
    "l1_misaligned": Mutant((("CopyB(b1, b", "CopyB(b1[8], b"),), "of L1, its address must be a multiple of 32"),
    "fixpipe_misaligned": Mutant(
        (("Fixpipe(c, c0,", "Fixpipe(c, c0[8],"),), "src starts at byte 32 of L0C, its address must be a multiple of 64"
    ),
    "l0b_too_large": Mutant(
        (("b2_buffer_, 2 * kMaxColumns", "b2_buffer_, 3 * kMaxColumns"),), "in L0B, which has 65536"
    ),
    "l0c_too_large": Mutant((("c_buffer_, 2 * kMaxRows", "c_buffer_, 17 * kMaxRows"),), "in L0C, which has 131072"),
    "l1_too_large": Mutant((("b1_buffer_, 2 * kMax", "b1_buffer_, 16 * kMax"),), "in L1, which has 524032"),
    "operands_swapped": Mutant((("Mmad(c0, a2, b2,", "Mmad(c0, b2, a2,"),), "fm is at B2, it must be in L0A"),
    "copy_to_l0": Mutant(
        (("LoadA(a2, a1", "DataCopy(a2, GlobalTensor<T>(), 16);LoadA(a2, a1"),),
        "dst is at A2, DataCopy has no way between there and GM",
    ),
    "padded_copy_to_l1": Mutant(
        (
            (
                "CopyA(a1, a,",
                "DataCopyPad(a1, a, DataCopyExtParams(1, 32, 0, 0, 0), DataCopyPadExtParams<T>());CopyA(a1, a,",
            ),
        ),
        "dst is at A1, it must be in UB",
    ),
    "load_to_l1": Mutant((("LoadB(b2, b1,", "LoadB(b1, b1,"),), "dst is at B1, it must be at A2 or B2"),
    "fractal_never_written": Mutant(
        (("CeilFractals(depth) * n_fractals;", "CeilFractals(depth) * n_fractals + 1;"),),
        "of L1, none of which was ever written",
    ),
    "row_never_written": Mutant(
        (("params.m = shape.m;", "params.m = shape.m + 1;"),), "of L0A, which was never written"
    ),
    "inner_row_never_written": Mutant(
        (("params.k = depth;", "params.k = depth + 1;"),), "of L0A, which was never written", shape=(5, 32, 48)
    ),
    "one_row_as_fractals": Mutant(
        (("if (shape.m == 1) {  // the cube", "if (false) {  //"), ("if (shape.m == 1)", "if (false)")),
        "of L0A, which was never written",
        shape=(1, 32, 48),
    ),
    "accumulates_from_nothing": Mutant((("(k == 0)", "false"),), "of L0C, which was never written"),
    "fixpipe_of_more_than_was_computed": Mutant(
        (("params.mSize = shape.m;", "params.mSize = shape.m + 1;"),), "of L0C, which was never written"
    ),
    "gm_out_of_range": Mutant(
        (("params.nValue = rows;", "params.nValue = rows + 1;"),),
        "of GM buffer 'a', which has",
        shape=(5, 31, 48),
    ),
}

PARAMETERS = {
    "repeat_0": Mutant(
        (("params.repeatTimes = CeilFractals(depth);\n    LoadData(a2", "LoadData(a2"),), "repeatTimes is 0"
    ),
    "repeat_256": Mutant(
        (("params.repeatTimes = CeilFractals(depth) *", "params.repeatTimes = 256 * CeilFractals(depth) *"),),
        "repeatTimes is 0",
    ),
    "m_0": Mutant((("params.m = shape.m;", "params.m = 0;"),), "m is 0, allowed are 1 to 4095"),
    "n_4096": Mutant((("params.n = shape.n;", "params.n = 4096;"),), "n is 4096, allowed are 1 to 4095"),
    "k_0": Mutant((("params.k = depth;", "params.k = 0;"),), "k is 0, allowed are 1 to 4095"),
    "bias_table": Mutant((("params.n = shape.n;", "params.cmatrixSource = true;params.n = shape.n;"),), "bias table"),
    "unit_flag": Mutant((("params.n = shape.n;", "params.unitFlag = 1;params.n = shape.n;"),), "unitFlag is 1"),
    "unit_flag_of_fixpipe_alone": Mutant(
        (("params.nSize = shape.n;", "params.unitFlag = 3;params.nSize = shape.n;"),),
        "deadlock: unitFlag waits for bytes [0, 512) of L0C, which no Mmad with unitFlag 3 has given",
    ),
    "unit_flag_of_mmad_alone": Mutant(
        (("params.n = shape.n;", "params.unitFlag = 3;params.n = shape.n;"),),
        "which no Fixpipe with unitFlag 3 has taken",
    ),
    "nd_num_0": Mutant((("params.ndNum = 1;", ""),), "ndNum is 0, allowed are 1 to 4095"),
    "n_value_16385": Mutant((("params.nValue = rows;", "params.nValue = 16385;"),), "nValue is 16385"),
    "c0_stride_0": Mutant((("params.dstNzC0Stride =", "params.dstNzMatrixStride ="),), "dstNzC0Stride is 0"),
    "rows_overlap": Mutant((("CeilFractals(rows) * kFractalSide", "rows - 1"),), "of its destination twice"),
    "turns_float": Mutant(
        (("kMaxColumns = 128", "kMaxColumns = 64"),),
        "LoadData transposes 16-bit types only",
        b_is_transposed=PLAIN,
        defines=(("DTYPE_A", "float"),),
    ),
    "forgets_to_turn": Mutant(
        (("params.ifTranspose = true;", "params.ifTranspose = false;"),), "", b_is_transposed=PLAIN
    ),
    "type_of_mmad": Mutant((), "this combination of types", defines=(("DTYPE_A", "int16_t"),)),
    "type_of_accumulator": Mutant((("Accumulator = float;", "Accumulator = half;"),), "this combination of types"),
    "quantization_missing": Mutant(
        (("QuantMode_t::F322F16", "QuantMode_t::NoQuant"),),
        "quantPre is 0, these types need 1",
        defines=(("DTYPE_C", "half"),),
    ),
    "dst_stride_0": Mutant((("params.dstStride = shape.n;", ""),), "dstStride is 0"),
    "src_stride_too_small": Mutant((("params.srcStride = kMaxRows;", "params.srcStride = 4;"),), "srcStride is 4"),
    "nz_of_uneven_columns": Mutant(
        (("Fixpipe(c, c0, params)", "Fixpipe<C, float, CFG_NZ>(c, c0, params)"),),
        "nSize is 40, in format NZ it must be a multiple of 16",
        shape=(5, 40, 48),
    ),
    "several_matrices": Mutant(
        (("params.nSize = shape.n;", "params.ndNum = 2;params.nSize = shape.n;"),), "ndNum is 2, only 1 is emulated"
    ),
    "n_size_0": Mutant((("params.nSize = shape.n;", ""),), "nSize is 0, allowed are 1 to 4095"),
    "cross_core_flag": Mutant(
        (("++products_;", "++products_;CrossCoreSetFlag<0, PIPE_FIX>(0);"),),
        "a kernel of type KERNEL_TYPE_AIC_ONLY runs without the scheduler that cross-core flags need",
    ),
}

MUTANTS = SYNCHRONISATION | MEMORY | PARAMETERS


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    variants = {name: Variant("cube_matmul", mutant.changes, dict(mutant.defines)) for name, mutant in MUTANTS.items()}
    return compile_variants(variants, tmp_path_factory.mktemp("refusals"))


def run(kernels, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Multiply ones and twos with the mutant, three times on one core; gives result and expectation."""
    mutant = MUTANTS[name]
    m, n, k = mutant.shape
    defines = dict(mutant.defines)
    a_type = {"half": np.float16, "float": np.float32, "int16_t": np.int16}[defines.get("DTYPE_A", "half")]
    random = np.random.default_rng(1)
    a = random.integers(1, 3, (3, m, k)).astype(a_type)
    b = random.integers(1, 3, (3, n, k) if mutant.b_is_transposed else (3, k, n)).astype(a_type)
    c = np.zeros((3, m, n), np.float16 if defines.get("DTYPE_C") == "half" else np.float32)
    kernels.run(
        name,
        "KERNEL_TYPE_AIC_ONLY",
        1,
        *(("a", a, READ_ONLY), ("b", b, READ_ONLY), ("c", c, WRITTEN)),
        ("tiling", pack(3, m, n, k, mutant.k_step, mutant.b_is_transposed), READ_ONLY),
    )
    return c, a.astype(int) @ (b.swapaxes(1, 2) if mutant.b_is_transposed else b).astype(int)


@pytest.mark.parametrize("name", [name for name, mutant in MUTANTS.items() if mutant.message])
def test_refusal(kernels, name):
    with pytest.raises(RefusedError) as refused:
        run(kernels, name)

    assert MUTANTS[name].message in str(refused.value)
    assert str(refused.value).startswith("block 0 AIC, ")


def test_missing_transposition_of_16_bit_types_shows_in_the_result(kernels):
    c, expected = run(kernels, "forgets_to_turn")

    assert (c != expected).any()
