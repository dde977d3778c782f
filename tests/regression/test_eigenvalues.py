import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator
from support.regressions import make_regression

from cntk_pipeline.errors import ConfigError, NotConverged, NotFinite
from cntk_pipeline.regression import eigenvalues, spectrum


def decaying(n: int) -> tuple[np.ndarray, np.ndarray]:
    """A kernel with a spectrum like those of images, and its eigenvalues, falling: one large, then a power law."""
    rng = np.random.default_rng(n)
    values = np.concatenate([[10.0 * n], np.arange(1, n) ** -1.5])
    vectors, _ = np.linalg.qr(rng.standard_normal((n, n)))
    matrix = vectors * values @ vectors.T
    return (matrix + matrix.T) / 2, values


def operator(matrix: np.ndarray, dtype: str = "float64") -> LinearOperator:
    return LinearOperator(matrix.shape, matvec=lambda vector: matrix @ vector, dtype=dtype)


MATRIX, VALUES = decaying(200)


def test_all_eigenvalues_are_found_with_their_residuals() -> None:
    found = spectrum(MATRIX)
    np.testing.assert_allclose(found.eigenvalues, VALUES, rtol=0, atol=1e-12 * VALUES[0])
    assert found.residuals.shape == VALUES.shape
    assert found.residuals.max() < 1e-12 * VALUES[0]


@pytest.mark.parametrize("given", [MATRIX, operator(MATRIX), operator(MATRIX, "float32")])
def test_the_ends_are_found_of_a_matrix_and_of_a_function(given: np.ndarray | LinearOperator) -> None:
    found = spectrum(given, 6, smallest=3)
    np.testing.assert_allclose(found.eigenvalues, [*VALUES[:6], *VALUES[-3:]], rtol=0, atol=1e-12 * VALUES[0])
    assert found.residuals.max() < 1e-9


@pytest.mark.slow
def test_the_smallest_of_a_large_function_are_parted() -> None:
    # The arc-cosine kernel of 500 points on a sphere: its smallest eigenvalues are a few percent apart.
    points = np.random.default_rng(0).standard_normal((500, 20))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    cosine = np.clip(points @ points.T, -1, 1)
    kernel = (cosine * (np.pi - np.arccos(cosine)) + np.sqrt(1 - cosine**2)) / np.pi
    found = spectrum(operator(kernel), 1, smallest=30)
    np.testing.assert_allclose(found.eigenvalues[1:], np.linalg.eigvalsh(kernel)[29::-1], rtol=1e-9)
    assert found.residuals.max() < 1e-6


@pytest.mark.parametrize("count", [1, 5])
def test_the_largest_need_no_smallest(count: int) -> None:
    np.testing.assert_allclose(spectrum(operator(MATRIX), count).eigenvalues, VALUES[:count], rtol=1e-12)


@pytest.mark.parametrize(("count", "smallest"), [(None, 0), (4, 0), (9, 0), (2, 2), (4, 3), (3, 3)])
def test_where_all_are_wanted_they_are_all_found_once(count: int | None, smallest: int) -> None:
    matrix = make_regression(0, 4, 1, 1).train
    expected = np.linalg.eigvalsh(matrix)[::-1]
    for given in (matrix, operator(matrix)):
        np.testing.assert_allclose(spectrum(given, count, smallest=smallest).eigenvalues, expected, rtol=1e-12)


def test_a_kernel_of_one_sample_has_one_eigenvalue() -> None:
    assert spectrum([[2.5]], 1).eigenvalues == [2.5]


def test_residuals_tell_of_a_matrix_that_is_not_what_it_says() -> None:
    skew = MATRIX.copy()
    skew[0, 1] += 100  # a function is not checked for symmetry
    assert spectrum(operator(skew), 1).residuals[0] > 1e-3


def test_negative_eigenvalues_are_shown() -> None:
    np.testing.assert_allclose(spectrum(np.diag([-3.0, 1.0])).eigenvalues, [1.0, -3.0])


def test_equal_eigenvalues_are_all_found() -> None:
    np.testing.assert_allclose(spectrum(operator(np.eye(60)), 4, smallest=2).eigenvalues, np.ones(6), rtol=1e-12)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_a_kernel_of_low_rank_has_zeros(rank: int) -> None:
    features = np.random.default_rng(0).standard_normal((60, rank))
    matrix = features @ features.T
    expected = [*np.linalg.eigvalsh(matrix)[:-6:-1], 0, 0]
    for given in (matrix, operator(matrix)):
        np.testing.assert_allclose(spectrum(given, 5, smallest=2).eigenvalues, expected, atol=1e-11)


def test_a_function_that_gives_nan_is_refused() -> None:
    with pytest.raises(NotFinite, match=r"a product with k_train holds nan or infinite values"):
        spectrum(operator(np.full((50, 50), np.nan)), 2)


def test_the_answer_is_the_same_every_time() -> None:
    first, second = (spectrum(MATRIX, 5) for _ in range(2))
    np.testing.assert_array_equal(first.eigenvalues, second.eigenvalues)


def test_a_search_without_success_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eigenvalues, "RESTARTS", 1)
    crowded = np.linspace(1, 2, 1000)
    with pytest.raises(NotConverged, match=r"found 0 of the 2 largest .* in 1 restarts\. Ask for fewer, or") as caught:
        spectrum(LinearOperator((1000, 1000), matvec=lambda vector: crowded * vector, dtype=float), 2)
    assert isinstance(caught.value, ArithmeticError)


def test_wrong_arguments_are_refused() -> None:
    for count in (0, -1, 2.5, True):
        with pytest.raises(ConfigError, match=r"count must be an integer of at least 1, or None for all"):
            spectrum(MATRIX, count)  # type: ignore[arg-type]
    for smallest in (-1, 0.5, True):
        with pytest.raises(ConfigError, match=r"smallest must be an integer of at least 0"):
            spectrum(MATRIX, 1, smallest=smallest)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"k_train must be square, \(n, n\), got an operator of shape \(3, 2\)"):
        spectrum(LinearOperator((3, 2), matvec=lambda v: np.zeros(3), dtype=float), 1)
    with pytest.raises(ConfigError, match=r"k_train must be a square matrix"):
        spectrum(np.ones((3, 2)))
    with pytest.raises(NotFinite, match=r"k_train\[0, 0\] is nan"):
        spectrum(np.full((2, 2), np.nan))
