"""What a compiler makes of a text, kept beside the machine code of the package for later runs of the tests."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from cntk_pipeline.kernels.jit import FOLDER

FILES_KEPT = 400
"""By when they were last used; one is 20 to 700 KB."""

_DIGEST_BYTES = 32


def kept(make: Callable[[], bytes], *parts: str) -> bytes:
    """Return what a compiler makes, from a file if an earlier process has left it.

    Parameters
    ----------
    make : callable
        Compiles.
    *parts : str
        All that the result depends on: the text, the options, the compiler and the processor.
    """
    if FOLDER is None:
        return make()
    folder = FOLDER.parent / "compiled-texts"
    path = folder / hashlib.sha256(repr(parts).encode()).hexdigest()
    content = b""
    with contextlib.suppress(OSError):
        content = path.read_bytes()
        os.utime(path)
        os.utime(folder)  # `code_cache` deletes the folders that were not used for longest
    digest, made = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(made).digest() == digest:
        return made
    made = make()
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
        _write(path, hashlib.sha256(made).digest() + made)
        for older in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime)[:-FILES_KEPT]:
            older.unlink(missing_ok=True)
    return made


def _write(path: Path, content: bytes) -> None:
    """Write a file aside, and give it its name."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    os.replace(file.name, path)
