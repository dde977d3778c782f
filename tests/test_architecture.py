"""Imports point one way: the tiers of the house."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pipeline" / "cntk_pipeline"

TIERS = [
    {"errors"},
    {"environment", "inputs", "lazy", "models", "resources", "tiling", "units"},
    {"tasks"},
    {"layers", "datasets", "config", "storage", "regression"},
    {"finite"},
    {"kernels", "rundir", "telemetry"},
    {"gram", "clusters", "estimators"},
    {"solvers", "driver"},
    {"inference"},
    {"workflow"},
    {"opened"},
    {"plots"},
    {"pages"},
    {"cli"},
    {"__main__", "interactive"},
]
RANK = {room: rank for rank, rooms in enumerate(TIERS) for room in rooms}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cntk_pipeline":
            names = (
                [node.module]
                if node.module != "cntk_pipeline"
                else [f"cntk_pipeline.{name.name}" for name in node.names]
            )
            found |= {room_of(name) for name in names}
        elif isinstance(node, ast.Import):
            found |= {room_of(name.name) for name in node.names if name.name.split(".")[0] == "cntk_pipeline"}
    return found - {"__version__"}  # of the package itself


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_to_lower_tiers(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in imports_of(path) - {room}:
        assert RANK[other] < RANK[room], f"{room} imports {other}"


def test_every_room_has_its_tier_and_every_tier_its_rooms() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert rooms == set(RANK)


def test_contributing_says_the_same() -> None:
    line = " < ".join(", ".join(sorted(rooms)) for rooms in TIERS)
    assert f"`{line}`" in " ".join((PACKAGE.parents[1] / "CONTRIBUTING.md").read_text().split())


def words_of(path: Path) -> set[str]:
    """List the texts in a file, but for docstrings and other texts that stand alone."""
    tree = ast.parse(path.read_text())
    alone = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node not in alone)
    return {node.value for node in texts if isinstance(node.value, str)}


def names_a_batch_system(text: str) -> bool:
    return any(name in text.lower() for name in ("slurm", "kubernetes", "scancel", "sbatch"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_its_own_folder_and_the_door_know_a_kind_of_cluster_by_name(path: Path) -> None:
    place = path.relative_to(PACKAGE).as_posix()
    kinds = {"serial", "local", "address", "slurm", "ssh", "kubernetes"}
    allowed = {"config/cluster.py": {"local"}}  # where nothing is said
    if not place.startswith("clusters/"):
        words = words_of(path)
        assert words & kinds <= allowed.get(place, set())
        assert not [word for word in words if names_a_batch_system(word)]
    elif place.count("/") == 1 and place != "clusters/__init__.py":
        assert not words_of(path) & (kinds - {"local"})


def calls_print(path: Path) -> bool:
    calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return any(isinstance(function, ast.Name) and function.id == "print" for function in calls)


def test_only_commands_print() -> None:
    assert {path.name for path in FILES if calls_print(path)} == {"main.py", "entry.py", "fit_duals.py"}


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
    "clusters/address/access.py": {"read_bytes"},
    "clusters/dask/certificates.py": {"os.open"},
    "clusters/ssh/remote.py": {"isdecimal"},
    "estimators/folder_memory.py": {"open", "np.load"},  # archives without pickles, in a folder of the user's
    "kernels/code_cache.py": {"read_bytes"},  # of this package, and its compiled code
    "kernels/cuda/source.py": {"read_text"},  # of this package
    "resources.py": {"read_text"},  # of the control groups of this process
    "rundir/signature.py": {"os.open"},  # the user's key
    "cli/streams.py": {"os.open"},  # /dev/null
    "workflow/starter.py": {"open"},  # the workflow file that is written
    "clusters/local/submitter.py": {"open", "os.open", "read_bytes"},  # the log that is written, and /proc
    "clusters/slurm/submitter.py": {"isdigit"},  # of what SLURM says
    "clusters/slurm/states.py": {"isdigit"},
    "opened/export.py": {"open"},  # files that are written, for people without Zarr
    "clusters/ssh/first_host.py": {"json.loads"},  # of a question through ssh
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
