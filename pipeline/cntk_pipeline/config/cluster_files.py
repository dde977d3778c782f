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
        if not _is_file(path):
            raise ConfigError(f"there is no cluster file {path}: write one with a [cluster] table, see deploy/")
        return path
    folder = cluster_folder()
    folders = [_OURS] if folder is None else [folder, _OURS]
    found = [path for path in (each / f"{name}.toml" for each in folders) if _is_file(path)]
    if not found:
        known = ", ".join(sorted({stem for each in folders for stem in _stems(each)}))
        place = "a folder" if folder is None else str(folder)
        other = "it" if folder is None else "another folder"
        raise ConfigError(
            f"no cluster is called {name!r}: known are {known}. Put {name}.toml with a [cluster] table into {place}, "
            f"{'and' if folder is None else 'or'} name {other} in ${FOLDERS_VARIABLE}"
        )
    return found[0]


def _is_file(path: Path) -> bool:
    """Tell whether there is a file that this user can see: a home of another user may be closed."""
    return os.path.isfile(path)  # unlike a path's own method, it raises nothing


def _stems(folder: Path) -> list[str]:
    """List the names of the cluster files in a folder; none where it may not be read."""
    try:
        return [name.removesuffix(".toml") for name in os.listdir(folder) if name.endswith(".toml")]
    except OSError:
        return []


def _expanded(text: str) -> str:
    try:
        return expand_place(text)
    except ValueError as error:
        raise ConfigError(f"cluster file {text!r}: {error}") from None


def cluster_folder() -> Path | None:
    """Return the folder of cluster files; None where none is named and this user has no home."""
    given = os.environ.get(FOLDERS_VARIABLE)
    if given:
        return Path(_expanded(given))
    try:
        return Path.home() / ".config" / "cntk" / "clusters"
    except RuntimeError:
        return None
