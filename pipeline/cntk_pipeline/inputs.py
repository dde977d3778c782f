"""Checks of arrays from users, for data sets and for `kernel_matrix` alike."""

import math
import reprlib
from numbers import Integral, Real
from typing import Any, TypeGuard

import numpy as np

from cntk_pipeline.errors import DataError

MOST_NUMBERS = 12
"""Of an array, or entries of a list, that an error text writes out."""


class _Short(reprlib.Repr):
    """Writes values as Python does, but for long ones."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = MOST_NUMBERS
        self.maxstring = self.maxother = 200

    def repr_instance(self, x: Any, level: int) -> str:
        shape = getattr(x, "shape", None)
        if isinstance(shape, tuple) and math.prod(shape) > MOST_NUMBERS:
            return f"<{type(x).__name__} of shape {tuple(shape)}>"
        return super().repr_instance(x, level)


def short_repr(value: object) -> str:
    """Write what a user gave, for an error text: as Python does, but an array of many numbers by its shape alone.

    Examples
    --------
    >>> short_repr(np.zeros((1797, 8, 8)))
    '<ndarray of shape (1797, 8, 8)>'
    >>> short_repr([1, "a"])
    "[1, 'a']"
    """
    return _Short().repr(value)


def is_whole_number(value: object) -> TypeGuard[int]:
    """Tell whether a value is a whole number, also one of NumPy; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether a value is a real number, also one of NumPy; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def require_plain(name: str, array: object) -> None:
    """Refuse a masked array, whose entries behind the mask would be used as values, and a sparse one.

    Raises
    ------
    DataError
        With ``name`` and the remedy.
    """
    if callable(getattr(array, "toarray", None)):  # of SciPy, which need not be imported; NumPy makes no array of it
        raise DataError(f"{name}: expected a dense array, got a sparse {type(array).__name__}: give its .toarray()")
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


def _is_missing(value: object) -> bool:
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return type(value).__name__ in MISSING_TYPES or (isinstance(value, float | np.floating) and bool(np.isnan(value)))


def require_no_bytes(given: object) -> None:
    """Refuse labels of bytes, which are texts in an encoding that nobody has named.

    Raises
    ------
    DataError
        With the remedy.
    """
    values = np.asarray(given)
    if values.dtype.kind == "S":
        raise DataError(f"y: expected numbers or texts, got bytes (dtype {values.dtype}): give y.astype(str)")
    if values.dtype == object and values.size and all(isinstance(each, bytes) for each in values.flat):
        raise DataError("y: expected numbers or texts, got Python's bytes: give [label.decode() for label in y]")


def require_no_missing(given: object) -> None:
    """Refuse missing values among labels or targets: None, NaN beside text, missing dates, and pandas' NA.

    They compare with nothing, or become numbers.

    Raises
    ------
    DataError
        With the place in ``y``.
    """
    require_no_missing_text("y", given)
    values = np.asarray(given)
    if values.dtype.kind not in "OmM" or not values.ndim:  # no labels at all are named elsewhere
        return
    for place in np.ndindex(values.shape):
        value = values[place]
        if _is_missing(value):
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


SQUARED = (1e-145, 1e145)
"""The smallest and the largest number that is squared.

The squares are 1e-290 and 1e290, so that float64 holds them with all digits also where a ridge or an error of 1e-9 of
the targets multiplies or divides them."""


def require_squares(name: str, columns: np.ndarray, centre: np.ndarray | float = 0.0) -> None:
    """Refuse targets whose squares float64 does not hold: errors would all be 0, and the first of some ridges best.

    Parameters
    ----------
    name : str
        Of the targets, for the message.
    columns : float64 array, (n, c)
    centre : float64 array, (c,)
        What is subtracted before the square: 0, or the mean. Differences of a constant column from it are rounding.

    Raises
    ------
    DataError
        If the largest difference of a column is neither 0 nor in the range `SQUARED`, with the remedy.
    """
    least, most = SQUARED
    with np.errstate(over="ignore", invalid="ignore"):
        largest = np.abs(columns - centre).max(axis=0, initial=0.0)
        counts = (np.ptp(columns, axis=0) > 0) | (np.asarray(centre) == 0)
    wrong = ~(largest <= most) | ((largest > 0) & (largest < least) & counts)
    if wrong.any():
        column = int(wrong.argmax())
        found, where = largest[column], f" in column {column}" if len(wrong) > 1 else ""
        factor = found if np.isfinite(found) else 1e300
        raise DataError(
            f"{name}: expected targets whose squares float64 can hold, at most {most:g} and, unless they are equal, at "
            f"least {least:g} from {'their mean' if np.any(centre) else '0'}, got {found:.3g}{where}; give them in "
            f"another unit, for example divided by {factor:.0e}"
        )


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
    return f"Python objects, such as {short_repr(values[place])} at number {place}" if len(values) else "no value"


def instead_of_numbers(name: str, array: np.ndarray) -> str:
    """Say what an array holds in the place of real numbers, and what to write: the end of an error."""
    kind, got = array.dtype.kind, f"got dtype {array.dtype}"
    if kind == "O":
        return f"{got}, {describe_objects(array)}: give {name}.astype(float) where all are numbers"
    if kind == "c":
        return f"{got}: give {name}.real, or real and imaginary parts as features of their own"
    if kind in "mM":
        return f"{got}: give numbers, such as days since the first date"
    where = " where texts are numbers" if kind in "US" else ""
    return f"{got}: give {name}.astype(float){where}"


def require_real_targets(name: str, given: object) -> None:
    """Refuse targets of a regression that are no real numbers, though NumPy would make numbers of them: dates and text.

    Raises
    ------
    DataError
        With ``name``, what was given, and the remedy.
    """
    values = np.asarray(given)
    if not values.ndim:  # no targets at all are named elsewhere
        return
    # scikit-learn refuses complex numbers in its own words, which its checks of estimators look for.
    if values.dtype.kind not in "fiubcO" or not all(map(_is_real, values.flat if values.dtype == object else ())):
        raise DataError(f"{name}: expected real numbers, {instead_of_numbers(name, values)}")


def _is_real(value: object) -> bool:
    """Tell whether a Python object is a real number; texts and dates of NumPy and pandas are none."""
    return value.dtype.kind in "fiub" if isinstance(value, np.generic) else hasattr(value, "__float__")
