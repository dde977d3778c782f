"""One iteration of preconditioned conjugate gradients, in memory: a state and a product of the matrix in, a state out.

All classes share the passes over the matrix, but each runs its own recursion with its own step lengths. Block
conjugate gradients (O'Leary 1980) would need fewer iterations, 28 instead of 36 on 1,500 digits with a preconditioner
of rank 256; but the targets of all classes sum to zero and classes converge one by one, so that its small systems turn
singular. A converged class is not changed until all have converged.

The recursion's residual drifts from the true one by rounding. Once it is small enough for all classes, the next
direction is the solution itself. That pass gives the true residual of the stored kernel, which decides; if it is too
large, the recursion starts afresh from it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cntk_pipeline.storage.tiled_array import Array

Precondition = Callable[[Array], Array]
"""Function that multiplies ``(n, classes)`` by the inverse of a symmetric positive definite approximate matrix."""

MARGIN = 0.5
"""The recursion goes on to this share of the tolerance, so that the true residual need not be tried twice."""


class Indefinite(Exception):
    """A direction p has p^T A p <= 0; ``curvature`` is its p^T A p / p^T p. Never leaves the solvers."""

    def __init__(self, curvature: float) -> None:
        super().__init__(curvature)
        self.curvature = curvature


@dataclass(frozen=True)
class State:
    """The result of all earlier iterations, as the next one needs it.

    Attributes
    ----------
    solution, residual, preconditioned : float64 array, (n, classes)
        The x, r and z = M^-1 r of all classes.
    direction : array
        The next factor of the matrix: p, or x where the true residual is wanted.
    relative : array
        ``||r|| / ||y||`` of each class, by the recursion or true; 0 where ``y`` is 0.
    true, true_before : array
        The same ratio for the last two true residuals; at first the start's residual.
    checked : bool
        Whether ``relative`` is true.
    """

    solution: Array
    residual: Array
    preconditioned: Array
    direction: Array
    relative: Array
    true: Array
    true_before: Array
    checked: bool


def begin(targets: Array, precondition: Precondition) -> State:
    """Start at zero, where the residual is the targets.

    Parameters
    ----------
    targets : array, (n, classes)
    """
    relative = _relative(targets, targets)
    preconditioned = precondition(targets)
    active = relative > 0
    direction = np.where(active, preconditioned, 0.0)
    zero = np.zeros_like(targets)
    return State(zero, targets, preconditioned, direction, relative, relative, relative, checked=True)


def advance(state: State, product: Array, targets: Array, precondition: Precondition, tolerance: float) -> State:
    """Take one step of all classes that have not converged, or start afresh from the true residual.

    The recursion is algorithm 9.1 of Saad 2003, Iterative Methods for Sparse Linear Systems.

    Parameters
    ----------
    product : array
        The matrix times ``state.direction``, ``(n, classes)``.
    tolerance : float
        Of the relative residual of each class.

    Raises
    ------
    Indefinite
        If the matrix is not positive definite along the direction of a class.
    """
    enough = MARGIN * tolerance
    if _wants_check(state, tolerance):
        residual = targets - product
        relative = _relative(residual, targets)
        preconditioned = precondition(residual)
        direction = np.where(relative > enough, preconditioned, 0.0)
        return State(state.solution, residual, preconditioned, direction, relative, relative, state.true, checked=True)
    moves = state.relative > enough
    energy = _dots(state.direction, product)
    if np.any(energy[moves] <= 0):
        curvature = energy[moves] / _dots(state.direction, state.direction)[moves]
        raise Indefinite(float(curvature.min()))
    before = _dots(state.residual, state.preconditioned)
    length = np.where(moves, before / np.where(moves, energy, 1.0), 0.0)
    solution = state.solution + length * state.direction
    residual = state.residual - length * product
    relative = _relative(residual, targets)
    preconditioned = precondition(residual)
    turn = np.where(moves, _dots(residual, preconditioned) / np.where(moves, before, 1.0), 0.0)
    direction = np.where(relative > enough, preconditioned + turn * state.direction, 0.0)
    if np.all(relative <= enough):
        direction = solution
    return State(solution, residual, preconditioned, direction, relative, state.true, state.true_before, checked=False)


def _wants_check(state: State, tolerance: float) -> bool:
    """Tell whether the recursion has converged, so that the next product gives the true residual."""
    return not state.checked and bool(np.all(state.relative <= MARGIN * tolerance))


def _dots(left: Array, right: Array) -> Array:
    """Multiply columns with each other, in NumPy's own loop: its order of summing does not depend on threads."""
    return np.einsum("nc,nc->c", left, right)


def _relative(residual: Array, targets: Array) -> Array:
    norms = np.sqrt(_dots(targets, targets))
    return np.where(norms > 0, np.sqrt(_dots(residual, residual)) / np.where(norms > 0, norms, 1.0), 0.0)
