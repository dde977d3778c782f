"""Docstrings of the package describe an argument on the line of its name, where numpydoc expects a type.

Types stand in the signatures. So the description goes to a line of its own before the docstring is read.
"""

import re
from typing import Any

from sphinx.application import Sphinx

_SECTIONS = ("Parameters", "Other Parameters", "Attributes")
_ARGUMENT = re.compile(r"(?P<name>\*{0,2}\w+(?:, \*{0,2}\w+)*) : (?P<text>.+)")


def split_lines(lines: list[str]) -> list[str]:
    """Return a docstring's lines with each argument's description below its name."""
    found, section = [], ""
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if below and set(below) == {"-"}:
            section = line
        argument = _ARGUMENT.fullmatch(line)
        if argument and section in _SECTIONS:
            found += [argument["name"], "    " + argument["text"]]
        else:
            found.append(line)
    return found


def process(_app: Sphinx, _what: str, _name: str, _value: Any, _options: Any, lines: list[str]) -> None:
    """Change the lines in place, as Sphinx wants it."""
    lines[:] = split_lines(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Go before the reader of numpydoc's sections."""
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
