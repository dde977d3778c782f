"""Machine code on disk, which is loaded only where all sources and values that went into it are still the same.

numba's own cache looks at the file of the function alone, so after an update an old inner loop would live on inside an
unchanged caller, and compute other numbers than the sources say. It also keeps an index beside the code, and two
processes that start at once can leave it naming the code of another signature. Here each set of sources has a folder
of its own, and each compiled signature a file of its own, named by all that it was made from: there is nothing to
delete after a change, and nothing that two processes could write differently.
"""

import contextlib
import hashlib
import logging
import multiprocessing
import os
import pickle
import shutil
import stat
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from pickle import PicklingError
from types import CodeType, FunctionType, ModuleType
from typing import Any

import llvmlite
import numba as nb
import numpy as np
import pooch
from numba.core.caching import Cache
from numba.core.compiler import CompileResult
from numba.core.dispatcher import Dispatcher
from numba.core.serialize import dumps

logger = logging.getLogger(__name__)

FOLDERS_KEPT = 16
"""Sets of sources whose code is kept, by when a process last started with them; one is 3 to 10 MB."""

_CHECKSUM_BYTES = 16

_KNOWN = tuple(
    f"{folder}{os.sep}"
    for folder in (Path(__file__).parent.parent, *(Path(str(m.__file__)).parent for m in (nb, llvmlite, np)))
)
"""Where sources lie that `code_folder` knows, by their versions or, those of this package, themselves."""


class CodeCache(Cache):
    """The machine code of one function, a file for each signature and processor.

    Parameters
    ----------
    folder : Path
        Of the sources that there are now; see `code_folder`.
    function : callable
        That is compiled.
    """

    def __init__(self, folder: Path, function: Callable[..., Any]) -> None:
        self._folder, self._py_func, self._name = folder, function, repr(function)
        self._cache_path = str(folder)
        self.enable()

    def _load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load the code of a signature; None where there is none, or its file is damaged."""
        path = self._path(sig, target_context.codegen())
        if path is None:
            return None
        try:
            content = path.read_bytes()
        except OSError:
            return None
        checksum, code = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
        if _digest(code) != checksum:
            return None
        return CompileResult._rebuild(target_context, *pickle.loads(code))

    def _save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code of a signature; where that fails, as on a full disk, the next process compiles it again."""
        if any(not lifted.can_cache for lifted in data.lifted) or data.library.has_dynamic_globals:
            return  # it holds addresses of this process
        code = dumps(data._reduce())
        path = self._path(sig, data.codegen)
        if path is None:
            return
        aside = path.with_suffix(f".{uuid.uuid4().hex}")
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)  # another process may have pruned it
            try:
                aside.write_bytes(_digest(code) + code)
                aside.replace(path)
            finally:
                aside.unlink(missing_ok=True)

    def _path(self, sig: Any, codegen: Any) -> Path | None:
        """Name the file of a signature by all that its code is made from; None where something of it has no bytes."""
        try:
            parts = [repr((sig, codegen.magic_tuple())).encode(), *_parts_of(self._py_func)]
        except (PicklingError, TypeError):
            return None
        name = f"{self._py_func.__module__}.{self._py_func.__name__}-{self._py_func.__code__.co_firstlineno}"
        return self._folder / f"{name}-{_digest(*parts).hex()}.code"


def _parts_of(function: Callable[..., Any]) -> Iterator[bytes]:
    """Yield all that the machine code of a function may be made from.

    numba compiles in the values of the globals that a function reads, and those that the functions it calls read:
    constants that were imported from elsewhere, helpers, attributes of modules. All are followed, but for the globals
    of this package, whose sources the folder knows, and of numba and NumPy, whose versions it knows.

    Raises
    ------
    PicklingError, TypeError
        If a value cannot be written as bytes.
    """
    waiting: list[tuple[Any, frozenset[str]]] = [(function, frozenset())]
    seen: list[tuple[Any, frozenset[str]]] = []
    while waiting:
        value, names = waiting.pop()
        if isinstance(value, FunctionType):
            names = frozenset(_names(value.__code__))
        if isinstance(value, Dispatcher | FunctionType | ModuleType | type):
            number = next((k for k, (one, read) in enumerate(seen) if one is value and read == names), len(seen))
            yield str(number).encode()
            if number < len(seen):
                continue
            seen.append((value, names))
        if isinstance(value, Dispatcher):
            yield repr(sorted(value.targetoptions.items())).encode()
            waiting.append((value.py_func, frozenset()))
        elif isinstance(value, FunctionType):
            yield from (repr(_described(value.__code__)).encode(), _source(value.__code__.co_filename))
            waiting += [(cell.cell_contents, names) for cell in value.__closure__ or ()]
            waiting.append(((value.__defaults__, sorted((value.__kwdefaults__ or {}).items())), names))
            if not value.__code__.co_filename.startswith(_KNOWN):
                waiting += [(value.__globals__[n], names) for n in sorted(names & value.__globals__.keys())]
        elif isinstance(value, ModuleType | type):
            yield value.__name__.encode()
            if not str(vars(value).get("__file__")).startswith(_KNOWN):
                waiting += [(vars(value)[n], names) for n in sorted(names & vars(value).keys())]
        elif isinstance(value, tuple | list):
            yield repr((type(value), len(value))).encode()
            waiting += [(each, names) for each in value]
        else:
            yield dumps(value)


def _described(code: CodeType) -> tuple[Any, ...]:
    constants = [_described(each) if isinstance(each, CodeType) else each for each in code.co_consts]
    return code.co_code, constants, code.co_names, code.co_freevars, code.co_firstlineno


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names of globals and attributes that a function reads, and of those within it."""
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _names(each)


def code_folder(sources: Iterable[Path]) -> Path | None:
    """Choose the folder for the code of some sources, and make it; say so where it is not one that lasts.

    The first of these that can be written: below ``NUMBA_CACHE_DIR``, where that is set; beside the sources; the
    user's cache folder; a temporary one that only this user can write. Folders of other sources beside it are deleted
    but for the `FOLDERS_KEPT` that were used last.

    Parameters
    ----------
    sources : iterable of Path
        All files that are compiled into any function.

    Returns
    -------
    folder : Path or None
        None where none can be written.
    """
    files = sorted(sources)
    versions = (sys.implementation.cache_tag, nb.__version__, llvmlite.__version__, np.__version__)
    digest = _digest(repr(versions).encode(), *(path.read_bytes() for path in files)).hex()
    asked = nb.config.CACHE_DIR
    for number, place in enumerate(_places(files[0].parent)):
        with contextlib.suppress(OSError):
            folder = _prepared(place / digest)
            if asked and number > 0:
                _say(f"NUMBA_CACHE_DIR={asked} cannot be written: compiled code is kept in {folder}")
            return folder
    advice = "set NUMBA_CACHE_DIR to a folder that can be written, for compiled code"
    try:
        folder = _prepared(_own_temporary_folder() / digest)
    except OSError:
        _say(f"every process compiles its code again, which takes half a minute: {advice}")
        return None
    _say(f"compiled code is kept in the temporary folder {folder} only: {advice}")
    return folder


def _places(beside: Path) -> Iterator[Path]:
    if nb.config.CACHE_DIR:
        yield Path(nb.config.CACHE_DIR) / "cntk"
    yield beside / "__pycache__" / "cntk"
    users = Path(pooch.os_cache("cntk"))
    if users.is_absolute():  # it is not where nobody knows a home
        yield users / "code"


def _prepared(folder: Path) -> Path:
    """Make a folder that can be written, and mark it as used now.

    Raises
    ------
    OSError
        If it cannot be made or written.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
    os.utime(folder)
    if is_new:
        _prune(folder.parent)
    return folder


def _prune(place: Path) -> None:
    """Delete the folders that were not used for longest; other processes may be doing the same."""
    used = []
    for folder in place.iterdir():
        with contextlib.suppress(OSError):
            used.append((folder.stat().st_mtime, folder))
    for _, folder in sorted(used, reverse=True)[FOLDERS_KEPT:]:
        shutil.rmtree(folder, ignore_errors=True)


def _own_temporary_folder() -> Path:
    """Make a folder that no other user can write: what lies in it is run.

    Raises
    ------
    OSError
        If it cannot be made, or what has its name is somebody else's.
    """
    owner = os.getuid() if hasattr(os, "getuid") else None
    folder = Path(tempfile.gettempdir()) / f"cntk-{owner}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or (owner is not None and (found.st_uid != owner or found.st_mode & 0o077)):
        raise PermissionError(f"{folder} is not a folder of this user alone")
    return folder


def _say(line: str) -> None:
    """Warn once for a process and the workers that it starts."""
    if multiprocessing.parent_process() is None:
        logger.warning(line)


def _digest(*parts: bytes) -> bytes:
    """Digest parts, each with its length: nothing can move from one to the next."""
    found = hashlib.blake2b(digest_size=_CHECKSUM_BYTES)
    for part in parts:
        found.update(len(part).to_bytes(8, "big") + part)
    return found.digest()


@cache
def _source(name: str) -> bytes:
    """Digest a source; of one that is no file, as in a notebook, the code itself must do."""
    try:
        return _digest(Path(name).read_bytes())
    except OSError:
        return b""
