"""Rooms whose names are imported when they are first asked for, not when the room is."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(room: str, files: Mapping[str, str]) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a room that imports a file when one of its names is first used.

    Commands that only look at a run would otherwise wait for the compiler and for SciPy.

    Parameters
    ----------
    room : the full name of the room.
    files : the public names of the room, each with the file that has it.
    """

    def find(name: str) -> Any:
        if name not in files:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{room}.{files[name]}"), name)

    return find
