"""Cluster files: a ``[cluster]`` table of its own, so that one workflow file serves everywhere."""

import os
from pathlib import Path

from cntk_pipeline.config import expand_place
from cntk_pipeline.errors import ConfigError

FOLDERS_VARIABLE = "CNTK_CLUSTERS"

_OURS = Path(__file__).parent / "here"
"""Folder of the cluster files that always exist: for this machine."""


def find_cluster(name: str) -> Path:
    """Find a cluster file by its name in the folder of cluster files, or by its path.

    "local" and "serial" exist without a file of the user.

    Raises
    ------
    ConfigError
        If there is none, with the known names.
    """
    if name.endswith(".toml") or os.sep in name:
        path = Path(_expanded(name))
        if not path.is_file():
            raise ConfigError(f"there is no cluster file {path}: write one with a [cluster] table, see deploy/")
        return path
    folder = cluster_folder()
    found = [path for path in (folder / f"{name}.toml", _OURS / f"{name}.toml") if path.is_file()]
    if not found:
        known = ", ".join(sorted({file.stem for each in (folder, _OURS) for file in each.glob("*.toml")}))
        raise ConfigError(
            f"no cluster is called {name!r}: known are {known}. Put {name}.toml with a [cluster] table into {folder}, "
            f"or name another folder in ${FOLDERS_VARIABLE}"
        )
    return found[0]


def _expanded(text: str) -> str:
    try:
        return expand_place(text)
    except ValueError as error:
        raise ConfigError(f"cluster file {text!r}: {error}") from None


def cluster_folder() -> Path:
    """Return the folder of cluster files."""
    given = os.environ.get(FOLDERS_VARIABLE)
    return Path(_expanded(given)) if given else Path.home() / ".config" / "cntk" / "clusters"
