"""Rooms whose names are imported when they are first asked for, not when the room is."""

import importlib
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


def lazy_names(room: str, files: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the ``__getattr__`` and the ``__dir__`` of a room that imports a file when one of its names is first used.

    Commands that only look at a run would otherwise wait for the compiler and for SciPy. The names are listed without
    an import, so that completion and `help` find them.

    Parameters
    ----------
    room : str
        The full name of the room.
    files : mapping of str to str
        The public names of the room, each with the file that has it.
    """

    def find(name: str) -> Any:
        if name not in files:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{room}.{files[name]}"), name)

    def names() -> list[str]:
        there = vars(sys.modules[room])
        shown = (name for name, value in there.items() if name.startswith("__") or isinstance(value, ModuleType))
        return sorted({*files, *there["__all__"], *shown})

    return find, names
