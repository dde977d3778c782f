"""Functions of users that compute kernels: how they are found, digested and loaded.

`load_function` imports code, and only those call it who have the user's word. Everything else asks `loaded_function`,
which imports nothing.
"""

import hashlib
import importlib
import importlib.util
import math
import os
import socket
import sys
import threading
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cntk_pipeline.errors import ConfigError, NotTrusted, SpecificationMismatch
from cntk_pipeline.layers import spelling

Function = Callable[..., Any]

LOCK = threading.Lock()
"""Held while a user's function runs: it need not know of threads."""

_loaded: dict[tuple[str, str], Function] = {}
"""The functions that this process has loaded, by name and digest: the last of each."""

_imported: dict[str, str] = {}
"""The digests of packages when this process imported them: Python imports a package once and never again."""


@dataclass(frozen=True)
class Source:
    """The source of a module, before anything of it is imported.

    Attributes
    ----------
    main : the file of the module, or of its package.
    files : what the digest covers: the one file of a module, or all files ``.py`` of a package.
    is_package : whether the module belongs to a package.
    """

    main: Path
    files: tuple[Path, ...]
    is_package: bool

    @property
    def digest(self) -> str:
        """The sha256 of the file; of a package, of the names of its files and the sha256 of each."""
        if not self.is_package:
            return hashlib.sha256(self.main.read_bytes()).hexdigest()
        root, whole = self.main.parent, hashlib.sha256()
        for file in self.files:
            whole.update(f"{file.relative_to(root).as_posix()}\0".encode())
            whole.update(hashlib.sha256(file.read_bytes()).digest())
        return whole.hexdigest()


def load_function(name: str, folder: str | None, expected: str | None = None) -> str:
    """Import the function of a user, by the user's word.

    A module in one file is executed each time: what it reads, such as weights beside it, may have changed, or lie in
    another folder.

    Parameters
    ----------
    name : "module:function".
    folder : where the file of the module lies; None for an installed module.
    expected : the digest that its source must have; None for any.

    Returns
    -------
    The digest of its source.

    Raises
    ------
    ConfigError
        If there is no such module or function, or it cannot be imported; or if this process holds a package whose files
        have changed.
    SpecificationMismatch
        If the source has another digest; then nothing is imported.
    """
    module, function = _split(name)
    source = _in_folder(name, module, folder) if folder is not None else _installed(name, module)
    digest = source.digest
    if expected is not None and digest != expected:
        raise SpecificationMismatch(
            f"the source of the plugin {name} ({source.main} on {socket.gethostname()}) has the sha256\n  {digest}, "
            f"expected is\n  {expected}: values of two sources are never mixed. Bring back the source that the run was "
            "begun with, on every machine; or compute it anew in another --store"
        )
    found = _import_package(name, module, source, digest) if source.is_package else _execute(name, source, digest)
    _loaded[name, digest] = _function_of(name, found, function)
    return digest


def loaded_function(name: str, digest: str) -> Function:
    """Look up a function that this process has loaded; nothing is imported.

    Raises
    ------
    NotTrusted
        If it was not loaded, with the ways to allow it.
    """
    if (name, digest) not in _loaded:
        raise NotTrusted(
            f"these values are computed by the plugin {name} (sha256 {digest}), which nobody has allowed this process "
            "to import. If you know who wrote it: cntk run with the workflow of the run, cntk resume or cntk predict "
            "with --trust, or in Python open_run(path, trust=True). docs/security.md says more"
        )
    return _loaded[name, digest]


def _split(name: str) -> tuple[str, str]:
    module, colon, function = name.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), function)):
        raise ConfigError(f'kernel.plugin is a function as "module:function", got {name!r}')
    if module == "__main__":  # another one in each process
        raise ConfigError(f"the plugin {name}: write the function into a file, and name its kernel.plugin_folder")
    return module, function


def _in_folder(name: str, module: str, folder: str) -> Source:
    """Find the one file of a module in a folder of the user's."""
    if "." in module:
        raise ConfigError(
            f"the plugin {name}: in kernel.plugin_folder a module is one file. Leave plugin_folder out and install the "
            "package (pip install), or put the function into one file"
        )
    file = Path(folder) / f"{module}.py"
    if not file.is_file():
        raise ConfigError(
            f"the plugin {name}: there is no file {file} on {socket.gethostname()}; kernel.plugin_folder names the "
            "folder that holds it, on every machine that computes"
        )
    return Source(file, (file,), is_package=False)


def _installed(name: str, module: str) -> Source:
    """Find an installed module; nothing of it is imported."""
    top = module.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a module that came from no file, such as __main__
        spec = None
    if spec is None:
        raise ConfigError(
            f"the plugin {name}: no module {top!r} is installed on {socket.gethostname()}. Install it on every machine "
            "that computes, or name the folder of its file as kernel.plugin_folder"
        )
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise ConfigError(f"the plugin {name}: the module {top!r} has no source in Python, so it cannot be digested")
    main = Path(spec.origin)
    is_package = spec.submodule_search_locations is not None
    place = main.parent.parent if is_package else main.parent
    if os.path.realpath(place) == os.path.realpath(Path.cwd()):
        raise ConfigError(
            f"the plugin {name}: {main} lies in the current directory, which is never searched: another folder would "
            'give another module. Name the folder of the file as kernel.plugin_folder ("." is possible), or install it'
        )
    return Source(main, tuple(sorted(main.parent.rglob("*.py"))) if is_package else (main,), is_package)


def _execute(name: str, source: Source, digest: str) -> types.ModuleType:
    """Run the very bytes that were digested, as a module of its own: no cache and no other module takes its place."""
    content = source.main.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ConfigError(f"the plugin {name}: {source.main} has changed this moment; start again")
    module = types.ModuleType(f"cntk_plugin_{source.main.stem}_{digest[:16]}")
    module.__file__ = str(source.main)
    sys.modules[module.__name__] = module  # dataclasses and pickle look there
    try:
        exec(compile(content, str(source.main), "exec", dont_inherit=True), module.__dict__)
    except Exception as error:  # of any class: the code is the user's
        del sys.modules[module.__name__]
        raise ConfigError(f"the plugin {name} cannot be imported: {told(error)}") from error
    return module


def _import_package(name: str, module: str, source: Source, digest: str) -> types.ModuleType:
    if str(source.main) not in _imported:
        _require_imported_as_it_is(name, module.partition(".")[0])
    before = _imported.setdefault(str(source.main), digest)
    if before != digest:
        raise ConfigError(
            f"the plugin {name}: the files of {source.main.parent} have changed since this process imported them: "
            "start Python again"
        )
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise ConfigError(f"the plugin {name} cannot be imported: {told(error)}") from error


def _require_imported_as_it_is(name: str, top: str) -> None:
    """Refuse a package of which this process holds modules whose files may be others by now.

    Python keeps neither the source of a module nor the time of its import. So only files that are older than the
    process are known to be those that it imported.
    """
    began = psutil.Process().create_time()
    held = [each for key, each in list(sys.modules.items()) if key.partition(".")[0] == top]
    for file in (vars(each).get("__file__") for each in held):
        if file is not None and _changed_at(Path(file)) > began:
            raise ConfigError(
                f"the plugin {name}: this process imported {file} before, by itself, and the file has changed since "
                "the process began, so the values could be those of the old source: start Python again. A module in "
                "one file, in kernel.plugin_folder, is read anew each time"
            )


def _changed_at(file: Path) -> float:
    """Return when a file was changed or put in its place; the time of a file that is gone is infinite."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return math.inf
    return max(found.st_mtime, found.st_ctime)  # copies may keep the first one


def _function_of(name: str, module: types.ModuleType, function: str) -> Function:
    found = vars(module).get(function)
    if not callable(found):
        near = spelling.nearest(function, [key for key, value in vars(module).items() if callable(value)])
        raise ConfigError(f"the plugin {name}: {module.__file__} has no function {function!r}{near}")
    return found


def told(error: Exception) -> str:
    """Say what went wrong in a user's code, and where."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" ({last[0].filename}, line {last[0].lineno})" if last else ""
    return f"{type(error).__name__}: {error}{where}"
