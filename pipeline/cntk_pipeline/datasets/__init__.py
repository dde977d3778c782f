"""Data sets: labelled images from a file, a folder or a library, and their preprocessing for a kernel.

To add a source, write one class in one file and name it in `sources.DATASETS`.
"""

from typing import TYPE_CHECKING

from cntk_pipeline.lazy import lazy_names

if TYPE_CHECKING:
    from cntk_pipeline.datasets.base import Dataset, Loader, Split, as_split
    from cntk_pipeline.datasets.consistency import equal_images, uneven_features, warnings_of
    from cntk_pipeline.datasets.contents import ClassCount, Contents
    from cntk_pipeline.datasets.preprocessing import Standardization, one_hot_targets, standardize, target_mean
    from cntk_pipeline.datasets.selection import row_count, select, shuffle
    from cntk_pipeline.datasets.sources import DATASETS, load, make_loader
    from cntk_pipeline.datasets.targets import assemble

__all__ = [
    "DATASETS",
    "ClassCount",
    "Contents",
    "Dataset",
    "Loader",
    "Split",
    "Standardization",
    "as_split",
    "assemble",
    "equal_images",
    "load",
    "make_loader",
    "one_hot_targets",
    "row_count",
    "select",
    "shuffle",
    "standardize",
    "target_mean",
    "uneven_features",
    "warnings_of",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "DATASETS": "sources",
        "ClassCount": "contents",
        "Contents": "contents",
        "Dataset": "base",
        "Loader": "base",
        "Split": "base",
        "Standardization": "preprocessing",
        "as_split": "base",
        "assemble": "targets",
        "equal_images": "consistency",
        "load": "sources",
        "make_loader": "sources",
        "one_hot_targets": "preprocessing",
        "row_count": "selection",
        "select": "selection",
        "shuffle": "selection",
        "standardize": "preprocessing",
        "target_mean": "preprocessing",
        "uneven_features": "consistency",
        "warnings_of": "consistency",
    },
)
