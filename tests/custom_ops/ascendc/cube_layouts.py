"""Fractal layouts as CANN's documentation words them, in NumPy.

Source: the chapter on fractal formats of the Ascend C documentation, whose formulas are pad, reshape and transpose, and
the examples there and in the chapters on ND to NZ copies, LoadDataWithTranspose and Fixpipe.
"""

import numpy as np

ROWS = 16


def c0(dtype) -> int:
    """Elements of `dtype` in 32 bytes, which is a row of a fractal."""
    return 32 // np.dtype(dtype).itemsize


def split(matrix: np.ndarray, row_size: int, column_size: int) -> np.ndarray:
    """Pads [rows, columns] with zeros and reshapes it to [row blocks, row_size, column blocks, column_size]."""
    rows = -(-matrix.shape[0] // row_size)
    columns = -(-matrix.shape[1] // column_size)
    padded = np.zeros((rows * row_size, columns * column_size), matrix.dtype)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    return padded.reshape(rows, row_size, columns, column_size)


def zz(left: np.ndarray) -> np.ndarray:
    """[m, k] as L0A wants it: (M1, K1, M0, K0), flat."""
    return split(left, ROWS, c0(left.dtype)).transpose(0, 2, 1, 3).ravel()


def zn(right: np.ndarray) -> np.ndarray:
    """[k, n] as L0B wants it: (K1, N1, N0, K0), flat."""
    return split(right, c0(right.dtype), ROWS).transpose(0, 2, 3, 1).ravel()


def nz(matrix: np.ndarray, column_size: int | None = None) -> np.ndarray:
    """[m, n] as an ND to NZ copy leaves it in L1, (N1, M1, M0, N0), flat; with 16 columns a fractal, as L0C has it."""
    return split(matrix, ROWS, column_size or c0(matrix.dtype)).transpose(2, 0, 1, 3).ravel()


def nd_to_nz(source: np.ndarray, l1: np.ndarray, params: dict) -> np.ndarray:
    """Carries out an ND to NZ copy one row of 32 bytes at a time, as the tables of its parameters say.

    `source` and `l1` are flat; strides of the source and matrix strides are in elements, the others in 32 bytes.
    """
    result = l1.copy()
    block = c0(source.dtype)
    for matrix in range(params["nd_num"]):
        for row in range(params["n_value"]):
            start = matrix * params["src_nd_matrix_stride"] + row * params["src_d_value"]
            values = source[start : start + params["d_value"]]
            for column in range(0, params["d_value"], block):
                piece = np.zeros(block, source.dtype)
                taken = values[column : column + block]
                piece[: taken.size] = taken
                place = matrix * params["dst_nz_matrix_stride"] + block * (
                    column // block * params["dst_nz_c0_stride"] + row * params["dst_nz_n_stride"]
                )
                result[place : place + block] = piece
    return result


def transpose_squares(fractals: np.ndarray) -> np.ndarray:
    """Flat fractals -> each square of them transposed and split into fractals again.

    A square is one fractal of 16-bit types; two 16x32 fractals below each other of 8-bit types; two 16x8 fractals
    beside each other of 32-bit types.
    """
    columns = c0(fractals.dtype)
    side = max(ROWS, columns)
    squares = []
    for square in fractals.reshape(-1, side * side):
        if columns >= ROWS:
            turned = square.reshape(side, side).T  # the fractals of a square are its upper and its lower half
            squares.append(turned.ravel())
        else:
            turned = square.reshape(2, ROWS, columns).transpose(1, 0, 2).reshape(side, side).T
            squares.append(turned.reshape(side, 2, columns).transpose(1, 0, 2).ravel())
    return np.concatenate(squares)
