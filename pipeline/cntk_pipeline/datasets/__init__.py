"""Data sets: labelled images from a file, a folder or a library, and their preprocessing for a kernel.

To add a source, write one class in one file and name it in `DATASETS`.
"""

from collections.abc import Mapping
from difflib import get_close_matches

from cntk_pipeline.datasets.base import Dataset, Loader, Split, as_split
from cntk_pipeline.datasets.cifar10 import Cifar10
from cntk_pipeline.datasets.consistency import equal_images, uneven_features, warnings_of
from cntk_pipeline.datasets.contents import ClassCount, Contents
from cntk_pipeline.datasets.digits import Digits
from cntk_pipeline.datasets.folder import ImageFolder
from cntk_pipeline.datasets.npz import Npz
from cntk_pipeline.datasets.preprocessing import Standardization, one_hot_targets, standardize
from cntk_pipeline.datasets.selection import row_count, select, shuffle
from cntk_pipeline.errors import ConfigError

__all__ = [
    "DATASETS",
    "Cifar10",
    "ClassCount",
    "Contents",
    "Dataset",
    "Digits",
    "ImageFolder",
    "Loader",
    "Npz",
    "Split",
    "Standardization",
    "as_split",
    "equal_images",
    "load",
    "one_hot_targets",
    "row_count",
    "select",
    "shuffle",
    "standardize",
    "uneven_features",
    "warnings_of",
]

DATASETS: Mapping[str, type[Loader]] = {"digits": Digits, "cifar10": Cifar10, "npz": Npz, "folder": ImageFolder}


def load(source: str, path: str | None = None) -> Dataset:
    """Load a data set by the name of its source.

    Parameters
    ----------
    source : str
        A key of `DATASETS`.
    path : str, optional
        File or folder; needed by "npz" and "folder", optional for "cifar10", refused by "digits".

    Raises
    ------
    ConfigError
        If there is no such source, or the path is needed and missing, or given and useless.
    DataNotFound
        If the files are not there.
    DataError
        If a kernel cannot be computed from their content.

    Examples
    --------
    >>> load("digits").classes[:3]
    ('0', '1', '2')
    """
    if source not in DATASETS:
        near = get_close_matches(source, DATASETS, n=1)
        suggestion = f"did you mean {near[0]!r}?" if near else "choose one of them as data.source"
        raise ConfigError(f"data source: expected one of {', '.join(DATASETS)}, got {source!r}; {suggestion}")
    return DATASETS[source](path).load()
