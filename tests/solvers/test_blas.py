import threading

import numpy as np
import pytest

from cntk_pipeline.solvers.blas import BLOCK, factor_lower, solve_right, subtract_product, subtract_square

SIZES = [1, 5, BLOCK - 1, BLOCK, 2 * BLOCK + 3]


def tiles(*shapes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape) for shape in shapes]


def positive(n: int) -> np.ndarray:
    (a,) = tiles((n, n))
    return a @ a.T + n * np.eye(n)


@pytest.mark.parametrize("m", [0, 1, 7])
@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("k", [0, 1, 9])
def test_a_product_is_subtracted_in_place(m: int, n: int, k: int) -> None:
    a, b, tile = tiles((m, k), (n, k), (m, n))
    expected = tile - a @ b.T
    subtract_product(a, b, tile)
    np.testing.assert_allclose(tile, expected, rtol=0, atol=1e-13)


def test_products_of_parts_of_larger_tiles() -> None:
    a, b, tile = tiles((9, 20), (8, 20), (30, 40))
    expected = tile.copy()
    expected[3:12, 5:13] -= a[:, 2:9] @ b[:, 2:9].T
    subtract_product(a[:, 2:9], b[:, 2:9], tile[3:12, 5:13])
    np.testing.assert_allclose(tile, expected, rtol=0, atol=1e-13)


def test_a_square_changes_the_lower_triangle_only() -> None:
    a, tile = tiles((6, 4), (6, 6))
    expected = np.where(np.tri(6, dtype=bool), tile - a @ a.T, tile)
    subtract_square(a, tile)
    np.testing.assert_allclose(tile, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("n", SIZES)
def test_a_factor_is_that_of_numpy(n: int) -> None:
    matrix = positive(n)
    tile = matrix.copy()
    assert factor_lower(tile) == -1
    np.testing.assert_allclose(tile, np.linalg.cholesky(matrix), rtol=0, atol=1e-13 * np.sqrt(n) * n)
    assert not np.triu(tile, 1).any()


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("m", [0, 1, 10])
def test_a_solve_on_the_right_undoes_a_product(n: int, m: int) -> None:
    lower = np.linalg.cholesky(positive(n)) + np.triu(np.full((n, n), np.nan), 1)  # what lies above is not read
    (x,) = tiles((m, n))
    tile = x @ np.tril(np.nan_to_num(lower)).T
    solve_right(lower, tile)
    np.testing.assert_allclose(tile, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("row", [0, 3, BLOCK, 2 * BLOCK + 1])
def test_the_first_pivot_that_is_not_positive_is_found(row: int) -> None:
    tile = positive(2 * BLOCK + 3)
    tile[row, row] = tile[row, :row] @ np.linalg.solve(tile[:row, :row], tile[:row, row]) - 1
    assert factor_lower(tile) == row


def test_a_single_column_is_contiguous_whatever_its_strides() -> None:
    column = np.ascontiguousarray(np.ones((1, 3)).T)
    assert column.strides[1] != column.itemsize
    solve_right(np.array([[2.0]]), column)
    np.testing.assert_array_equal(column, np.full((3, 1), 0.5))


def test_what_blas_cannot_take_is_refused() -> None:
    a, b, tile = tiles((4, 4), (4, 4), (4, 4))
    with pytest.raises(ValueError, match="dgemm takes float64 with contiguous rows, got float32"):
        subtract_product(a.astype(np.float32), b, tile)
    with pytest.raises(ValueError, match="contiguous rows"):
        subtract_product(a.T, b, tile)


def test_python_runs_while_a_product_does() -> None:
    a, tile = tiles((1500, 1500), (1500, 1500))
    turns, done = 0, threading.Event()

    def multiply() -> None:
        subtract_product(a, a, tile)
        done.set()

    threading.Thread(target=multiply).start()
    while not done.wait(0.001):
        turns += 1
    assert turns > 5  # some 100 ms
