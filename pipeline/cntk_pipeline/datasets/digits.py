"""The handwritten digits that come with scikit-learn: real images, and no file to fetch."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from cntk_pipeline.datasets.base import Dataset, Loader, as_split
from cntk_pipeline.errors import ConfigError


@final
@dataclass(frozen=True)
class Digits(Loader):
    """Load the 1,797 digits of 8 x 8 pixels.

    They were written by 13 people. There is no test part: `datasets.select` takes the rows after the
    training rows, all in the published order.

    Parameters
    ----------
    path : None
        Must be left out: the images come with scikit-learn.

    Raises
    ------
    ConfigError
        A path was given.

    References
    ----------
    Alpaydin, E., Kaynak, C. (1998). Optical Recognition of Handwritten Digits. UCI Machine Learning
    Repository; the test part.

    Examples
    --------
    >>> Digits().load().train.images.shape
    (1797, 8, 8, 1)
    """

    def load(self) -> Dataset:
        """Read float32 images (1797, 8, 8, 1) of values 0 to 16, and their labels."""
        self.require_classes("digits")
        if self.path is not None:
            raise ConfigError(
                f"data source 'digits': expected no path, got {self.path!r}; remove data.path "
                "(the images come with scikit-learn), or choose the source 'npz' or 'folder'"
            )
        images, labels = _read()
        return Dataset("digits", tuple("0123456789"), as_split(images, labels))


def _read() -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Read the images and labels from scikit-learn's file.

    scikit-learn itself takes a second to import, which each command would pay; it is asked only where its file has
    another place.
    """
    package = importlib.util.find_spec("sklearn")
    if package is not None and package.origin is not None:
        file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            table = np.loadtxt(file, delimiter=",", dtype=np.float32)
            return table[:, :64].reshape(-1, 8, 8), table[:, 64].astype(np.int64)
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images.astype(np.float32), digits.target
