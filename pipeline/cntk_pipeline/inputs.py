"""Checks of arrays from users, for data sets and for `kernel_matrix` alike."""

from numbers import Integral, Real
from typing import Any, TypeGuard

import numpy as np

from cntk_pipeline.errors import DataError


def is_whole_number(value: object) -> TypeGuard[int]:
    """Tell whether a value is a whole number, also one of NumPy; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether a value is a real number, also one of NumPy; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def require_plain(name: str, array: object) -> None:
    """Refuse a masked array: entries behind the mask would be used as values.

    Raises
    ------
    DataError
        If it is masked, with ``name`` and the remedy.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise DataError(
            f"{name}: expected a plain array, got a masked one, {int(np.asarray(array.mask).sum())} of whose "
            f"{array.size} values are masked; drop their rows, or fill them in with .filled(value)"
        )


def require_no_missing_text(name: str, given: object) -> None:
    """Refuse NaN in a list of texts, where it stands for a missing one: NumPy would make the text "nan" of it.

    Raises
    ------
    DataError
        With ``name`` and the place.
    """
    if not isinstance(given, list | tuple) or np.asarray(given).dtype.kind not in "US":
        return
    values = np.asarray(given, object)
    for place in np.ndindex(values.shape):
        if isinstance(values[place], float | np.floating) and np.isnan(values[place]):
            raise DataError(f"{name}[{place[0]}]: expected a text, got nan, a missing one; drop its row, or fill it in")


MISSING_TYPES = ("NoneType", "NAType", "NaTType")
"""Names of the types of missing values: Python's None, and those of pandas, which need not be installed."""


def require_no_missing(given: object) -> None:
    """Refuse missing values among labels or targets: None, NaN beside text, and pandas' NA, which compare with nothing.

    Raises
    ------
    DataError
        With the place in ``y``.
    """
    require_no_missing_text("y", given)
    values = np.asarray(given)
    if values.dtype != object or not values.ndim:  # no labels at all are named elsewhere
        return
    for place in np.ndindex(values.shape):
        value = values[place]
        if type(value).__name__ in MISSING_TYPES or (isinstance(value, float | np.floating) and np.isnan(value)):
            at = ", ".join(map(str, place))
            raise DataError(f"y[{at}]: expected a value, got {value!r}, a missing one; drop its row, or fill it in")


def require_channels_last(name: str, shape: tuple[int, ...]) -> None:
    """Refuse a shape ``(n, C, H, W)``, as other libraries have it.

    Read as ``(n, H, W, C)`` such images would run without an error, as strips of a few rows with many channels. A shape
    counts as such if its second number is at most 4 and the last two are equal and above 4, or if its second number is
    3 and the last two are above 4.

    Raises
    ------
    DataError
        If the shape is refused, with ``name`` and the remedy.
    """
    if len(shape) != 4:
        return
    _, rows, columns, channels = shape
    square = rows <= 4 < columns == channels
    colour = rows == 3 and min(columns, channels) > 4
    if square or colour:
        raise DataError(
            f"{name}: expected shape (n, H, W, C), got {shape}, which has its channels first; give "
            f"{name}.transpose(0, 2, 3, 1). If these are {rows} rows of {columns} pixels with {channels} channels, lay "
            f"them on their side: {name}.transpose(0, 2, 1, 3)"
        )


def as_sequences(array: np.ndarray) -> np.ndarray:
    """Lay sequences ``(n, T, C)``, or ``(n, T)`` of one channel, as images of one row, ``(n, 1, T, C)``."""
    return array[:, None, :, None] if array.ndim == 2 else array[:, None]


def as_array(name: str, given: Any) -> np.ndarray:
    """Make a plain array of an argument; see `require_plain` and `require_no_missing_text`.

    Text that Python objects hold becomes text of NumPy: columns of text of pandas are such objects.

    Raises
    ------
    DataError
        If it is masked, lacks a text, or is a list whose entries differ in length.
    """
    require_plain(name, given)
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise DataError(
            f"{name}: expected an array, or lists whose entries are of one length, got a {type(given).__name__} of "
            f"which NumPy makes no array ({error}); cntk_pipeline.sequences.pad lays out sequences of unequal lengths"
        ) from None
    require_no_missing_text(name, given)
    if array.dtype == object and array.size and all(isinstance(each, str) for each in array.flat):
        return array.astype(str)
    return array


def describe_objects(array: np.ndarray) -> str:
    """Say what an array of Python objects holds: the first one that is of another type than the first one."""
    values = array.ravel()
    place = next((k for k, value in enumerate(values) if type(value) is not type(values[0])), 0)
    return f"Python objects, such as {values[place]!r} at number {place}" if len(values) else "no value"
