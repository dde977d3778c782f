"""Imports point one way: the tiers of the house."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pipeline"

TIERS = [
    {"errors"},
    {"inputs", "resources"},
    {"config", "environment", "tiling", "layers", "datasets", "loopback", "provenance", "redaction", "storage"}
    | {"streams"},
    {"durable", "entry", "extras", "journal", "lease", "networks", "signature"},
    {"specification"},
    {"arrays", "events"},
    {"stored_data"},
    {"kernels", "store", "executors", "metrics", "patience"},
    {"observed", "verification"},
    {"driver", "growth", "memory"},
    {"gram", "solvers", "takeover", "timing", "trust"},
    {"inference", "rounds", "submission"},
    {"wanted"},
    {"checkup", "plan", "preflight", "report", "stages", "stopping"},
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
    assert {path.name for path in FILES if calls_print(path)} == {"cli.py", "entry.py", "fit_duals.py"}


READS = {
    "json.load",
    "json.loads",
    "open",
    "os.open",
    "read_text",
    "read_bytes",
    "np.load",
    "tomllib.load",
    "tomllib.loads",
}
READS |= {"zarr.open", "zarr.open_array", "zarr.open_group", "isdigit", "isdecimal", "isnumeric"}

OTHER_FILES = {
    "config/reading.py": {"open", "os.open", "tomllib.loads"},  # that a user names
    "executors/access.py": {"read_bytes"},
    "executors/certificates.py": {"os.open"},
    "executors/remote.py": {"isdecimal"},
    "kernels/code_cache.py": {"read_bytes"},  # of this package, and its compiled code
    "resources.py": {"read_text"},  # of the control groups of this process
    "signature.py": {"os.open"},  # the user's key
    "streams.py": {"os.open"},  # /dev/null
    "submission/local.py": {"open", "os.open", "read_bytes"},  # the log that is written, and /proc
    "submission/slurm.py": {"isdigit"},  # of what SLURM says
    "submission/slurm_states.py": {"isdigit"},
    "submission/there.py": {"json.loads"},  # of a question through ssh
}
"""What reads files that are no records of a run."""


def reads_of(path: Path) -> set[str]:
    """List the calls that read files without bounds, parse what has no model, or take names for numbers."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            bounded = name.endswith(".read_bytes") and (node.args or node.keywords)
            if not bounded:
                found.add(name if name in READS else name.rpartition(".")[2])
    return found & READS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_records_are_read_in_one_way(path: Path) -> None:
    name = path.relative_to(PACKAGE).as_posix()
    if not name.startswith(("storage/", "datasets/")):
        assert reads_of(path) <= OTHER_FILES.get(name, set())
