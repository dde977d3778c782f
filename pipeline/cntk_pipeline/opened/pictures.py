"""The images of a run as people know them: the standardisation undone, bytes for the screen."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.preprocessing import find_preprocessing
from cntk_pipeline.storage.tiled_array import Array


def read_samples(run: RunDirectory, part: Literal["train", "test"], indices: Sequence[int]) -> Array:
    """Read some images or vectors as the run's source had them, where the run knows how they were standardised.

    Parameters
    ----------
    run : RunDirectory
        The run.
    part : {"train", "test"}
        Of the data set.
    indices : sequence of int
        Of the images in the part.

    Returns
    -------
    float64 array, (k, H, W, C) or (k, features)
        Pixels of uint8 images are in 0..1.

    Raises
    ------
    StoreError
        If the images are not stored yet, or damaged.
    """
    stored = run.inputs("train_images" if part == "train" else "test_images")
    samples = np.stack([stored[index : index + 1][0] for index in indices]).astype(np.float64)
    steps = find_preprocessing(run)
    if steps is None or steps.standardization is None:
        return samples
    constants = steps.standardization
    if samples.ndim == 2 and len(constants.mean) != samples.shape[1]:
        return samples * constants.std[0] + constants.mean[0]
    return samples * np.array(constants.std) + np.array(constants.mean)


def as_picture(sample: Array) -> Array:
    """Make an image a picture for the screen.

    Parameters
    ----------
    sample : float64 array, (H, W, C)
        Of any range: values within 0..1 are taken as they are, others are brought there.

    Returns
    -------
    uint8 array, (H, W, 3)
        Of 1, 2, or more than 3 channels it is the mean, in grey. Absent pixels are white.
    """
    low, high = float(np.nanmin(sample)), float(np.nanmax(sample))
    tolerance = 1e-3  # of rounding to float32 and back
    if low < -tolerance or high > 1 + tolerance:
        sample = (sample - low) / (high - low) if high > low else np.zeros_like(sample)
    if sample.shape[-1] != 3:
        sample = np.repeat(sample.mean(axis=-1, keepdims=True), 3, axis=-1)
    return np.round(255 * np.clip(np.nan_to_num(sample, nan=1.0), 0, 1)).astype(np.uint8)
