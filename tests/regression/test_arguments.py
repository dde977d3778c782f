import re

import numpy as np
import pytest

from cntk_pipeline.errors import ConfigError, NotFinite, PipelineError
from cntk_pipeline.regression.arguments import (
    as_absolute_ridge,
    as_cross_kernel,
    as_targets,
    as_test_kernel,
    as_train_kernel,
)

KERNEL = as_train_kernel(np.diag([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("shape", [(3,), (3, 4), (0, 0), (2, 2, 2)])
def test_a_train_kernel_is_square(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"k_train must be a square matrix .* got shape \(" + str(shape[0])):
        as_train_kernel(np.ones(shape))


def test_an_asymmetric_kernel_is_refused_with_the_pair() -> None:
    matrix = np.eye(4)
    matrix[1, 3] = 0.25
    with pytest.raises(ConfigError, match=r"k_train must be symmetric: \[3, 1\] is 0 and \[1, 3\] is 0.25"):
        as_train_kernel(matrix)
    with pytest.raises(ConfigError, match=r"k_test must be symmetric"):
        as_test_kernel(matrix, 4, "k_test")


@pytest.mark.parametrize(("dtype", "allowed", "refused"), [("float32", 1e-5, 1e-3), ("float64", 1e-14, 1e-5)])
def test_asymmetry_is_forgiven_within_the_rounding_of_the_dtype(dtype: str, allowed: float, refused: float) -> None:
    matrix = np.eye(3, dtype=dtype)
    matrix[0, 1] = allowed
    as_train_kernel(matrix)
    matrix[0, 1] = refused
    with pytest.raises(ConfigError, match="differ by more than rounding"):
        as_train_kernel(matrix)


def test_a_test_kernel_becomes_symmetric_in_every_bit() -> None:
    matrix = np.eye(3, dtype=np.float32)
    matrix[0, 1] = 1e-5
    values = as_test_kernel(matrix, 3, "k_test")
    np.testing.assert_array_equal(values, values.T)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_named_with_its_place(value: float) -> None:
    matrix = np.eye(3)
    matrix[2, 1] = value
    with pytest.raises(NotFinite, match=rf"k_train\[2, 1\] is {value}.*mirror the lower ones"):
        as_train_kernel(matrix)
    with pytest.raises(NotFinite, match=rf"k_test_train\[2, 1\] is {value}"):
        as_cross_kernel(matrix, KERNEL)
    with pytest.raises(NotFinite, match=rf"y\[2, 1\] is {value}"):
        as_targets(matrix, KERNEL)


@pytest.mark.parametrize("values", [np.eye(2, dtype=complex), np.array([["a", "b"], ["c", "d"]])])
def test_kernels_are_of_real_numbers(values: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="k_train must hold real numbers, got dtype"):
        as_train_kernel(values)


def test_integers_are_numbers() -> None:
    assert as_train_kernel([[2, 1], [1, 2]]).values.dtype == np.float64


@pytest.mark.parametrize("shape", [(2, 4), (3,), (0, 3)])
def test_a_cross_kernel_has_the_training_samples_as_columns(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"k_test_train must be \(n_test, 3\), as k_train has 3 samples, got \("):
        as_cross_kernel(np.ones(shape), KERNEL)


def test_a_transposed_cross_kernel_is_recognised() -> None:
    with pytest.raises(ConfigError, match=r"got \(3, 5\): test samples are rows, so transpose it"):
        as_cross_kernel(np.ones((3, 5)), KERNEL)


@pytest.mark.parametrize("shape", [(2,), (4, 3), (3, 0), (3, 1, 1), ()])
def test_targets_have_a_row_for_each_sample(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"y must be \(3,\) or \(3, c\), as k_train has 3 samples, got \("):
        as_targets(np.ones(shape), KERNEL)


def test_a_ridge_is_relative_to_the_mean_of_the_diagonal_or_absolute() -> None:
    assert as_absolute_ridge(KERNEL, 0.5, "relative") == 1.0
    assert as_absolute_ridge(KERNEL, 0.5, "absolute") == 0.5


@pytest.mark.parametrize(
    "ridge", [-1e-9, np.nan, np.inf, "0.1", None, [0.1], 1j, np.array([0.1]), True, np.True_], ids=repr
)
def test_a_ridge_is_a_finite_number_of_at_least_zero(ridge: float) -> None:
    message = f"a ridge must be a finite number of at least 0, got {ridge!r}"
    with pytest.raises(ConfigError, match=re.escape(message)):
        as_absolute_ridge(KERNEL, ridge, "absolute")


def test_an_unknown_ridge_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"ridge_mode must be 'relative' .* or 'absolute', got 'relativ'") as caught:
        as_absolute_ridge(KERNEL, 1.0, "relativ")  # type: ignore[arg-type]
    assert isinstance(caught.value, PipelineError)


def test_the_rounding_of_a_kernel_bounds_what_its_dtype_does_to_eigenvalues() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((200, 20))
    exact = features @ features.T
    rounded = as_train_kernel(exact.astype(np.float32))
    moved = np.abs(np.linalg.eigvalsh(exact) - np.linalg.eigvalsh(rounded.values)).max()
    assert as_train_kernel(exact).rounding < moved < rounded.rounding
    assert rounded.resolution < 1e-6 * rounded.rounding
