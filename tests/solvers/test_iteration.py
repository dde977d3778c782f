"""The recursion alone, on matrices in memory."""

import numpy as np
import pytest

from cntk_pipeline.solvers.iteration import Indefinite, State, advance, begin

TOLERANCE = 1e-10


def with_spectrum(eigenvalues: np.ndarray, seed: int = 0) -> np.ndarray:
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(eigenvalues), len(eigenvalues))))
    return (basis * eigenvalues) @ basis.T


def identity(residual: np.ndarray) -> np.ndarray:
    return residual


def solve(matrix: np.ndarray, targets: np.ndarray, most: int = 2000) -> list[State]:
    states = [begin(targets, identity)]
    while not (states[-1].checked and np.all(states[-1].true <= TOLERANCE)):
        assert len(states) <= most, states[-1].relative
        states.append(advance(states[-1], matrix @ states[-1].direction, targets, identity, TOLERANCE))
    return states


def require_solved(matrix: np.ndarray, targets: np.ndarray, states: list[State]) -> None:
    residual = np.linalg.norm(targets - matrix @ states[-1].solution, axis=0)
    assert np.all(residual <= 1.01 * TOLERANCE * np.linalg.norm(targets, axis=0))
    np.testing.assert_allclose(states[-1].true * np.linalg.norm(targets, axis=0), residual, rtol=1e-2, atol=1e-15)


@pytest.mark.parametrize("condition", [1e1, 1e4, 1e6])
def test_it_reaches_the_true_residual_whatever_the_condition(condition: float) -> None:
    matrix = with_spectrum(np.geomspace(1, condition, 60))
    targets = np.random.default_rng(1).standard_normal((60, 4))
    require_solved(matrix, targets, solve(matrix, targets))


def test_classes_that_depend_on_each_other_or_are_zero_are_solved_each() -> None:
    matrix = with_spectrum(np.geomspace(1, 100, 40))
    targets = np.random.default_rng(2).standard_normal((40, 5))
    targets[:, 1], targets[:, 2], targets[:, 3] = targets[:, 0], -2 * targets[:, 0], 0
    states = solve(matrix, targets)
    require_solved(matrix, targets, states)
    assert not states[-1].solution[:, 3].any()


def test_a_class_is_solved_as_if_it_were_alone() -> None:
    matrix = with_spectrum(np.geomspace(1, 100, 40))
    targets = np.random.default_rng(3).standard_normal((40, 2))
    together, alone = solve(matrix, targets), solve(matrix, targets[:, :1])
    np.testing.assert_allclose(together[-1].solution[:, 0], alone[-1].solution[:, 0], rtol=1e-7)


def test_a_class_that_has_converged_stands_still() -> None:
    matrix = np.diag(np.arange(1.0, 31.0))
    targets = np.zeros((30, 2))
    targets[4, 0] = 1  # an eigenvector: one step
    targets[:, 1] = 1
    states = solve(matrix, targets)
    assert states[1].relative[0] <= TOLERANCE
    assert not states[1].direction[:, 0].any()
    assert len(states) > 20
    require_solved(matrix, targets, states)


def test_one_distinct_eigenvalue_a_step_is_all_it_takes() -> None:
    # The start, a step for each of three eigenvalues, and the product that gives the true residual.
    matrix = with_spectrum(np.repeat([1.0, 5.0, 9.0], 8))
    assert len(solve(matrix, np.random.default_rng(4).standard_normal((24, 3)))) == 1 + 3 + 1


def test_a_recursion_that_has_drifted_starts_afresh_from_the_true_residual() -> None:
    matrix = with_spectrum(np.geomspace(1, 100, 30))
    targets = np.random.default_rng(5).standard_normal((30, 1))
    state, passes, lied = begin(targets, identity), 0, False
    while not (state.checked and np.all(state.true <= TOLERANCE)):
        product = matrix @ state.direction
        if passes == 5:
            product, lied = product * 1.001, True
        state, passes = advance(state, product, targets, identity, TOLERANCE), passes + 1
        assert passes < 500
    assert lied
    require_solved(matrix, targets, [state])


def test_a_matrix_that_is_not_positive_definite_is_found_with_its_curvature() -> None:
    matrix = with_spectrum(np.array([-0.5, *np.geomspace(1, 10, 20)]))
    with pytest.raises(Indefinite) as caught:
        solve(matrix, np.random.default_rng(6).standard_normal((21, 2)))
    assert -0.5 <= caught.value.curvature < 0


def test_targets_of_zero_are_solved_by_zero_at_once() -> None:
    states = solve(np.eye(3), np.zeros((3, 2)))
    assert len(states) == 1
    assert not states[0].solution.any()
