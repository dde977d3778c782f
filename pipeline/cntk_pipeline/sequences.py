"""Sequences of unequal lengths, and images with absent pixels, as arrays: NaN stands for what is not there.

Steps that a sequence does not have lie behind its last one. Such an array ``(n, T, C)`` has the steps of its longest
sequence. A step is absent where all of its channels are NaN; absent steps lie behind those that are present, and each
sequence has at least one. Inside the package sequences are images of one row, ``(n, 1, T, C)``. A pixel of an image is
absent likewise where all of its channels are NaN, wherever it lies.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cntk_pipeline.errors import DataError
from cntk_pipeline.inputs import as_array, is_whole_number, short_repr

__all__ = ["lengths", "pad"]

Array = npt.NDArray[Any]


def pad(sequences: Sequence[Any], steps: int | None = None) -> Array:
    """Lay sequences of unequal lengths in one array, with NaN behind the last step of each.

    Parameters
    ----------
    sequences : sequence
        Of each one its steps and channels, ``(T, C)``, or ``(T,)`` of one channel. Some packages have the channels
        first; give those transposed.
    steps : int, optional
        Of the array, at least as many as the longest sequence has; by default as many.

    Returns
    -------
    array, (n, T, C)
        Of float32, or of float64 where a number is no float32.

    Raises
    ------
    DataError
        If a sequence has no steps, another number of channels than the first one, numbers that are not finite, or more
        steps than asked for, with its number.

    Examples
    --------
    >>> from cntk_pipeline.sequences import pad
    >>> pad([[1.0, 2.0, 3.0], [4.0]])[:, :, 0].tolist()
    [[1.0, 2.0, 3.0], [4.0, nan, nan]]
    """
    if not hasattr(sequences, "__len__") or isinstance(sequences, str | bytes | dict | set):
        raise DataError(
            f"sequences: expected a list of arrays (T, C), got {short_repr(sequences)}: of a generator give "
            "list(sequences)"
        )
    if not len(sequences):
        raise DataError("sequences: expected at least one, got none")
    read = [_read(given, number) for number, given in enumerate(sequences)]
    channels, longest = read[0].shape[1], max(map(len, read))
    wrong = next((number for number, each in enumerate(read) if each.shape[1] != channels), None)
    if wrong is not None:
        raise DataError(
            f"sequence {wrong}: expected {channels} channels, as of sequence 0, got {read[wrong].shape[1]}: sequences "
            "are (T, C), steps first; transpose those that have their channels first"
        )
    if steps is not None and not is_whole_number(steps):
        raise DataError(f"sequences: steps must be a whole number, got {short_repr(steps)}")
    if steps is not None and steps < longest:
        raise DataError(f"sequences: the longest one has {longest} steps, got steps={steps}: leave steps out")
    padded = np.full((len(read), steps or longest, channels), np.nan)
    for row, each in zip(padded, read, strict=True):
        row[: len(each)] = each
    with np.errstate(over="ignore"):
        single = padded.astype(np.float32)
    return single if np.array_equal(single, padded, equal_nan=True) else padded


def lengths(sequences: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Count the present steps of each sequence.

    Parameters
    ----------
    sequences : array_like, (n, T, C) or (n, T)
        ``(n, T)`` is of one channel. Absent steps hold NaN.

    Returns
    -------
    int64 array, (n,)

    Raises
    ------
    DataError
        If a present step lies behind an absent one, a step lacks some of its channels alone, or a sequence has no step.

    Examples
    --------
    >>> from cntk_pipeline.sequences import lengths, pad
    >>> lengths(pad([[1.0, 2.0, 3.0], [4.0]])).tolist()
    [3, 1]
    """
    array = as_array("sequences", sequences)
    if array.ndim not in (2, 3) or array.dtype.kind not in "uif":
        raise DataError(
            f"sequences: expected numbers of shape (n, T, C) or (n, T), got {array.dtype} of shape {array.shape}"
        )
    return read_lengths("sequences", array[:, None] if array.ndim == 3 else array[:, None, :, None])


def read_lengths(name: str, images: Array, first: int = 0) -> npt.NDArray[np.int64]:
    """Count the present steps of sequences that are images of one row, ``(n, 1, T, C)``.

    Parameters
    ----------
    name : str
        Of the array, for messages.
    first : int
        The number of its first sequence, for messages.

    Raises
    ------
    DataError
        As of `lengths`, with the number of the sequence and of the step.
    """
    absent = np.isnan(images[:, 0])
    is_absent: Array = np.asarray(absent.all(-1))
    counts = (~is_absent).sum(1)
    _refuse(
        np.asarray(absent.any(-1)) & ~is_absent,
        "at step {step} some channels are NaN and others are not: a step is absent as a whole; fill the channel in",
        (name, first),
    )
    _refuse(counts[:, None] == 0, "no step is present: leave it out", (name, first))
    _refuse(
        is_absent[:, :-1] & ~is_absent[:, 1:],
        "step {step} is absent, and a later one is there: absent steps lie behind all others; fill the step in, or "
        "leave it out and join what is around it",
        (name, first),
    )
    return np.asarray(counts, np.int64)


def has_absent_steps(images: Array) -> bool:
    """Tell whether an array is of sequences, ``(n, 1, T, C)``, of which one has not all steps: its last one is NaN."""
    is_sequences = images.ndim == 4 and images.shape[1] == 1 and images.dtype.kind == "f" and images.size > 0
    return is_sequences and bool(np.isnan(images[:, 0, -1]).any())


def has_absent_pixels(images: Array) -> bool:
    """Tell whether an array of images, ``(n, H, W, C)``, holds NaN."""
    return images.ndim == 4 and images.dtype.kind == "f" and images.size > 0 and bool(np.isnan(images.min()))


def find_broken(name: str, images: Array, first: int) -> npt.NDArray[np.bool_]:
    """Find numbers of inputs that are not finite, but for those of absent positions, bool of their shape.

    Parameters
    ----------
    name, first
        As of `read_presence`.

    Raises
    ------
    DataError
        As of `lengths`, for sequences.
    """
    broken: npt.NDArray[np.bool_] = ~np.isfinite(images)
    if has_absent_steps(images):
        broken &= read_presence(name, images, False, first)[..., None]
    elif images.ndim == 4 and images.shape[1] > 1 and has_absent_pixels(images):
        present = ~np.asarray(np.isnan(images).all(-1))
        present[~present.any((1, 2))] = True  # an image without pixels is broken
        broken &= present[..., None]
    return broken


def remedy_of(image: Array) -> str:
    """Say what to do with an image that holds numbers which are not finite."""
    is_empty = image.ndim == 3 and bool(np.isnan(image).all())
    return "no pixel of it is there: leave it out" if is_empty else "drop or repair that image"


def read_presence(name: str, images: Array, anywhere: bool, first: int = 0) -> npt.NDArray[np.bool_]:
    """Tell which pixels of images ``(n, H, W, C)`` are there, (n, H, W).

    Parameters
    ----------
    name : str
        Of the array, for messages.
    anywhere : bool
        Whether any pixel may be absent. Otherwise they are sequences, whose absent steps lie behind all others.
    first : int
        The number of the first image, for messages.

    Raises
    ------
    DataError
        As of `lengths`; or if a pixel lacks some of its channels alone, or an image has no pixel, with its place.
    """
    if not anywhere:
        return np.arange(images.shape[2]) < read_lengths(name, images, first)[:, None, None]
    absent = np.isnan(images)
    present: npt.NDArray[np.bool_] = ~np.asarray(absent.all(-1))
    partly = np.argwhere(absent.any(-1) & present)
    if len(partly):
        image, row, column = map(int, partly[0])
        raise DataError(
            f"{name}: image {first + image}: at row {row}, column {column} some channels are NaN and others are not: a "
            "pixel is absent as a whole; fill the channel in"
        )
    empty = np.flatnonzero(~present.any((1, 2)))
    if len(empty):
        raise DataError(f"{name}: image {first + int(empty[0])}: no pixel is there: leave it out")
    return present


def fill_steps(images: Array, steps: int) -> Array:
    """Append absent steps to sequences ``(n, 1, T, C)``, up to so many."""
    if images.shape[2] == steps:
        return images
    floats = images if images.dtype.kind == "f" else images.astype(np.float64)
    behind = [(0, 0), (0, 0), (0, steps - images.shape[2]), (0, 0)]
    return np.pad(floats, behind, constant_values=np.nan)


def _read(given: Any, number: int) -> Array:
    array = as_array(f"sequence {number}", given)
    if array.ndim not in (1, 2) or array.dtype.kind not in "biuf" or (array.ndim == 2 and not array.shape[1]):
        raise DataError(
            f"sequence {number}: expected numbers of shape (T, C) or (T,), got {array.dtype} of shape {array.shape}"
        )
    if not len(array):
        raise DataError(f"sequence {number} has no steps: leave it out")
    if not np.isfinite(array).all():
        step = int(np.argwhere(~np.isfinite(array))[0, 0])
        raise DataError(
            f"sequence {number}: expected finite numbers, got others at step {step}; cut absent steps off, or fill "
            "them in"
        )
    return array.astype(np.float64).reshape(len(array), -1)


def _refuse(bad: npt.NDArray[np.bool_], why: str, where: tuple[str, int]) -> None:
    if bad.any():
        row, step = (int(k) for k in np.argwhere(bad)[0])
        raise DataError(f"{where[0]}: sequence {where[1] + row}: {why.format(step=step)}")
