"""What arrays from elsewhere may mean: asked of a data set and of `kernel_matrix` alike."""

from typing import Any

import numpy as np

from cntk_pipeline.errors import DataError


def require_plain(name: str, array: object) -> None:
    """Refuse a masked array: what lies behind the mask would be used as if it were a value.

    Raises
    ------
    DataError
        With ``name``, and what to do.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise DataError(
            f"{name}: expected a plain array, got a masked one, {int(np.asarray(array.mask).sum())} of whose "
            f"{array.size} values are masked; drop their rows, or fill them in with .filled(value)"
        )


def require_channels_last(name: str, shape: tuple[int, ...]) -> None:
    """Refuse a shape ``(n, C, H, W)``, as other libraries have it.

    Read as ``(n, H, W, C)`` such images would run without a complaint, as a strip of a few rows with many channels.
    Taken for one are up to four rows where the image behind is a square of more than 4 pixels, and three rows where
    both other sides are longer than that.

    Raises
    ------
    DataError
        With ``name``, and what to do.
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


def as_array(name: str, given: Any) -> np.ndarray:
    """Make a plain array of what was given; see `require_plain`."""
    require_plain(name, given)
    return np.asarray(given)
