"""Scores of outputs: squared error and accuracy."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.regression.arguments import Array, as_finite, as_real


@dataclass(frozen=True)
class Truth:
    """The true classes of some samples, and their targets where known.

    Attributes
    ----------
    classes : int array, (n_test,)
        As `classes_of` the targets.
    targets : float64 array, (n_test, c), or None
        None where only labels are known.
    """

    classes: npt.NDArray[np.int64]
    targets: Array | None


def classes_of(outputs: Array) -> npt.NDArray[np.int64]:
    """Return the column of each row's largest output; of a single column, 1 where it is positive and 0 elsewhere."""
    return outputs.argmax(1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0).astype(np.int64)


def accuracy(outputs: Array, classes: npt.NDArray[np.int64]) -> float:
    """Return the share of rows of ``(n, c)`` outputs with the right class."""
    return float(np.mean(classes_of(outputs) == classes))


def mean_square(errors: Array) -> float:
    """Return the mean of the squares over all entries."""
    return float(np.mean(errors**2))


def as_truth(values: npt.ArrayLike, count: int, columns: int, name: str) -> Truth:
    """Read targets ``(count, columns)``, or labels, integers ``(count,)`` where there are several columns.

    Raises
    ------
    ConfigError
        If it is neither, or a label is out of range.
    NotFinite
        If a target is nan or infinite.
    """
    given = as_real(values, name)
    if given.shape == (count,) and columns > 1 and given.dtype.kind in "iu":
        wrong = given[(given < 0) | (given >= columns)]
        if wrong.size:
            raise ConfigError(f"labels in {name} must be from 0 to {columns - 1}, as y has columns, got {wrong[0]}")
        return Truth(given.astype(np.int64), None)
    if given.shape != (count, columns) and not (given.shape == (count,) and columns == 1):
        labels = f" or integer labels ({count},)" if columns > 1 else f" or ({count},)"
        raise ConfigError(
            f"{name} must be targets ({count}, {columns}){labels}, got shape {given.shape} of {given.dtype}"
        )
    targets = as_finite(given.reshape(count, columns), name)
    return Truth(classes_of(targets), targets)
