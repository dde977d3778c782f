"""Packages of users: imported from the very bytes that were digested, or refused.

Python imports a module once and never again, and it may take it from a compiled cache that belongs to another source of
the same size and second. Modules may also be imported late, by the function itself.
"""

import hashlib
import importlib
import math
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path

import psutil

from cntk_pipeline.errors import ConfigError


@dataclass(frozen=True)
class Package:
    """A package as it is on disk.

    Attributes
    ----------
    root : Path
        The folder of the package.
    digests : mapping of Path to bytes
        The sha256 of each of its files ``.py``.
    """

    root: Path
    digests: Mapping[Path, bytes]


def import_digested(name: str, module: str, package: Package) -> types.ModuleType:
    """Import a module of a package.

    Parameters
    ----------
    name : str
        Of the plugin, for errors.
    module : str
        With the names of the packages that it lies in.

    Raises
    ------
    ConfigError
        If this process holds modules of the package whose files have changed, or may have.
    Exception
        Of any class, from the code of the module.
    """
    top = module.partition(".")[0]
    if top not in _FINDER.packages:
        _require_unchanged(name, top)
        _FINDER.packages[top] = package
    if _FINDER.packages[top] != package:
        raise ConfigError(
            f"the plugin {name}: the files of {package.root} have changed since this process imported them: start "
            "Python again"
        )
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    return importlib.import_module(module)


def _require_unchanged(name: str, top: str) -> None:
    """Refuse modules that were imported by somebody else, and whose files may be others by now.

    Python keeps neither the source of a module nor the time of its import. So only a file that is
    older than the process is known to hold the code that the process imported.
    """
    began = psutil.Process().create_time()
    held = [each for key, each in list(sys.modules.items()) if key.partition(".")[0] == top]
    for file in (vars(each).get("__file__") for each in held if isinstance(each, types.ModuleType)):
        if file is not None and _changed_at(Path(file)) > began:
            raise ConfigError(
                f"the plugin {name}: this process imported {file} before, and the file has changed since the process "
                "began, so that values could be those of the old source: start Python again. A module in one file, "
                "with its kernel.plugin_folder, is read anew each time"
            )


def _changed_at(file: Path) -> float:
    """Return when a file was changed or put in its place, in seconds of the epoch; infinity where it is gone."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return math.inf
    return max(found.st_mtime, found.st_ctime)  # a copy may keep the first one


class _Loader(SourceFileLoader):
    """Compiles a file that has the digest it should have; no compiled cache takes its place."""

    def __init__(self, name: str, path: str, digest: bytes | None) -> None:
        super().__init__(name, path)
        self._digest = digest

    def get_code(self, fullname: str) -> types.CodeType:
        content = self.get_data(self.path)
        if hashlib.sha256(content).digest() != self._digest:
            what = "has changed since" if self._digest else "was not there when"
            raise ImportError(f"{self.path} {what} its package was digested: start Python again")
        return self.source_to_code(content, self.path)


class _Finder(MetaPathFinder):
    """Lets other finders find the modules of digested packages, and `_Loader` load those in files of the package."""

    def __init__(self) -> None:
        self.packages: dict[str, Package] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        package = self.packages.get(fullname.partition(".")[0])
        if package is None:
            return None
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in others if spec is not None), None)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            file = Path(spec.loader.path)
            if file.is_relative_to(package.root):  # a package may have folders elsewhere
                spec.loader = _Loader(fullname, spec.loader.path, package.digests.get(file))
        return spec


_FINDER = _Finder()
