"""How Sphinx reads the docstrings and the signatures of the package.

Docstrings describe an argument on the line of its name, where numpydoc expects a type, or below a type. Types stand in
the annotations. So a description on the line of a name goes to a line of its own before the docstring is read.

Layers are dataclasses whose ``__new__`` explains wrong arguments. So the arguments of ``__init__`` are shown.
"""

import dataclasses
import inspect
import re
from typing import Any

import numpy.typing as npt
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

_SECTIONS = ("Parameters", "Attributes")
_ARGUMENT = re.compile(r"(?P<name>\*{0,2}\w+(?:, \*{0,2}\w+)*) : (?P<text>.+)")
_LONGEST_TYPE = 75  # characters; what is longer and goes on below is a description that was wrapped


def split_lines(lines: list[str]) -> list[str]:
    """Return a docstring's lines with each argument's description below its name.

    Examples
    --------
    >>> split_lines(["Parameters", "----------", "depth : of the network.", "y : array, (n,)", "    Targets."])
    ['Parameters', '----------', 'depth', '    of the network.', 'y : array, (n,)', '    Targets.']
    """
    found, section = [], ""
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if below and set(below) == {"-"}:
            section = line
        argument = _ARGUMENT.fullmatch(line)
        is_type = below.startswith("    ") and len(line) < _LONGEST_TYPE
        if argument and section in _SECTIONS and not is_type:
            found += [argument["name"], "    " + argument["text"]]
        else:
            found.append(line)
    return found


def shorten_type(text: str) -> str:
    """Return a type as a reader would say it, where NumPy spells it over several lines."""
    for mode in ("fully-qualified", "smart"):
        text = text.replace(stringify_annotation(npt.ArrayLike, mode), "array_like")
    return re.sub(r"~?numpy\.ndarray\[.*?, ~?numpy\.dtype\[(?:~?numpy\.)?([\w~.]+)\]\]", r"array of \1", text)


def process_docstring(_app: Sphinx, _what: str, _name: str, _value: Any, _options: Any, lines: list[str]) -> None:
    """Change the lines in place, as Sphinx wants it."""
    lines[:] = split_lines(lines)


def process_signature(app: Sphinx, what: str, name: str, value: Any, *_others: Any) -> tuple[str, str] | None:
    """Show the arguments of a dataclass's ``__init__``; return None where Sphinx's own signature will do."""
    annotations = app.env.current_document.autodoc_annotations.get(name, {})
    annotations.update({argument: shorten_type(text) for argument, text in annotations.items()})
    if what != "class" or not dataclasses.is_dataclass(value):
        return None
    signature = inspect.signature(value.__init__)
    arguments = [each.replace(annotation=each.empty) for each in signature.parameters.values()][1:]
    annotations.pop("return", None)
    return str(inspect.Signature(arguments)), ""


def setup(app: Sphinx) -> dict[str, bool]:
    """Go before the reader of numpydoc's sections, and behind the recorder of annotations."""
    app.connect("autodoc-process-docstring", process_docstring, priority=400)
    app.connect("autodoc-process-signature", process_signature, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
