"""The table of the sources of data, and the keys of each."""

import json
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cntk_pipeline.datasets.base import Dataset, Loader
from cntk_pipeline.datasets.cifar10 import Cifar10
from cntk_pipeline.datasets.digits import Digits
from cntk_pipeline.datasets.folder import ImageFolder
from cntk_pipeline.datasets.idx import Idx
from cntk_pipeline.datasets.npz import Npy, Npz
from cntk_pipeline.datasets.sklearn_tables import SklearnTable
from cntk_pipeline.datasets.table import Table
from cntk_pipeline.datasets.tudataset import TUDataset
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.models import AskedTask

DATASETS: Mapping[str, type[Loader]] = {
    "digits": Digits,
    "cifar10": Cifar10,
    "npz": Npz,
    "npy": Npy,
    "folder": ImageFolder,
    "table": Table,
    "idx": Idx,
    "sklearn": SklearnTable,
    "tudataset": TUDataset,
}


def load(
    source: str, path: str | None = None, task: AskedTask = "auto", options: Mapping[str, Any] | None = None
) -> Dataset:
    """Load a data set by the name of its source.

    Parameters
    ----------
    source : str
        A key of `DATASETS`.
    path : str, optional
        File or folder; some sources need it, others refuse it.
    task : str
        What the labels are; "auto" goes by their type.
    options : mapping, optional
        Further keys of ``[data]`` that belong to the source.

    Raises
    ------
    ConfigError
        If there is no such source or key, a value is invalid, or the path is needed and missing, or given and useless.
    DataNotFound
        If the files are not there.
    DataError
        If a kernel cannot be computed from their content.

    Examples
    --------
    >>> load("digits").classes[:3]
    ('0', '1', '2')
    """
    return make_loader(source, dict(options or {}) | {"path": path, "task": task}).load()


def make_loader(source: str, values: Mapping[str, Any]) -> Loader:
    """Make the loader of a source with the values of its keys; nothing is read.

    Raises
    ------
    ConfigError
        If there is no such source or key, or a value is invalid.
    """
    if source not in DATASETS:
        near = get_close_matches(source, DATASETS, n=1)
        suggestion = f"did you mean {near[0]!r}?" if near else "choose one of them as data.source"
        raise ConfigError(f"data source: expected one of {', '.join(DATASETS)}, got {source!r}; {suggestion}")
    known = keys_of(DATASETS[source])
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown key data.{key}: {_where_known(key, source, known)}")
    try:
        # As JSON, in which a list is also a tuple.
        return TypeAdapter(DATASETS[source]).validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        lines = [
            f"data.{'.'.join(map(str, each['loc']))}: {each['msg']}, got {each['input']!r}" for each in error.errors()
        ]
        raise ConfigError("\n  ".join(lines)) from None


def keys_of(loader: type[Loader]) -> list[str]:
    """List the keys of ``[data]`` that a source reads."""
    return [field.name for field in fields(loader)]


def _where_known(key: str, source: str, known: list[str]) -> str:
    """Say which other sources have a key, or which key is near."""
    others = [name for name, loader in DATASETS.items() if key in keys_of(loader)]
    if others:
        return f"it belongs to source = {' or '.join(map(repr, others))}, not to {source!r}; leave it out"
    near = get_close_matches(key, [*known, *GENERAL], n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join([*GENERAL, *known])}"


GENERAL = ("source", "train", "train_blocks", "test", "shuffle", "standardize", "standardize_first")
"""The keys of ``[data]`` that belong to no source."""
