"""Workers that do not import the script that started them.

Python's way to start a process imports the program's script there, so a script without ``if __name__ == "__main__":``
would run itself again in each worker, without an end. Workers of this package compute nothing that a script defines.
"""

import contextlib
import threading
from collections.abc import Iterator
from multiprocessing import spawn
from typing import Any

_WORKER = "Dask Worker process (from Nanny)"
"""The name that Dask gives to the processes of its workers; other processes are started as before."""


class _Preparation:
    """Stands in for `multiprocessing.spawn.get_preparation_data` while at least one cluster is open."""

    def __init__(self) -> None:
        self._original, self._open, self._lock = spawn.get_preparation_data, 0, threading.Lock()

    def __call__(self, name: str) -> dict[str, Any]:
        data: dict[str, Any] = dict(self._original(name))
        if name == _WORKER:
            data.pop("init_main_from_path", None)
            data.pop("init_main_from_name", None)
        return data

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Stand in for the length of a ``with`` block; several may overlap, in threads."""
        with self._lock:
            self._open += 1
            spawn.get_preparation_data = self
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1
                if not self._open:
                    spawn.get_preparation_data = self._original


PREPARATION = _Preparation()
"""Starts Dask's workers without the program's script, while it is `opened`."""
