"""Which bytes of L1, L0A, L0B and L0C the cube unit's instructions take for which element, as documented."""

import numpy as np
import pytest

from tests.custom_ops.ascendc import cube_layouts
from tests.custom_ops.ascendc.cube_calls import Variant, compile_variants, pack, raw_operand
from tests.custom_ops.ascendc.emulated import READ_ONLY, WRITTEN, RefusedError

PLAIN, IF_TRANSPOSE, WITH_TRANSPOSE = range(3)
TYPES = {"half": (np.float16, np.float32), "float": (np.float32, np.float32), "int8_t": (np.int8, np.int32)}

MULTIPLY_TWICE = [
    ("Mmad(c0, a2, b2, mmad);", "Mmad(c0, a2, b2, mmad);mmad.cmatrixInitVal = false;Mmad(c0, a2, b2, mmad);")
]
MTE2_TO_M = "SetFlag<HardEvent::MTE2_M>(EVENT_ID1);WaitFlag<HardEvent::MTE2_M>(EVENT_ID1);"
FROM_GM = [
    (
        "Load(b2, b1, plan.b);",
        f"LoadData(b2, b_gm, LoadData2DParams(0, plan.b.repeat, plan.b.src_stride, 0, 0, false, 0));{MTE2_TO_M}",
    )
]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    variants = {
        f"raw_{name}": Variant(
            "cube_raw", defines={"DTYPE_A": name, "DTYPE_C": "int32_t" if name == "int8_t" else "float"}
        )
        for name in TYPES
    }
    variants["raw_int16_t"] = Variant("cube_raw", defines={"DTYPE_A": "int16_t"})
    variants["raw_half_twice"] = Variant("cube_raw", MULTIPLY_TWICE)
    variants["raw_half_from_gm"] = Variant("cube_raw", FROM_GM)
    variants["raw_half_from_gm_without_flag"] = Variant("cube_raw", [*FROM_GM, (MTE2_TO_M, "")])
    variants |= {f"nd2nz_{name}": Variant("cube_nd2nz", defines={"DTYPE_A": name}) for name in TYPES}
    return compile_variants(variants, tmp_path_factory.mktemp("layouts"))


def random_integers(shape, dtype) -> np.ndarray:
    """Integers small enough that every product and sum of them is exact."""
    return np.random.default_rng(7).integers(-9, 10, shape).astype(dtype)


def multiply_raw(kernels, name, a, b, operands, shape, *, nz_out=False, align=False, entry=None) -> np.ndarray:
    """Run cube_raw on flat `a` and `b`; gives [m, n], or with nz_out the flat fractals."""
    m, n, k = shape
    rows = -(-m // 16) * 16
    c = np.zeros(rows * n if nz_out else m * n, TYPES[name][1])
    dst_stride = rows * 2 if nz_out else n  # in 32 bytes, or in elements
    tiling = pack(*operands[0], *operands[1], m, n, k, align, nz_out, rows, dst_stride)
    kernels.run(
        entry or f"raw_{name}",
        "KERNEL_TYPE_AIC_ONLY",
        1,
        *(("a", a, READ_ONLY), ("b", b, READ_ONLY), ("c", c, WRITTEN), ("tiling", tiling, READ_ONLY)),
    )
    return c if nz_out else c.reshape(m, n)


def whole(fractals: np.ndarray) -> list[int]:
    """An operand that is in its L0 layout already."""
    return raw_operand(fractals.size, repeat=fractals.nbytes // 512)


def test_nz_is_the_printed_example_of_the_documentation():
    fractals = cube_layouts.nz(np.arange(20 * 28, dtype=np.float16).reshape(20, 28)).reshape(2, 2, 16, 16)

    assert fractals[0, 0, :3, [0, 1, 2, 13, 14, 15]].T.tolist() == [
        [0, 1, 2, 13, 14, 15],
        [28, 29, 30, 41, 42, 43],
        [56, 57, 58, 69, 70, 71],
    ]
    assert fractals[1, 0, :3, [0, 1, 2, 13, 14, 15]].T.tolist() == [
        [16, 17, 18, 0, 0, 0],
        [44, 45, 46, 0, 0, 0],
        [72, 73, 74, 0, 0, 0],
    ]


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("shape", [(37, 48, 56), (16, 16, 16), (2, 16, 33)])
@pytest.mark.parametrize("nz_out", [False, True])
def test_mmad_reads_zz_and_zn_and_leaves_nz(kernels, name, shape, nz_out):
    m, n, k = shape
    a = random_integers((m, k), TYPES[name][0])
    b = random_integers((k, n), TYPES[name][0])
    left, right = cube_layouts.zz(a), cube_layouts.zn(b)
    product = a.astype(np.int64) @ b.astype(np.int64)

    c = multiply_raw(kernels, name, left, right, (whole(left), whole(right)), shape, nz_out=nz_out)

    if nz_out:
        product = np.pad(product, ((0, -m % 16), (0, 0)))
        np.testing.assert_array_equal(c, cube_layouts.nz(product, 16))
    else:
        np.testing.assert_array_equal(c, product)


def test_mmad_of_one_row_reads_a_plain_vector(kernels):
    k, n = 300, 32
    a = random_integers(k, np.float16)
    b = random_integers((k, n), np.float16)
    left, right = np.pad(a, (0, 512 - k)), cube_layouts.zn(b)

    c = multiply_raw(kernels, "half", left, right, (whole(left), whole(right)), (1, n, k))

    np.testing.assert_array_equal(c[0], a.astype(np.int64) @ b.astype(np.int64))


def test_k_direction_align_leaves_a_column_of_fractals_out(kernels):
    m, n, k = 32, 16, 36
    a = random_integers((m, k), np.float32)
    b = random_integers((k, n), np.float32)
    left = cube_layouts.zz(np.pad(a, ((0, 0), (0, 48 - k)), constant_values=7))
    right = cube_layouts.zn(b)

    c = multiply_raw(kernels, "float", left, right, (whole(left), whole(right)), (m, n, k), align=True)

    np.testing.assert_array_equal(c, a.astype(np.int64) @ b.astype(np.int64))


@pytest.mark.parametrize("name", TYPES)
def test_load_data_with_transpose_turns_squares(kernels, name):
    dtype = TYPES[name][0]
    k = cube_layouts.c0(dtype)
    source = random_integers(3 * max(16, k) ** 2, dtype)
    identity = np.eye(max(16, k), k, dtype=dtype)
    left = cube_layouts.zz(identity)
    fractals_in_square = 1 if name == "half" else 2
    turn = raw_operand(source.size, load=WITH_TRANSPOSE, repeat=3, dst_gap=fractals_in_square - 1)
    n = source.size // k

    c = multiply_raw(kernels, name, left, source, (whole(left), turn), (identity.shape[0], n, k))

    seen = cube_layouts.zn(c[:k].astype(dtype))
    np.testing.assert_array_equal(seen, cube_layouts.transpose_squares(source))


def test_load_data_with_transpose_of_16_bit_integers_is_refused(kernels):
    fractals = np.zeros(256, np.int16)
    turn = raw_operand(fractals.size, load=WITH_TRANSPOSE)

    with pytest.raises(RefusedError, match="of 16-bit types, half and bfloat16_t are allowed"):
        multiply_raw(kernels, "half", fractals, fractals, (whole(fractals), turn), (16, 16, 16), entry="raw_int16_t")


@pytest.mark.parametrize("load", [IF_TRANSPOSE, WITH_TRANSPOSE])
def test_right_matrix_that_is_not_transposed_needs_the_transposing_load(kernels, load):
    m, n, k = 5, 48, 64
    a = random_integers((m, k), np.float16)
    b = random_integers((k, n), np.float16)
    left, right = cube_layouts.zz(a), cube_layouts.nz(b)
    turn = raw_operand(
        right.size, load=load, outer=k // 16, src_step=256, dst_step=n // 16 * 256, repeat=n // 16, src_stride=k // 16
    )

    c = multiply_raw(kernels, "half", left, right, (whole(left), turn), (m, n, k))

    np.testing.assert_array_equal(c, a.astype(np.int64) @ b.astype(np.int64))


ROW_BY_ROW = {"outer": 3, "src_step": 256, "dst_step": 4 * 256, "repeat": 4, "src_stride": 3}
COLUMN_BY_COLUMN = {"outer": 4, "src_step": 3 * 256, "dst_step": 256, "repeat": 3, "dst_gap": 3}


@pytest.mark.parametrize("way", [ROW_BY_ROW, COLUMN_BY_COLUMN], ids=["row by row", "column by column"])
def test_left_matrix_of_several_rows_of_fractals_goes_from_nz_to_zz(kernels, way):
    m, n, k = 40, 16, 56
    a = random_integers((m, k), np.float16)
    b = random_integers((k, n), np.float16)
    left, right = cube_layouts.nz(a), cube_layouts.zn(b)
    regroup = raw_operand(left.size, **way)

    c = multiply_raw(kernels, "half", left, right, (regroup, whole(right)), (m, n, k))

    np.testing.assert_array_equal(c, a.astype(np.int64) @ b.astype(np.int64))


def test_large_products_accumulate_without_barrier(kernels):
    a = random_integers((32, 16), np.float16)
    b = random_integers((16, 80), np.float16)
    left, right = cube_layouts.zz(a), cube_layouts.zn(b)
    operands = (whole(left), whole(right))

    c = multiply_raw(kernels, "half", left, right, operands, (32, 80, 16), entry="raw_half_twice")

    np.testing.assert_array_equal(c, 2 * (a.astype(np.int64) @ b.astype(np.int64)))
    with pytest.raises(RefusedError, match="without PipeBarrier<PIPE_M> between them"):
        multiply_raw(kernels, "half", left, right, operands, (32, 79, 16), entry="raw_half_twice")


def test_fractals_come_from_gm_too(kernels):
    a = random_integers((16, 32), np.float16)
    b = random_integers((32, 32), np.float16)
    left, right = cube_layouts.zz(a), cube_layouts.zn(b)
    operands = (whole(left), whole(right))

    c = multiply_raw(kernels, "half", left, right, operands, (16, 32, 32), entry="raw_half_from_gm")

    np.testing.assert_array_equal(c, a.astype(np.int64) @ b.astype(np.int64))
    with pytest.raises(RefusedError, match="L0B that pipe MTE2 wrote before, without a flag MTE2_M"):
        multiply_raw(kernels, "half", left, right, operands, (16, 32, 32), entry="raw_half_from_gm_without_flag")


CONTINUOUS = {
    **{"nd_num": 1, "n_value": 16, "d_value": 23, "src_nd_matrix_stride": 0, "src_d_value": 32},
    **{"dst_nz_c0_stride": 16, "dst_nz_n_stride": 1, "dst_nz_matrix_stride": 0},
}
SCATTERED = {
    **{"nd_num": 2, "n_value": 8, "d_value": 23, "src_nd_matrix_stride": 384, "src_d_value": 32},
    **{"dst_nz_c0_stride": 37, "dst_nz_n_stride": 2, "dst_nz_matrix_stride": 20 * 16},
}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("params", [CONTINUOUS, SCATTERED], ids=["continuous", "scattered"])
def test_nd_to_nz_with_the_parameters_of_the_documentation(kernels, name, params):
    dtype = TYPES[name][0]
    # The documentation's matrices of half lie 20 rows of 16 elements apart.
    params = params | {"dst_nz_matrix_stride": params["dst_nz_matrix_stride"] // 16 * cube_layouts.c0(dtype)}
    source = random_integers(384 + 32 * 12, dtype)
    background = np.full(4096, 77, dtype)
    shown = np.zeros_like(background)
    tiling = pack(source.size, background.size, *params.values())

    kernels.run(
        f"nd2nz_{name}",
        "KERNEL_TYPE_AIC_ONLY",
        1,
        *(("source", source, READ_ONLY), ("background", background, READ_ONLY)),
        *(("shown", shown, WRITTEN), ("tiling", tiling, READ_ONLY)),
    )

    np.testing.assert_array_equal(shown, cube_layouts.nd_to_nz(source, background, params))


def test_nd_to_nz_pads_columns_with_zeros_and_leaves_rows_alone(kernels):
    source = random_integers(40 * 56, np.float16)
    background = np.full(48 * 64, 77, np.float16)
    shown = np.zeros_like(background)
    tiling = pack(source.size, background.size, 1, 40, 56, 0, 56, 48, 1, 0)

    kernels.run(
        "nd2nz_half",
        "KERNEL_TYPE_AIC_ONLY",
        1,
        *(("source", source, READ_ONLY), ("background", background, READ_ONLY)),
        *(("shown", shown, WRITTEN), ("tiling", tiling, READ_ONLY)),
    )

    expected = cube_layouts.nz(source.reshape(40, 56)).reshape(4, 48, 16)
    expected[:, 40:] = 77
    np.testing.assert_array_equal(shown, expected.ravel())
