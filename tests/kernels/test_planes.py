"""Loops over one plane against NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from support.tolerances import DTYPES

from cntk_pipeline.kernels import planes
from cntk_pipeline.kernels.lanes import LANES, address
from cntk_pipeline.kernels.pooling import pool_terms
from cntk_pipeline.layers import Windows

HALO = 3
LAW = settings(max_examples=40, deadline=None, derandomize=True)


@njit
def call_sum_windows(source, target, ring, first, stride, shape, to_shape, windows, circular):
    if circular:
        planes.wrap_rim(address(source, first), stride, shape, first // 16)
    else:
        planes.clear_rim(address(source, first), stride, shape, first // 16)
    planes.sum_windows(
        address(source, first), address(target, first), address(ring, 0), stride, shape, to_shape, windows, circular
    )


def frame(plane, size, dtype):
    """Put a plane into memory that is full of nonsense around it."""
    memory = np.full((size[0] + HALO, size[1] + 2 * HALO, LANES), np.nan, dtype)
    memory[: plane.shape[0], HALO : HALO + plane.shape[1]] = plane
    return memory


@st.composite
def window_pairs(draw, padding):
    found = []
    for _ in range(2):
        size = draw(st.integers(1, 6))
        window = draw(st.integers(1, min(size, 5) if padding != "SAME" else 5))
        stride = 1 if padding == "CIRCULAR" else draw(st.integers(1, 3))
        found.append(Windows.place(size, window, stride, padding))
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR"])
@LAW
@given(data=st.data())
def test_windows_are_those_of_dense_matrices(padding, dtype, data):
    rows, columns = data.draw(window_pairs(padding))
    shape, to_shape = (rows.size, columns.size), (rows.count, columns.count)
    # Whole numbers add up exactly in any order.
    plane = np.random.default_rng(0).integers(-9, 9, (*shape, LANES)).astype(dtype)
    source = frame(plane, shape, dtype)
    in_place = padding != "CIRCULAR" and data.draw(st.booleans())
    target = source if in_place else frame(np.zeros((*to_shape, LANES)), shape, dtype)
    windows = tuple((w.window, w.stride, w.before) for w in (rows, columns))
    stride = source.shape[1] * LANES
    ring = np.full(rows.window * stride, np.nan, dtype)
    call_sum_windows(
        source.ravel(), target.ravel(), ring, HALO * LANES, stride, shape, to_shape, windows, padding == "CIRCULAR"
    )
    expected = np.zeros((*to_shape, LANES))
    for i in range(rows.count):
        for j in range(columns.count):
            for di in range(rows.window):
                for dj in range(columns.window):
                    y, x = i * rows.stride - rows.before + di, j * columns.stride - columns.before + dj
                    if padding == "CIRCULAR":
                        y, x = y % shape[0], x % shape[1]
                    if 0 <= y < shape[0] and 0 <= x < shape[1]:
                        expected[i, j] += plane[y, x]
    np.testing.assert_array_equal(target[: rows.count, HALO : HALO + columns.count], expected)


@njit
def call_sum(plane, stride, shape, row_weights, column_weights, scale, sums):
    weights = address(row_weights, 0), address(column_weights, 0)
    planes.add_plane_sum(address(plane, 0), stride, shape, weights, scale, address(sums, 0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_weighted_sums_are_added_in_float64(dtype):
    plane = np.random.default_rng(2).integers(-9, 9, (3, 4, LANES)).astype(dtype)
    rows, columns = np.array([1, 0, 3], dtype), np.array([2, 1, 0, 5], dtype)
    sums = np.full(LANES, 1e12)
    call_sum(plane.ravel(), 4 * LANES, (3, 4), rows, columns, 0.5, sums)
    np.testing.assert_array_equal(sums, 1e12 + 0.5 * np.einsum("i,j,ijl->l", rows, columns, plane.astype(np.float64)))


@njit
def call_pool(plane, stride, rows, columns, starts, widths, count, buffer, width, tensor):
    layout = address(starts, 0), address(widths, 0), count
    planes.pool_plane(address(plane, 0), stride, rows, columns, layout, address(buffer, 0), width, address(tensor, 0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("edges", [True, False])
def test_planes_of_all_offsets_make_the_pooled_covariances(dtype, edges):
    rows, columns = Windows.place(4, 3, 2, "SAME"), Windows.place(3, 2, 1, "VALID")
    row_terms, column_terms = (pool_terms(w, edges, False, False) for w in (rows, columns))
    matrix = np.random.default_rng(3).standard_normal((4, 3, 4, 3, LANES)).astype(dtype)
    pool = np.einsum("ab,cd->acbd", rows.weights(edges), columns.weights(edges))
    expected = np.einsum("acij,ijklL,bdkl->acbdL", pool, matrix.astype(np.float64), pool)
    # The pooled tensor has all offsets but one, which nothing needs.
    widths = np.array([1, 2, 1])
    sizes = np.outer([1, 2, 1], widths)
    starts = (np.cumsum(sizes) - sizes.ravel()).reshape(3, 3)
    starts[0, 0] = -1
    tensor = np.zeros((16, LANES), dtype)
    for dy in range(-3, 4):
        for dx in range(-2, 3):
            y, x = np.arange(max(0, -dy), min(4, 4 - dy)), np.arange(max(0, -dx), min(3, 3 - dx))
            plane = np.ascontiguousarray(matrix[y[:, None], x, (y + dy)[:, None], x + dx])
            terms = []
            for found, offset in ((row_terms, dy + 3), (column_terms, dx + 2)):
                part = slice(found.bounds[offset], found.bounds[offset + 1])
                terms.append((found.terms[part], found.weights[part].astype(dtype)))
            buffer = np.zeros(3 * LANES, dtype)
            call_pool(plane.ravel(), len(x) * LANES, *terms, starts.ravel(), widths, 3, buffer, len(x), tensor.ravel())
    assert not tensor[0].any()
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            if (dy, dx) == (-1, -1):
                continue
            place = starts[dy + 1, dx + 1]
            for i, y in enumerate(range(max(0, -dy), min(2, 2 - dy))):
                for j, x in enumerate(range(max(0, -dx), min(2, 2 - dx))):
                    found = tensor[place + i * widths[dx + 1] + j]
                    atol = 50 * np.finfo(dtype).eps
                    np.testing.assert_allclose(found, expected[y, x, y + dy, x + dx], rtol=0, atol=atol)
