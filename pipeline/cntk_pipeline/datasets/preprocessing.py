"""The inputs of a kernel regression, from a data set: standardised pixels and regression targets."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt

from cntk_pipeline.datasets.base import ROWS_PER_BLOCK, Dataset, Split
from cntk_pipeline.datasets.labels import why_no_labels
from cntk_pipeline.datasets.selection import row_count
from cntk_pipeline.errors import ConfigError, DataError
from cntk_pipeline.inputs import as_array
from cntk_pipeline.sequences import has_absent_pixels


@final
@dataclass(frozen=True)
class Standardization:
    """Constants that bring pixels to mean 0 and standard deviation 1.

    Parameters
    ----------
    mean, std : tuple of float
        One for each channel; for vectors a single one, or one for each feature. For uint8 images they refer to pixel
        values in 0..1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, images: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return (images - mean) / std in a new C-contiguous array, computed in float64, rounded once to `dtype`.

        Parameters
        ----------
        images : array, (n, H, W, C) or (n, features)
            uint8 values are divided by 255 first, as for the constants.
        dtype : float32 or float64
            Of the result.

        Raises
        ------
        DataError
            If the number of channels differs from the constants'.
        """
        channel_count = len(self.mean)
        possible = (images.shape[-1],) if images.ndim == 4 else (1, images.shape[-1])
        if channel_count not in possible:
            what = "channels" if images.ndim == 4 else "features"
            raise DataError(
                f"images of shape {images.shape}: expected {channel_count} {what}, as the standardisation was "
                f"measured on, got {images.shape[-1]}; give images like those of the training part"
            )
        pixel_count = images[0].size // channel_count
        mean, std = np.tile(self.mean, pixel_count), np.tile(self.std, pixel_count)
        result = np.empty(images.shape, dtype)
        with np.errstate(over="ignore"):  # `Dataset` refuses infinite values
            for start, block in _blocks(images):
                rows = result[start : start + len(block)]
                rows[...] = ((block - mean) / std).reshape(rows.shape)
        return result


def standardize(
    dataset: Dataset, dtype: npt.DTypeLike, first: int | None = None, per: Literal["channel", "feature"] = "channel"
) -> tuple[Dataset, Standardization]:
    """Bring the training pixels to mean 0 and standard deviation 1, and the test pixels by the same constants.

    The constants belong to a channel, over all training images and pixels; for vectors (n, features) there is one pair
    for everything, or with ``per="feature"`` one for each feature. They are computed in float64, the standard deviation
    in a second pass. uint8 pixels are divided by 255 first, which does not matter to the result but keeps the constants
    in the usual units. A channel or feature that is constant over the training images becomes 0: its standard deviation
    is taken to be 1. Black images are legal. Absent steps and pixels count for nothing, and stay absent.

    Parameters
    ----------
    dataset : Dataset
        Of any pixel type.
    dtype : float32 or float64
        Of the result, which is C-contiguous.
    first : int, optional
        Number of the first training images that the constants are measured on, instead of all, so that they stay when
        more images are appended.
    per : {"channel", "feature"}
        The unit with its own constants; "feature" is for vectors whose features have unequal scales.

    Returns
    -------
    Dataset, Standardization
        The standardised data set, and the constants for further images.

    Raises
    ------
    ConfigError
        If the dtype is another one, `first` is not between 1 and the number of training images, ``per`` is no such
        word, or ``per="feature"`` is given for images.
    DataError
        If pixels are so large, or so close together, that their squares leave the range of float64.
    """
    # NumPy takes None for float64.
    if dtype is None or dtype not in (np.float32, np.float64, "float32", "float64", np.dtype("f4"), np.dtype("f8")):
        raise ConfigError(f"expected 'float32' or 'float64' for the standardised images, got {dtype!r}")
    if per not in ("channel", "feature"):
        raise ConfigError(f"expected per = 'channel' or 'feature' for the standardised images, got {per!r}")
    measured = row_count(first, len(dataset.train), "standardize_first", dataset.name)
    images = dataset.train.images
    if per == "feature" and images.ndim != 2:
        raise ConfigError(
            f'{dataset.name}: data.standardize = "per_feature" is for vectors of shape (n, features), got images of '
            f"shape {images.shape}; true gives each channel its own mean and deviation"
        )
    count = images.shape[-1] if per == "feature" else _channel_count(images)
    constants = _measure(images[:measured], dataset.name, count)

    def apply(split: Split) -> Split:
        return replace(split, images=constants.apply(split.images, dtype))

    test = None if dataset.test is None else apply(dataset.test)
    return replace(dataset, train=apply(dataset.train), test=test), constants


def one_hot_targets(labels: npt.ArrayLike, class_count: int) -> npt.NDArray[np.float64]:
    """Make regression targets: 1 - 1/classes in the column of the label, -1/classes elsewhere.

    With ten classes that is 0.9 and -0.1, as in Arora et al. (2019), On Exact Computation with an Infinitely Wide
    Neural Net, section 6. Rows sum to 0.

    Parameters
    ----------
    labels : int array, (n,)
        From 0 to class_count - 1.
    class_count : int
        Number of columns.

    Returns
    -------
    float64 array, (n, class_count)

    Raises
    ------
    DataError
        If a label is outside of that range, or labels are no whole numbers of shape (n,).

    Examples
    --------
    >>> one_hot_targets([1, 0], 2)
    array([[-0.5,  0.5],
           [ 0.5, -0.5]])
    """
    labels = as_array("labels", labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"labels: expected whole numbers of shape (n,), got {labels.dtype} of shape {labels.shape}; "
            f"{why_no_labels(labels)}"
        )
    outside = (labels < 0) | (labels >= class_count)
    if outside.any():
        row = int(outside.argmax())
        raise DataError(f"labels: expected 0 to {class_count - 1}, got {labels[row]} at row {row}; check class_count")
    targets = np.full((len(labels), class_count), -1.0 / class_count)
    targets[np.arange(len(labels)), labels] = 1.0 - 1.0 / class_count
    return targets


def target_mean(targets: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Average the training targets, (n, targets), in each column.

    A kernel regression has no constant term: the mean is subtracted from the targets before the solve, and added to the
    predictions.
    """
    return targets.mean(axis=0)


def _channel_count(images: npt.NDArray[Any]) -> int:
    """Count the channels with their own constants; vectors have one pair for everything."""
    return int(images.shape[-1]) if images.ndim == 4 else 1


def _blocks(images: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
    """Go through the images in float64, some at a time: all of CIFAR-10 would take 1.5 GB.

    An image becomes one row of H W C values, since a loop over these is several times faster than one over C.
    """
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    for start in range(0, len(images), ROWS_PER_BLOCK):
        block = images[start : start + ROWS_PER_BLOCK]
        yield start, block.reshape(len(block), -1).astype(np.float64) / scale


def _measure(images: npt.NDArray[Any], name: str, channel_count: int) -> Standardization:
    """Compute mean and standard deviation of each channel: of every ``channel_count``-th value of an image."""
    width = images[0].size
    value_count = images.size // channel_count
    if has_absent := has_absent_pixels(images):
        value_count -= int(np.isnan(images[..., 0]).sum())
    total, squares = np.zeros(width), np.zeros(width)
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    with np.errstate(over="ignore", invalid="ignore"):  # an overflow is refused below
        for _, block in _blocks(images):
            absent = np.isnan(block) if has_absent else None
            total += (block if absent is None else np.where(absent, 0, block)).sum(axis=0)
            # These two pass over NaN.
            np.fmin(low, block.min(axis=0) if absent is None else np.fmin.reduce(block), out=low)
            np.fmax(high, block.max(axis=0) if absent is None else np.fmax.reduce(block), out=high)
        low, high = low.reshape(-1, channel_count).min(axis=0), high.reshape(-1, channel_count).max(axis=0)
        # Compared by extremes: the mean of a constant like 0.1 has a rounding error, so the deviation would be 1e-17
        # instead of 0, and the rounding error would be divided by it.
        constant = low == high
        mean = np.where(constant, low, total.reshape(-1, channel_count).sum(axis=0) / value_count)
        centre = np.tile(mean, width // channel_count)
        for _, block in _blocks(images):
            deviations = np.square(block - centre)
            squares += (np.where(np.isnan(block), 0, deviations) if has_absent else deviations).sum(axis=0)
        variance = squares.reshape(-1, channel_count).sum(axis=0) / value_count
        std = np.where(constant, 1.0, np.sqrt(variance))
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and std.all()):
        raise DataError(
            f"{name}: expected pixels whose squares float64 can hold, got values from {low.min()} to "
            f"{high.max()}; scale the images"
        )
    return Standardization(tuple(mean.tolist()), tuple(std.tolist()))
