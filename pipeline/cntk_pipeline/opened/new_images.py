"""New images for a run: checked against its own, and standardised by the same numbers."""

import numpy as np

from cntk_pipeline.errors import DataError
from cntk_pipeline.inputs import as_array
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.preprocessing import Preprocessing
from cntk_pipeline.storage.tiled_array import Array


def require_images(run: RunDirectory, steps: Preprocessing, name: str, given: object) -> Array:
    """Return new images as an array like the images of the source of a run.

    Parameters
    ----------
    run : the run.
    steps : of its preprocessing.
    name : of the images, for messages.
    given : ``(n, H, W, C)``, ``(n, H, W)`` for grayscale, or ``(n, features)``, as its source had them.

    Raises
    ------
    DataError
        If their shape or their kind of numbers is another, or a value is not finite.
    """
    images, shape = as_array(name, given), run.specification.data.shape
    if images.ndim == len(shape) and shape[-1:] == (1,):  # (n, H, W): grayscale
        images = images[..., np.newaxis]
    expected = f"expected images of shape (n, {', '.join(map(str, shape))}), as those of {run.path}"
    if images.shape == shape:
        raise DataError(f"{name}: {expected}, got one image of shape {images.shape}; give {name}[None]")
    if images.ndim != len(shape) + 1 or images.shape[1:] != shape:
        raise DataError(f"{name}: {expected}, got {images.shape}; resize or reshape them")
    if not len(images):
        raise DataError(f"{name}: {expected}, got none; give at least one")
    is_pixels, is_float = images.dtype == np.uint8, images.dtype.kind == "f" and images.dtype.itemsize <= 8
    if not (is_pixels if steps.pixels == "uint8" else is_float):
        wanted = "uint8" if steps.pixels == "uint8" else "float16, float32 or float64"
        raise DataError(
            f"{name}: expected {wanted} pixels on the scale of the source of {run.path}, got {images.dtype}; convert "
            "them to that scale, as the run standardises them by the numbers of its own images"
        )
    bad = np.argwhere(~np.isfinite(images))
    if len(bad):
        place = tuple(map(int, bad[0]))
        raise DataError(
            f"{name}: expected finite pixels, got {images[place]} at index {place}; drop or repair that image"
        )
    return images
