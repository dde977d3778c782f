"""Stores of run directories. ``STORAGES`` is the interface of this package: functions that open a place, by scheme."""

import os
from collections.abc import Callable
from pathlib import Path

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.storage.base import Appender, Listed, StorePath
from cntk_pipeline.storage.local import LocalPath
from cntk_pipeline.storage.objects import ObjectPath

STORAGES: dict[str, Callable[[str], StorePath]] = {"": LocalPath, "s3": ObjectPath.parse}


def open_path(place: str | Path | StorePath) -> StorePath:
    """Open a place by its name: a local path, whose ``~`` is the home folder, or ``s3://bucket/name``.

    Raises
    ------
    ConfigError
        If its scheme is unknown, or the name is invalid for its scheme.
    """
    if isinstance(place, StorePath):
        return place
    scheme, colon, _ = str(place).partition("://")
    scheme = scheme if colon else ""
    if scheme not in STORAGES:
        known = ", ".join(f"{name}://" for name in STORAGES if name)
        raise ConfigError(f"{scheme}:// is no store that is known: give a local directory, or one of {known}")
    return STORAGES[scheme](str(place) if scheme else os.path.expanduser(place))


__all__ = ["STORAGES", "Appender", "Listed", "LocalPath", "ObjectPath", "StorePath", "open_path"]
