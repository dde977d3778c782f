"""Docstrings are in one dialect, numpydoc: a type stands in the type's place, and the description below it."""

import ast
import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(
    path
    for folder in ("pipeline", "docs", "benchmarks", "workflows", "tests")
    for path in (ROOT / folder).rglob("*.py")
    if not any(part.startswith((".", "_build", "build")) for part in path.relative_to(ROOT).parent.parts)
)
WORD = re.compile(
    r"array|array_like|bool|bytes|callable|collection|deque|dict|dtype|u?int\d*|float\d*|frozenset|iterable|iterator|list"
    r"|mapping|object|of|optional|or|pointer|range|sequence|set|slice|str|subclass|to|tuple|type|_*[A-Z]\w*|\w+\.[\w.]+"
)
"""What types are made of: these words and names of classes, beside shapes and values in brackets or quotes."""


def is_type(text: str) -> bool:
    """Tell a type from a description; nothing is a type too, of several names whose types differ."""
    bare, longer = text, ""
    while bare != longer:
        bare, longer = re.sub(r'\([^()]*\)|\{[^{}]*\}|"[^"]*"', "", bare), bare
    words = re.findall(r"\w+(?:\.\w+)*", bare)
    return not text.endswith(".") and all(map(WORD.fullmatch, words))


def is_telling(text: str) -> bool:
    """Tell whether a type is enough where no description follows: with a shape, or a class."""
    return "(" in text or "." in text or text[:1].isupper()


def sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """Split a docstring into its sections: the name of each, and its lines."""
    lines = text.splitlines()
    begins = [k for k in range(1, len(lines)) if lines[k] and set(lines[k]) == {"-"}]
    for begin, end in itertools.pairwise([*begins, len(lines) + 1]):
        yield lines[begin - 1], [line for line in lines[begin + 1 : end - 1] if line]


@dataclass(frozen=True)
class Entry:
    """The description of some arguments or attributes, or of a result.

    Attributes
    ----------
    node : ast.AST
        The class or the function.
    names, type : str
        As the docstring has them; a result has no names.
    is_described : bool
        Whether a description follows.
    """

    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    names: str
    type: str
    is_described: bool

    def has_type(self) -> bool:
        """Tell whether a type stands in the type's place, or nothing, and whether both together say something."""
        return is_type(self.type) and (self.is_described or is_telling(self.type))

    def is_of_arguments(self) -> bool:
        """Tell whether the function, or the class, has these names; a class may have them of another class."""
        if not self.names or (isinstance(self.node, ast.ClassDef) and self.node.bases):
            return all(name.isidentifier() for name in self.names.split(", ") if name)
        if isinstance(self.node, ast.ClassDef):
            fields = ("arg", "attr", "id", "name")
            known = {getattr(child, field, None) for child in ast.walk(self.node) for field in fields}
        else:
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
            for line, below in zip(lines, [*lines[1:], ""], strict=True):
                if line.startswith(" "):
                    continue
                names, _, text = line.partition(" : ")
                if section in ("Parameters", "Attributes"):
                    yield Entry(node, names, text, below.startswith("    "))
                elif section in ("Returns", "Yields"):
                    yield Entry(node, "", text or names, below.startswith("    "))


@functools.cache
def all_entries() -> list[tuple[str, Entry]]:
    """List the entries of all files, each with its place."""
    return [
        (f"{path.relative_to(ROOT)}:{entry.node.lineno}: {entry.names} : {entry.type}", entry)
        for path in FILES
        for entry in entries(path.read_text())
    ]


def test_a_type_stands_in_the_place_of_the_type() -> None:
    assert not [place for place, entry in all_entries() if not entry.has_type()]


def test_arguments_that_are_described_exist() -> None:
    assert not [place for place, entry in all_entries() if not entry.is_of_arguments()]


@pytest.mark.parametrize(
    ("section", "text", "has_type", "is_of_arguments"),
    [
        ("Parameters", "a : int\n        Of the network.", True, True),
        ("Parameters", "a, b\n        Of the network.", True, True),
        ("Parameters", 'a : {"of", "the"}, (int, str) or Network, optional\n        Of it.', True, True),
        ("Parameters", "a : float64 array, (n,)", True, True),
        ("Parameters", "a : int", False, True),
        ("Parameters", "a", False, True),
        ("Parameters", "a : of the network.", False, True),
        ("Parameters", "a : Networks.", False, True),
        ("Parameters", "a : the depth of the network, where it is told,\n        which is seldom.", False, True),
        ("Parameters", "c : int\n        Of the network.", True, False),
        ("Parameters", "The network\n        is deep.", True, False),
        ("Returns", "int\n        Of the network.", True, True),
        ("Returns", "depth : int\n        Of the network.", True, True),
        ("Returns", "The depth of the network.", False, True),
    ],
)
def test_what_is_found(section: str, text: str, has_type: bool, is_of_arguments: bool) -> None:
    [entry] = entries(f'def f(a, b):\n    """Say it.\n\n    {section}\n    ---\n    {text}\n    """')
    assert (entry.has_type(), entry.is_of_arguments()) == (has_type, is_of_arguments)


@pytest.mark.parametrize(("head", "name", "is_right"), [("A", "b", True), ("A", "d", False), ("A(B)", "d", True)])
def test_attributes_that_are_described_exist(head: str, name: str, is_right: bool) -> None:
    [entry] = entries(f'class {head}:\n    """Say it.\n\n    Attributes\n    ---\n    {name} : C\n    """\n    b: C')
    assert entry.is_of_arguments() == is_right
