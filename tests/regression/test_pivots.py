"""Randomly pivoted Cholesky, against a dense twin with the same random numbers, and by its laws."""

import numpy as np
import pytest

from cntk_pipeline.errors import ConfigError, NotFinite, NotPositiveDefinite
from cntk_pipeline.regression import ChosenCentres, choose_centres, pivots


def smooth(count: int, seed: int = 0) -> np.ndarray:
    """A positive definite kernel of full rank, whose samples differ in variance."""
    rng = np.random.default_rng(seed)
    x, size = rng.standard_normal((count, 3)), rng.uniform(0.5, 2.0, count)
    return np.asarray(size[:, None] * size * np.exp(-((x[:, None] - x) ** 2).sum(-1) / 2))


def chosen(kernel: np.ndarray, count: int, **options: int | float) -> ChosenCentres:
    return choose_centres(np.diagonal(kernel), lambda a, b: kernel[np.ix_(a, b)], count, **options)  # type: ignore[arg-type]


def remainder(kernel: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """What the columns of some samples leave of a kernel, by a dense solve."""
    if not len(rows):
        return kernel.copy()
    return np.asarray(kernel - kernel[:, rows] @ np.linalg.solve(kernel[np.ix_(rows, rows)], kernel[rows]))


def drawn_by_the_twin(kernel: np.ndarray, count: int, width: int, seed: int) -> list[int]:
    """Draw as the docstring of the module says, with a dense solve of the whole kernel after each centre."""
    rows: list[int] = []
    for block in range(-(-count // width)):
        random, begin = np.random.RandomState([seed, block]), len(rows)
        size, before = min(width, count - begin), np.diagonal(remainder(kernel, np.array(rows, int))).copy()
        before[rows] = 0
        sums = np.cumsum(before)
        proposed = [int((sums <= u * sums[-1]).sum()) for u in random.random_sample(2 * size)]
        for s in proposed:
            left = remainder(kernel, np.array(rows, int))[s, s]
            if len(rows) - begin < size and s not in rows and random.random_sample() * before[s] < left:
                rows.append(s)
        while len(rows) - begin < size:
            left = np.diagonal(remainder(kernel, np.array(rows, int)))
            rest = [s for s in sorted(set(proposed)) if s not in rows]
            parts = np.cumsum([left[s] / before[s] for s in rest])
            rows.append(rest[int((parts <= random.random_sample(1)[0] * parts[-1]).sum())])
    return rows


@pytest.mark.parametrize(("width", "seed"), [(1, 0), (4, 1), (7, 2), (20, 3)])
def test_the_draws_are_those_of_a_dense_twin(width: int, seed: int) -> None:
    kernel = smooth(40)
    found = chosen(kernel, 20, width=width, seed=seed)
    assert found.rows.tolist() == drawn_by_the_twin(kernel, 20, width, seed)


@pytest.mark.parametrize(("count", "width"), [(1, 1), (13, 4), (40, 8)])
def test_the_trace_error_is_that_of_a_dense_solve_and_columns_are_the_kernels_own(count: int, width: int) -> None:
    kernel = smooth(40)
    found = chosen(kernel, count, width=width)
    assert len(set(found.rows.tolist())) == count
    np.testing.assert_array_equal(found.columns, kernel[:, found.rows])
    dense = [np.trace(remainder(kernel, found.rows[:end])) / np.trace(kernel) for end in range(0, count, width)]
    dense.append(np.trace(remainder(kernel, found.rows)) / np.trace(kernel))
    np.testing.assert_allclose(found.trace_errors, dense, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("width", [1, 4, 30])
def test_a_kernel_of_rank_r_has_r_centres_and_no_trace_error(dtype: str, width: int) -> None:
    x = np.random.default_rng(3).standard_normal((30, 6))
    found = chosen((x @ x.T).astype(dtype), 20, width=width)
    assert len(found.rows) == 6
    assert found.trace_errors[-1] < (1e-13 if dtype == "float64" else 1e-6)


def test_with_all_samples_the_approximation_is_the_kernel() -> None:
    kernel = smooth(24)
    found = chosen(kernel, 24)
    assert sorted(found.rows) == list(range(24))
    lower = np.linalg.cholesky(kernel[np.ix_(found.rows, found.rows)])
    features = np.linalg.solve(lower, found.columns.T).T
    np.testing.assert_allclose(features @ features.T, kernel, atol=1e-12)
    assert found.trace_errors[-1] == 0


def test_equal_samples_are_drawn_once_and_samples_of_zero_never() -> None:
    kernel = smooth(12)
    twice = np.concatenate([np.arange(12), np.arange(12)])
    doubled = np.zeros((26, 26))
    doubled[:24, :24] = kernel[np.ix_(twice, twice)]
    found = chosen(doubled, 26, width=5)
    assert sorted(row % 12 for row in found.rows) == list(range(12))
    assert max(found.rows) < 24


def test_the_choice_ends_behind_the_first_block_with_the_tolerated_error() -> None:
    kernel = smooth(40)
    whole = chosen(kernel, 40, width=4)
    tolerance = 0.2
    ended = chosen(kernel, 40, width=4, tolerance=tolerance)
    blocks = next(k for k, error in enumerate(whole.trace_errors) if error <= tolerance)
    assert 1 < blocks < 9
    assert ended.rows.tolist() == whole.rows[: 4 * blocks].tolist()
    assert ended.trace_errors == whole.trace_errors[: blocks + 1]


def test_pairs_are_drawn_as_often_as_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pivots, "PROPOSALS", 12)  # so many that a block is filled by accepted proposals
    kernel = np.array([[2.0, 1.8, 0.1], [1.8, 2.0, 0.2], [0.1, 0.2, 1.0]])
    expected = np.zeros((3, 3))
    for first in range(3):
        left = np.maximum(np.diagonal(remainder(kernel, np.array([first]))), 0)
        left[first] = 0
        expected[first] = kernel[first, first] / 5 * left / left.sum()
    total = 400
    counts = np.zeros((3, 3))
    for seed in range(total):
        counts[tuple(chosen(kernel, 2, width=2, seed=seed).rows)] += 1
    deviation = np.sqrt(expected * (1 - expected) / total)
    np.testing.assert_array_less(np.abs(counts / total - expected), 4 * deviation + 1e-12)


def test_few_samples_apart_from_a_crowd_are_found() -> None:
    rng = np.random.default_rng(5)
    x = np.concatenate([0.05 * rng.standard_normal((190, 2)), 10 * rng.standard_normal((10, 2))])
    kernel = np.exp(-((x[:, None] - x) ** 2).sum(-1) / 2)
    errors = [chosen(kernel, 20, seed=seed).trace_errors[-1] for seed in range(5)]
    by_chance = [np.trace(remainder(kernel, rng.permutation(200)[:20])) / 200 for _ in range(5)]
    assert 4 * np.mean(errors) < np.mean(by_chance)


def test_a_kernel_of_zeros_is_refused() -> None:
    with pytest.raises(NotPositiveDefinite, match="the kernel is zero everywhere"):
        chosen(np.zeros((4, 4)), 2)


def test_a_diagonal_that_is_no_row_of_finite_numbers_is_refused() -> None:
    def never(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        raise AssertionError

    with pytest.raises(NotFinite, match=r"diagonal\[1\] is nan: finite numbers were expected"):
        choose_centres([1.0, np.nan, 2.0], never, 2)
    with pytest.raises(ConfigError, match=r"diagonal must be \(n,\), .* got shape \(3, 3\)"):
        choose_centres(np.eye(3), never, 2)
    with pytest.raises(ConfigError, match="diagonal must hold real numbers, got dtype"):
        choose_centres(["1", "2"], never, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, r"count must be a whole number from 1 .*, got 0"),
        ({"count": "2"}, r"count must be a whole number from 1 .*, got '2'"),
        ({"count": 2.0}, r"count must be a whole number from 1 .*, got 2\.0"),
        ({"seed": -1}, r"seed must be a whole number from 0 to 2\*\*32 - 1, got -1"),
        ({"seed": None}, r"seed must be a whole number .*, got None"),
        ({"width": 0}, r"width must be a whole number from 1 .*, got 0"),
        ({"tolerance": "0.1"}, r"tolerance must be a number from 0, and below 1, got '0\.1'"),
        ({"tolerance": 1.0}, r"tolerance must be a number from 0, and below 1, got 1\.0"),
    ],
)
def test_numbers_of_a_choice_that_are_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chosen(smooth(5), **({"count": 2} | options))  # type: ignore[arg-type]
