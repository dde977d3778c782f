"""Functions of users that compute kernels: how they are found, digested and loaded.

`load_function` imports code, and only those call it who have the user's word. Everything else asks `loaded_function`,
which imports nothing.
"""

import hashlib
import importlib.util
import os
import socket
import sys
import threading
import traceback
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cntk_pipeline.errors import ConfigError, NotTrusted, SpecificationMismatch
from cntk_pipeline.kernels.plugin_packages import Package, import_digested
from cntk_pipeline.layers import spelling

Function = Callable[..., Any]

LOCK = threading.Lock()
"""Held while a user's function runs: it need not know of threads."""

_loaded: dict[tuple[str, str], Function] = {}
"""The functions that this process has loaded, by name and digest: the last of each."""


@dataclass(frozen=True)
class Source:
    """The source of a module, before anything of it is imported.

    Attributes
    ----------
    main : Path
        The file of the module, or of its package.
    digests : mapping of Path to bytes
        The sha256 of the one file of a module, or of all files ``.py`` of a package.
    is_package : bool
        Whether the module belongs to a package.
    """

    main: Path
    digests: Mapping[Path, bytes]
    is_package: bool

    @classmethod
    def read(cls, main: Path, is_package: bool) -> "Source":
        """Digest the files as they are now."""
        files = sorted(main.parent.rglob("*.py")) if is_package else [main]
        return cls(main, {file: hashlib.sha256(file.read_bytes()).digest() for file in files}, is_package)

    @property
    def digest(self) -> str:
        """The sha256 of the file; of a package, of the names of its files and the sha256 of each."""
        if not self.is_package:
            return self.digests[self.main].hex()
        root, whole = self.main.parent, hashlib.sha256()
        for file, digest in self.digests.items():
            whole.update(f"{file.relative_to(root).as_posix()}\0".encode())
            whole.update(digest)
        return whole.hexdigest()


def load_function(name: str, folder: str | None, expected: str | None = None) -> str:
    """Import the function of a user, by the user's word.

    A module in one file is executed each time: what it reads, such as weights beside it, may have changed, or lie in
    another folder.

    Parameters
    ----------
    name : str
        "module:function".
    folder : str or None
        Where the file of the module lies; None for an installed module.
    expected : str, optional
        The digest that its source must have; None for any.

    Returns
    -------
    str
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
    found = _import_package(name, module, source) if source.is_package else _execute(name, source, digest)
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
    return Source.read(file, is_package=False)


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
    if spec.origin is None or not spec.origin.endswith(".py") or not Path(spec.origin).is_file():  # in an archive
        raise ConfigError(
            f"the plugin {name}: the module {top!r} has no source in Python, in a file of its own, to be digested"
        )
    main = Path(spec.origin)
    is_package = spec.submodule_search_locations is not None
    place = main.parent.parent if is_package else main.parent
    if os.path.realpath(place) == os.path.realpath(Path.cwd()):
        raise ConfigError(
            f"the plugin {name}: {main} lies in the current directory, which is never searched: another folder would "
            'give another module. Name the folder of the file as kernel.plugin_folder ("." is possible), or install it'
        )
    return Source.read(main, is_package)


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
    except (Exception, SystemExit) as error:  # of any class: the code is the user's
        del sys.modules[module.__name__]
        raise ConfigError(f"the plugin {name} cannot be imported: {told(error)}") from error
    return module


def _import_package(name: str, module: str, source: Source) -> types.ModuleType:
    try:
        return import_digested(name, module, Package(source.main.parent, source.digests))
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"the plugin {name} cannot be imported: {told(error)}") from error


def _function_of(name: str, module: types.ModuleType, function: str) -> Function:
    found = vars(module).get(function)
    if not callable(found):
        near = spelling.nearest(function, [key for key, value in vars(module).items() if callable(value)])
        raise ConfigError(f"the plugin {name}: {module.__file__} has no function {function!r}{near}")
    return found


def told(error: BaseException) -> str:
    """Say what went wrong in a user's code, and where."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" ({last[0].filename}, line {last[0].lineno})" if last else ""
    return f"{type(error).__name__}: {error}{where}"
