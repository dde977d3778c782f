"""Labels of any form: converted to class numbers where that is safe, otherwise explained with a remedy."""

from typing import Any

import numpy as np
import numpy.typing as npt

from cntk_pipeline.errors import DataError
from cntk_pipeline.inputs import as_array


def read_labels(given: npt.ArrayLike) -> npt.NDArray[Any]:
    """Convert labels to int64 of shape (n,) where nothing is lost: integers of any width, and columns of shape (n, 1).

    Other labels are returned unchanged; `why_no_labels` gives the remedy.

    Raises
    ------
    DataError
        A masked array.
    """
    labels = as_array("labels", given)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    too_large = labels.dtype.kind == "u" and labels.size > 0 and labels.max() > np.iinfo(np.int64).max
    return labels.astype(np.int64) if labels.dtype.kind in "iu" and not too_large else labels


def why_no_labels(labels: npt.NDArray[Any]) -> str:
    """Write the remedy for labels that are not int64 of shape (n,)."""
    if labels.ndim == 0:
        return "give one class number for each image"
    if labels.ndim == 2 and is_one_hot(labels):
        return "these are one-hot rows: give labels.argmax(axis=1)"
    if labels.ndim == 2 and labels.shape[0] == 1:
        return "this is one row: give labels[0]"
    if labels.ndim > 1:
        return "each image has one class: give its number, from 0, not several values"
    if labels.dtype.kind in "USO":
        return "give numbers, and the names under classes: classes, labels = numpy.unique(names, return_inverse=True)"
    if labels.dtype.kind == "b":
        return "give numbers, False being class 0 and True class 1: labels.astype(int)"
    if labels.dtype.kind == "f":
        return _why_no_float(labels)
    return "give the class numbers 0, 1, ..."


def why_outside(labels: npt.NDArray[np.int64]) -> str:
    """Write the remedy for labels that are negative or too large."""
    if set(np.unique(labels)) == {-1, 1}:
        return "for the classes 0 and 1 give (labels + 1) // 2"
    return "number the classes from 0, or name all of them"


def _why_no_float(labels: npt.NDArray[Any]) -> str:
    missing = ~np.isfinite(labels)
    if missing.any():
        return f"that of image {int(missing.argmax())} is {labels[missing.argmax()]}: drop the images without a label"
    fractions = labels != np.floor(labels)
    if fractions.any():
        return (
            f"that of image {int(fractions.argmax())} is {labels[fractions.argmax()]:g}, which is no class: regress on "
            'measured values with data.task = "regression", or assemble(..., task="regression")'
        )
    return "they are whole numbers: give labels.astype(int)"


def check_numbers(labels: npt.NDArray[np.float64], task: str, where: str) -> None:
    """Raise `DataError` naming the first label, (n, columns), that is not finite, or neither 0 nor 1 in a multilabel.

    Raises
    ------
    DataError
        With the row and the column.
    """
    wrong = ~np.isfinite(labels) if task == "regression" else (labels != 0) & (labels != 1)
    if wrong.any():
        row, column = (int(k) for k in np.unravel_index(wrong.argmax(), wrong.shape))
        wanted = "finite numbers" if task == "regression" else "0 or 1 for each class"
        raise DataError(
            f"{where} labels: expected {wanted}, got {labels[row, column]:g} at image {row}, column {column}; drop the "
            "images without a label, or correct it"
        )


def is_one_hot(rows: npt.NDArray[Any]) -> bool:
    """Tell whether each row of a matrix has a single 1, and zeros elsewhere."""
    if rows.dtype.kind not in "biuf" or rows.shape[1] < 2:
        return False
    return bool(((rows == 0) | (rows == 1)).all() and (rows.sum(axis=1) == 1).all())
