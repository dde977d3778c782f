"""Imports point one way: the tiers of the house."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pipeline"

TIERS = [
    {"errors"},
    {"config", "tiling", "layers", "datasets", "loopback", "provenance", "redaction", "storage"},
    {"durable", "journal", "lease", "signature"},
    {"specification"},
    {"arrays", "events"},
    {"kernels", "store", "executors", "metrics", "patience"},
    {"observed", "verification"},
    {"driver", "growth", "memory"},
    {"gram", "solvers", "takeover", "timing", "trust"},
    {"inference", "rounds", "submission"},
    {"plan", "preflight", "report", "stages"},
    {"loading"},
    {"run", "display"},
    {"handover"},
    {"watch"},
    {"cli", "estimators"},
]
RANK = {room: rank for rank, rooms in enumerate(TIERS) for room in rooms}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pipeline":
            names = [node.module] if node.module != "pipeline" else [f"pipeline.{name.name}" for name in node.names]
            found |= {room_of(name) for name in names}
        elif isinstance(node, ast.Import):
            found |= {room_of(name.name) for name in node.names if name.name.split(".")[0] == "pipeline"}
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_to_lower_tiers(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in imports_of(path) - {room}:
        assert RANK[other] < RANK[room], f"{room} imports {other}"


def test_every_room_has_its_tier() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert rooms <= set(RANK)


def calls_print(path: Path) -> bool:
    calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return any(isinstance(function, ast.Name) and function.id == "print" for function in calls)


def test_only_commands_print() -> None:
    assert {path.name for path in FILES if calls_print(path)} == {"cli.py", "fit_duals.py"}
