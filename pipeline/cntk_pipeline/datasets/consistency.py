"""Warnings about labelled images that are valid for a kernel, but odd: equal images, a single class."""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from cntk_pipeline.datasets.base import Dataset, Split
from cntk_pipeline.errors import DataError

SHOWN_PAIRS = 5
"""Largest number of pairs of rows that a message names."""

NEARLY_ALL, FEW = 0.99, 0.25
"""Vectors have unequal scales if a quarter of their varying features hold so much of the variance. Pixels have not: of
scikit-learn's digits it takes 45 of 61. Measurements in their units have: of its wine 1 of 13, of breast cancer 2 of
30."""

FEATURES_PER_BLOCK = 1024
"""Number of features examined together, to bound the memory."""


def equal_images(split: Split, mirrored: bool = False) -> list[tuple[int, int]]:
    """List the pairs of equal images: each image with the first one equal to it, ``(earlier row, row)``.

    Parameters
    ----------
    split : Split
        Compared byte by byte.
    mirrored : bool
        Whether an image also equals its mirror image, as for a kernel that is averaged over flips.

    Examples
    --------
    >>> import numpy as np
    >>> from cntk_pipeline.datasets import as_split
    >>> equal_images(as_split(np.array([[[1, 2]], [[2, 1]], [[1, 2]]]), [0, 0, 0]))
    [(0, 2)]
    """
    first: dict[bytes, int] = {}
    pairs = []
    for row, image in enumerate(split.images):
        digest = _digest(image)
        if mirrored and image.ndim == 3:
            digest = min(digest, _digest(image[:, ::-1]))
        if digest in first:
            pairs.append((first[digest], row))
        else:
            first[digest] = row
    return pairs


def warnings_of(data: Dataset, ridges: list[float], mirrored: bool = False) -> tuple[str, ...]:
    """List oddities of the training images, one line each.

    Parameters
    ----------
    data : Dataset
    ridges : list of float
        Of the regression; without one (0), equal images make the kernel singular.
    mirrored : bool
        As in `equal_images`.

    Raises
    ------
    DataError
        If equal images have different labels and a ridge is 0: no function fits both.
    """
    labels, lines = data.train.known_labels, []
    same = equal_images(data.train, mirrored)
    torn = [(i, j) for i, j in same if not np.array_equal(labels[i], labels[j])]
    what = "equal (or mirrored)" if mirrored else "equal"
    if torn:
        names = "; ".join(
            f"{i} ({_label_text(data, i)}) and {j} ({_label_text(data, j)})" for i, j in torn[:SHOWN_PAIRS]
        )
        told = f"{len(torn)} pairs of {what} training images have different labels, rows {names}"
        if 0 in ridges:
            raise DataError(
                f"{data.name}: {told}. Without a ridge no function fits both: drop 0 from solve.ridges, or one image "
                "of each pair from the data"
            )
        lines.append(f"{told}: no ridge can make both right")
    if len(same) > len(torn) and 0 in ridges:
        agreeing = ", ".join([f"{i} and {j}" for i, j in same if (i, j) not in torn][:SHOWN_PAIRS])
        lines.append(f"some training images are {what}, rows {agreeing}: without a ridge their kernel is singular")
    return (*lines, *_constant_labels(data))


def _label_text(data: Dataset, row: int) -> str:
    """Write the label of a training image: its class, its classes, or its numbers."""
    label = data.train.known_labels[row]
    if data.task == "regression":
        return ", ".join(f"{number:g}" for number in label)
    return data.classes[label] if data.task == "classification" else " ".join(np.array(data.classes)[label > 0])


def _constant_labels(data: Dataset) -> list[str]:
    """Warn where all training images have the same label, or the same value of a target."""
    labels = data.train.known_labels
    if data.task != "classification":
        names = [name for name, column in zip(data.classes, labels.T, strict=True) if (column == column[0]).all()]
        return [f"{name} is {labels[0, data.classes.index(name)]:g} for all training images" for name in names]
    if len(np.unique(labels)) > 1:
        return []
    zero = ", and targets of one class are all zero" if len(data.classes) == 1 else ""
    return [
        f"all {len(labels)} training images are of the class {data.classes[labels[0]]}: an accuracy says nothing{zero}"
    ]


def uneven_features(data: Dataset) -> tuple[str, ...]:
    """Warn where a few features of vectors hold nearly all of their variance, so that one scale hides the others."""
    images = data.train.images
    if images.ndim != 2:
        return ()
    variance = np.empty(images.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):  # standardising refuses an overflow
        for start in range(0, len(variance), FEATURES_PER_BLOCK):
            block = images[:, start : start + FEATURES_PER_BLOCK]
            variance[start : start + FEATURES_PER_BLOCK] = block.astype(np.float64).var(axis=0)
        order = np.argsort(variance)[::-1]
        shares = np.cumsum(variance[order]) / variance.sum()
    holding, varying = int(np.count_nonzero(shares < NEARLY_ALL)) + 1, np.count_nonzero(variance)
    if varying < 2 or holding > max(1, FEW * varying):
        return ()
    return (
        f"{holding} of {len(variance)} features hold {100 * NEARLY_ALL:.0f}% of the variance, most of it feature "
        f'{order[0]}, so that the others hardly count: data.standardize = "per_feature" gives each its own mean and '
        "deviation",
    )


def _digest(image: npt.NDArray[Any]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
