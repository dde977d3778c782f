"""Docstrings are in one dialect, numpydoc: a type stands in the type's place, and the description below it."""

import ast
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(
    path
    for folder in ("pipeline", "docs", "benchmarks", "workflows", "tests")
    for path in (ROOT / folder).rglob("*.py")
    if not any(part.startswith((".", "__pycache__", "build")) for part in path.relative_to(ROOT).parts)
)
ENTRY = re.compile(r"(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: : (?P<type>.+))?")
LONGEST_TYPE = 90
TELLING_TYPE = re.compile(r"(\w+ )?array(_like)?s?(,|$)|^\(.*\) \w+ arrays?$")
"""Types that tell enough where no description follows: those with a shape."""


def sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """Split a docstring into its sections: the name of each, and its lines."""
    lines = text.splitlines()
    begins = [k for k in range(1, len(lines)) if lines[k] and set(lines[k]) == {"-"}]
    for begin, end in itertools.pairwise([*begins, len(lines) + 1]):
        yield lines[begin - 1], [line for line in lines[begin + 1 : end - 1] if line]


@dataclass(frozen=True)
class Entry:
    """The description of some arguments, or of some attributes.

    Attributes
    ----------
    node : AST
        The class or the function.
    names, type : str
        As the docstring has them.
    is_described : bool
        Whether a description follows.
    """

    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    names: str
    type: str
    is_described: bool

    def has_type(self) -> bool:
        """Tell whether a type stands in the type's place, or nothing."""
        if not self.is_described:
            return bool(TELLING_TYPE.search(self.type)) or (bool(self.type) and " " not in self.type)
        return len(self.type) <= LONGEST_TYPE and not self.type.endswith(".")

    def is_of_arguments(self) -> bool:
        """Tell whether the function has arguments of these names; anything goes for a class."""
        if isinstance(self.node, ast.ClassDef):
            return True
        given = self.node.args
        known = {each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)}
        known |= {f"*{given.vararg.arg}"} if given.vararg else set()
        known |= {f"**{given.kwarg.arg}"} if given.kwarg else set()
        return set(self.names.split(", ")) <= known


def entries(source: str) -> Iterator[Entry]:
    """List what the docstrings of a file describe."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for section, lines in sections(ast.get_docstring(node) or ""):
            if section not in ("Parameters", "Attributes"):
                continue
            for line, below in zip(lines, [*lines[1:], ""], strict=True):
                entry = ENTRY.fullmatch(line)
                if entry:
                    yield Entry(node, entry["names"], entry["type"] or "", below.startswith("    "))
                elif not line.startswith(" "):
                    yield Entry(node, line, ".", True)


def faults(is_right: Callable[[Entry], bool]) -> list[str]:
    """List the entries of all files that are not right."""
    return [
        f"{path.relative_to(ROOT)}:{entry.node.lineno}: {entry.names} : {entry.type}"
        for path in FILES
        for entry in entries(path.read_text())
        if not is_right(entry)
    ]


def test_a_type_stands_in_the_place_of_the_type() -> None:
    assert not faults(Entry.has_type)


def test_arguments_that_are_described_exist() -> None:
    assert not faults(Entry.is_of_arguments)


@pytest.mark.parametrize(
    ("line", "has_type", "is_of_arguments"),
    [
        ("a : int\n        Of the network.", True, True),
        ("a, b\n        Of the network.", True, True),
        ("a : float64 array, (n,)", True, True),
        ("a : of the network.", False, True),
        ("a : the depth of the network, where it is told,\n        which is seldom.", True, True),
        ("c : int\n        Of the network.", True, False),
    ],
)
def test_what_is_found(line: str, has_type: bool, is_of_arguments: bool) -> None:
    text = f'def f(a, b):\n    """Say it.\n\n    Parameters\n    ----------\n    {line}\n    """'.replace(
        "\n        ", "\n        "
    )
    [entry] = entries(text)
    assert (entry.has_type(), entry.is_of_arguments()) == (has_type, is_of_arguments)
