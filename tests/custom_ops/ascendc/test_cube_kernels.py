"""Good kernels on the emulated cube unit give what NumPy gives, and the report counts what they did."""

import itertools

import numpy as np
import pytest

from tests.custom_ops.ascendc.cube_calls import Variant, compile_variants, pack
from tests.custom_ops.ascendc.emulated import READ_ONLY, WORKSPACE, WRITTEN, RefusedError

TRANSPOSED, PLAIN = 1, 0
# The chip's bfloat16 has no NumPy type: its bits are the upper half of a float32's.
TYPES = {"half": np.float16, "bfloat16_t": np.uint16, "float": np.float32}


# unitFlag instead of the flags between Mmad and Fixpipe.
UNIT_FLAGS = (
    ("params.k = depth;", "params.k = depth;\nparams.unitFlag = k + depth == shape.k ? 3 : 2;"),
    ("params.mSize = shape.m;", "params.mSize = shape.m;\nparams.unitFlag = 3;"),
    ("SetFlag<HardEvent::M_FIX>(half);", ""),
    ("WaitFlag<HardEvent::M_FIX>(half);", ""),
    ("WaitFlag<HardEvent::FIX_M>(half);\n    for", "for"),
    ("SetFlag<HardEvent::FIX_M>(half);\n    ++products_", "++products_"),
)

CHAIN_MUTANTS = {
    "chain_without_flag": (
        [("SetFlag<HardEvent::FIX_MTE1>(EVENT_ID0);", ""), ("WaitFlag<HardEvent::FIX_MTE1>(EVENT_ID0);", "")],
        "of L1 that pipe FIX wrote before, without a flag FIX_MTE1",
    ),
    "chain_of_rows": ([("<half, float, CFG_NZ>(between", "(between")], "to L1 the format must be CFG_NZ"),
    "chain_of_float": (
        [("<half, float, CFG_NZ>(between", "<float, float, CFG_NZ>(between.ReinterpretCast<float>()")],
        "to L1 float must become half or bfloat16_t",
    ),
}


def to_device(values: np.ndarray, name: str) -> np.ndarray:
    if name == "bfloat16_t":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(TYPES[name])


def from_device(stored: np.ndarray, name: str) -> np.ndarray:
    if name == "bfloat16_t":
        return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    variants = {
        f"matmul_{a}_{c}": Variant("cube_matmul", defines={"DTYPE_A": a, "DTYPE_C": c})
        for a, c in (("half", "float"), ("half", "half"), ("bfloat16_t", "float"), ("bfloat16_t", "bfloat16_t"))
    }
    variants["matmul_half_unit"] = Variant("cube_matmul", UNIT_FLAGS)
    variants["matmul_half_relu"] = Variant("cube_matmul", [("params.mSize", "params.reluEn = true;params.mSize")])
    variants["chain"] = Variant("cube_chain")
    variants |= {name: Variant("cube_chain", changes) for name, (changes, _) in CHAIN_MUTANTS.items()}
    variants["mixed"] = Variant("cube_mixed")
    return compile_variants(variants, tmp_path_factory.mktemp("kernels"))


def multiply(kernels, a_name, c_name, shape, b_is_transposed, *, k_step=128, batch=3, blocks=2):
    """Multiply random matrices; gives (result, expected, figures)."""
    m, n, k = shape
    random = np.random.default_rng(m * n * k)
    a = to_device(random.standard_normal((batch, m, k)), a_name)
    b = to_device(random.standard_normal((batch, n, k) if b_is_transposed else (batch, k, n)), a_name)
    c = np.zeros((batch, m, n), TYPES.get(c_name, np.float32))
    figures = kernels.run(
        f"matmul_{a_name}_{c_name}",
        "KERNEL_TYPE_AIC_ONLY",
        blocks,
        *(("a", a, READ_ONLY), ("b", b, READ_ONLY), ("c", c, WRITTEN)),
        ("tiling", pack(batch, m, n, k, k_step, b_is_transposed), READ_ONLY),
    )
    right = from_device(b, a_name)
    expected = from_device(a, a_name) @ (right.swapaxes(1, 2) if b_is_transposed else right)
    return from_device(c, c_name), expected, figures


SIZES = (16, 48, 128)


@pytest.mark.parametrize("b_is_transposed", [TRANSPOSED, PLAIN])
@pytest.mark.parametrize("m", [1, 2, 7, 16])
def test_products(kernels, m, b_is_transposed):
    for n, k in itertools.product(SIZES, SIZES):
        c, expected, _ = multiply(kernels, "half", "float", (m, n, k), b_is_transposed)

        np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("b_is_transposed", [TRANSPOSED, PLAIN])
@pytest.mark.parametrize("k_step", [16, 32, 64])
def test_accumulation_over_steps_of_k(kernels, k_step, b_is_transposed):
    for shape in ((5, 48, 112), (16, 128, 128), (3, 40, 56)):
        c, expected, _ = multiply(kernels, "half", "float", shape, b_is_transposed, k_step=k_step)

        np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("a_name", "c_name", "tolerance"),
    [("half", "half", 2e-3), ("bfloat16_t", "float", 1e-4), ("bfloat16_t", "bfloat16_t", 2e-2)],
)
def test_element_types(kernels, a_name, c_name, tolerance):
    c, expected, _ = multiply(kernels, a_name, c_name, (6, 64, 96), TRANSPOSED)

    np.testing.assert_allclose(c, expected, rtol=tolerance, atol=tolerance * 4)


def test_unit_flags_stand_in_for_flags(kernels):
    c, expected, _ = multiply(kernels, "half", "unit", (8, 32, 96), TRANSPOSED, k_step=32, batch=5, blocks=1)

    np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-4)


def test_relu(kernels):
    c, expected, _ = multiply(kernels, "half", "relu", (8, 32, 96), TRANSPOSED)

    assert (expected < 0).any()
    np.testing.assert_allclose(c, np.maximum(expected, 0), rtol=1e-4, atol=1e-4)


def chain(kernels, entry, m, k, n, p):
    random = np.random.default_rng(m)
    a = random.standard_normal((m, k)).astype(np.float16)
    b = random.standard_normal((n, k)).astype(np.float16)
    d = random.standard_normal((p, n)).astype(np.float16)
    out = np.zeros((m, p), np.float32)
    kernels.run(
        entry,
        "KERNEL_TYPE_AIC_ONLY",
        1,
        *(("a", a, READ_ONLY), ("b", b, READ_ONLY), ("d", d, READ_ONLY), ("out", out, WRITTEN)),
        ("tiling", pack(m, k, n, p), READ_ONLY),
    )
    between = a.astype(np.float64) @ b.astype(np.float64).T
    # What lies between becomes half: each element is off by up to 2**-11 of itself.
    error = np.abs(between) @ np.abs(d.astype(np.float64)).T * 2**-11 + 1e-3
    return out, between @ d.astype(np.float64).T, error


@pytest.mark.parametrize(("m", "k", "n", "p"), [(40, 64, 48, 32), (5, 16, 64, 64), (64, 48, 16, 16)])
def test_fixpipe_to_l1_and_queues(kernels, m, k, n, p):
    out, expected, error = chain(kernels, "chain", m, k, n, p)

    assert (np.abs(out - expected) <= error).all()


@pytest.mark.parametrize("name", CHAIN_MUTANTS)
def test_fixpipe_to_l1_is_refused(kernels, name):
    with pytest.raises(RefusedError) as refused:
        chain(kernels, name, 16, 16, 16, 16)

    assert CHAIN_MUTANTS[name][1] in str(refused.value)


def test_inner_dimension_need_not_fill_fractals(kernels):
    c, expected, _ = multiply(kernels, "half", "float", (4, 32, 41), PLAIN)

    np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-4)


def test_report_counts_bytes_products_and_peaks(kernels):
    m, n, k, batch = 5, 32, 48, 3

    _, _, figures = multiply(kernels, "half", "float", (m, n, k), TRANSPOSED, k_step=16, batch=batch)

    assert figures["mte2_bytes"] == batch * 2 * (m * k + n * k)
    assert figures["mte1_bytes"] == batch * 512 * (3 + 3 * 2)
    assert figures["fix_bytes"] == batch * 4 * m * n
    assert figures["cube_instructions"] == batch * 3
    assert figures["cube_macs"] == batch * 16 * 32 * 48
    assert figures["peak_l0a"] == 16 * 128 * 2 + 512  # the second half's first fractal
    assert figures["peak_l0b"] == 128 * 128 * 2 + 2 * 512


def mixed(kernels, tasks, m, n, d, blocks):
    random = np.random.default_rng(tasks * m * n * d)
    q = random.standard_normal((tasks, m, d)).astype(np.float16) * np.float16(0.1)
    k = random.standard_normal((tasks, n, d)).astype(np.float16)
    v = random.standard_normal((tasks, n, d)).astype(np.float16)
    o = np.zeros((tasks, m, d), np.float32)
    workspace = np.zeros(blocks * 3 * m * n * 4, np.uint8)
    kernels.run(
        "mixed",
        "KERNEL_TYPE_MIX_AIC_1_2",
        blocks,
        *(("q", q, READ_ONLY), ("k", k, READ_ONLY), ("v", v, READ_ONLY), ("o", o, WRITTEN)),
        *(("workspace", workspace, WORKSPACE), ("tiling", pack(tasks, m, n, d), READ_ONLY)),
    )
    weights = np.exp(q.astype(np.float64) @ k.astype(np.float64).swapaxes(1, 2))
    # The weights become half on the way: each is off by up to 2**-11 of itself.
    return o, weights @ v.astype(np.float64), weights @ np.abs(v.astype(np.float64)) * 2**-11 + 1e-3


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize(("tasks", "m", "n", "d"), [(7, 16, 64, 128), (5, 3, 128, 32), (1, 2, 16, 16), (2, 8, 32, 64)])
def test_cube_and_vector_cores_together(kernels, tasks, m, n, d, blocks):
    o, expected, error = mixed(kernels, tasks, m, n, d, blocks)

    assert (np.abs(o - expected) <= error).all()
