"""A folder that keeps kernel values: a sub-folder a network, a file a rectangle of pairs.

::

    FOLDER/FINGERPRINT/
      question.json   the network and all else that values depend on, for people
      lock            held by the process that computes
      000001.npz      rows, columns: digests of samples, (n, 16) bytes; ntk, nngp: values

A file is never changed. It is written aside and renamed, and its archive has checksums.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np

from cntk_pipeline.datasets.npz import BROKEN
from cntk_pipeline.errors import ConfigError, DataError, StoreError
from cntk_pipeline.estimators.kept import Found, Kept
from cntk_pipeline.kernels.program import Array
from cntk_pipeline.models import Json
from cntk_pipeline.rundir.specification import fingerprint


class FolderMemory(Kept):
    """Kernel values in a folder.

    Parameters
    ----------
    folder : str or Path
        Made when something is kept.
    question : Json
        All that values depend on, as plain values.
    dtype : str
        Of values.

    Raises
    ------
    ConfigError
        If it can be no folder: it has no name, is a file, or lies in a bucket.
    """

    def __init__(self, folder: str | Path, question: Json, dtype: str) -> None:
        place = Path(os.path.expanduser(folder))  # as `open_path` does
        there = next(each for each in (place, *place.absolute().parents) if each.exists())
        if not str(folder) or "://" in str(folder) or there.is_file():
            raise ConfigError(f"memory: expected a local folder, or a run directory, got {str(folder)!r}")
        self.path = place / fingerprint(question)[:16]
        self._question, self._dtype = question, dtype

    def load(self, kind: str, samples: Sequence[bytes]) -> Found:
        """Find the kept values of the samples."""
        found = Found.nothing(len(samples), self._dtype)
        places = {sample: place for place, sample in enumerate(samples)}
        for path in sorted(self.path.glob("*.npz")):
            try:
                with np.load(path) as file:
                    if kind not in file:
                        continue
                    rows, columns = (_asked(file[name], places) for name in ("rows", "columns"))
                    if len(rows[0]) and len(columns[0]):
                        found.put(rows[0], columns[0], file[kind][np.ix_(rows[1], columns[1])])
            except (*BROKEN, IndexError, OSError) as error:
                raise DataError(
                    f"{path} cannot be read as kept kernel values ({error}): delete it, and its values are computed "
                    "again"
                ) from error
        return found

    def keep(self, rows: Sequence[bytes], columns: Sequence[bytes], values: Mapping[str, Array]) -> None:
        """Write a rectangle of values into a new file.

        Raises
        ------
        StoreError
            If it cannot be written; nothing of it stays.
        """
        names = {path.name for path in self.path.glob("*.npz")}
        free = next(name for number in count(1 + len(names)) if (name := f"{number:06d}.npz") not in names)
        aside = self.path / "aside"
        with self._written():
            try:
                with aside.open("wb") as file:
                    np.savez(file, **{"rows": _as_bytes(rows), "columns": _as_bytes(columns), **values})  # type: ignore[arg-type]
                    file.flush()
                    os.fsync(file.fileno())
                aside.replace(self.path / free)
            except OSError:
                aside.unlink(missing_ok=True)
                raise

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock of the sub-folder, which the system gives back when a process ends.

        Raises
        ------
        StoreError
            If the sub-folder cannot be written.
        """
        with contextlib.ExitStack() as held:
            with self._written():
                self.path.mkdir(parents=True, exist_ok=True)
                lock = held.enter_context((self.path / "lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
                held.callback(fcntl.flock, lock, fcntl.LOCK_UN)  # closing it does not, where a child has it open too
                described = self.path / "question.json"
                if not described.exists():
                    described.write_text(json.dumps(self._question, indent=2))
            yield

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """Explain an error of the system where a file of the sub-folder is written."""
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"memory: kernel values cannot be kept in {self.path} ({error.strerror or error}): give a folder that "
                "can be written, on a disk with room, or leave memory out"
            ) from error


def _asked(kept: Array, places: Mapping[bytes, int]) -> tuple[Array, Array]:
    """Return the places of kept samples that are asked for, and where they are in the file."""
    known = [(places[row.tobytes()], at) for at, row in enumerate(kept) if row.tobytes() in places]
    pairs = np.array(known, dtype=np.intp).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _as_bytes(samples: Sequence[bytes]) -> Array:
    return np.frombuffer(b"".join(samples), np.uint8).reshape(len(samples), -1)
