"""Imports point one way: the tiers of the house."""

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "pipeline" / "cntk_pipeline"

TIERS = [
    {"errors"},
    {"environment", "inputs", "lazy", "missing", "models", "resources", "tiling", "units"},
    {"graphs", "sequences", "tasks"},
    {"layers", "datasets", "config", "storage", "regression"},
    {"finite"},
    {"kernels", "rundir", "telemetry"},
    {"gram", "clusters"},
    {"solvers", "driver", "estimators"},
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


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(tree_of(path)):
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
PLACES = {path.relative_to(PACKAGE).as_posix(): path for path in FILES}


def home_of(place: str) -> str:
    """Name the room that a file lies in."""
    return place.partition("/")[0].removesuffix(".py")


def test_imports_point_to_lower_tiers() -> None:
    imported = {place: imports_of(path) - {home_of(place)} for place, path in PLACES.items()}
    wrong = {
        place: [other for other in rooms if RANK[other] >= RANK[home_of(place)]] for place, rooms in imported.items()
    }
    assert sum(map(len, imported.values())) > 500
    assert {place: rooms for place, rooms in wrong.items() if rooms} == {}


def test_every_room_has_its_tier_and_every_tier_its_rooms() -> None:
    assert {home_of(place) for place in PLACES} == set(RANK)


def test_contributing_says_the_same() -> None:
    line = " < ".join(", ".join(sorted(rooms)) for rooms in TIERS)
    assert f"`{line}`" in " ".join((PACKAGE.parents[1] / "CONTRIBUTING.md").read_text().split())


def words_of(path: Path) -> set[str]:
    """List the texts in a file, but for docstrings and other texts that stand alone."""
    tree = tree_of(path)
    alone = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node not in alone)
    return {node.value for node in texts if isinstance(node.value, str)}


def names_a_batch_system(text: str) -> bool:
    return any(name in text.lower() for name in ("slurm", "kubernetes", "scancel", "sbatch"))


def kinds_named(place: str, path: Path) -> set[str]:
    """List the kinds of clusters that a file names and that it has no business with."""
    kinds = {"serial", "local", "address", "slurm", "ssh", "kubernetes"}
    allowed = {"config/cluster.py": {"local"}}  # where nothing is said
    if place == "missing.py":  # names of modules that were
        return set()
    if not place.startswith("clusters/"):
        words = words_of(path)
        return (words & kinds) - allowed.get(place, set()) | {word for word in words if names_a_batch_system(word)}
    if place.count("/") == 1 and place != "clusters/__init__.py":
        return words_of(path) & (kinds - {"local"})
    return set()


def test_only_its_own_folder_and_the_door_know_a_kind_of_cluster_by_name() -> None:
    named = {place: kinds_named(place, path) for place, path in PLACES.items()}
    assert {place: kinds for place, kinds in named.items() if kinds} == {}


def test_what_serves_all_stages_names_none() -> None:
    """An added stage is its own file and a line of a table: no room below it knows its kind."""
    from cntk_pipeline.workflow.wanted import OWNERS

    parts = {"train", "test"}  # of the images, too
    rooms = ("rundir/growth.py", "rundir/owners.py", "rundir/takeover.py", "rundir/twins.py", "driver/", "telemetry/")
    named = {
        place: words_of(path) & (OWNERS.keys() - parts) for place, path in PLACES.items() if place.startswith(rooms)
    }
    assert len(named) > 15
    assert {place: kinds for place, kinds in named.items() if kinds} == {}


def calls_print(path: Path) -> bool:
    calls = (node.func for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call))
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
LAST = {name.rpartition(".")[2] for name in READS}

OTHER_FILES = {
    "config/reading.py": {"open", "os.open", "tomllib.loads"},  # that a user names
    "clusters/address/access.py": {"read_bytes"},
    "clusters/dask/certificates.py": {"os.open"},
    "clusters/slurm/jobs.py": {"open"},  # the end of a job's log
    "clusters/ssh/remote.py": {"isdecimal"},
    "estimators/folder_memory.py": {"open", "np.load"},  # archives without pickles, in a folder of the user's
    "kernels/code_cache.py": {"read_bytes"},  # of this package, and its compiled code
    "kernels/plugin_code.py": {"read_bytes"},  # code that a user names
    "kernels/cuda/source.py": {"read_text"},  # of this package
    "resources.py": {"read_text"},  # of the control groups of this process
    "rundir/signature.py": {"os.open"},  # the user's key
    "rundir/lease.py": {"open"},  # /proc
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
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            last = (
                node.func.attr
                if isinstance(node.func, ast.Attribute)
                else node.func.id
                if isinstance(node.func, ast.Name)
                else ""
            )
            if last not in LAST:
                continue
            name = ast.unparse(node.func)
            bounded = name.endswith(".read_bytes") and (node.args or node.keywords)
            if not bounded:
                found.add(name if name in READS else name.rpartition(".")[2])
    return found & READS


def test_records_are_read_in_one_way() -> None:
    found = {place: reads_of(path) - OTHER_FILES.get(place, set()) for place, path in PLACES.items()}
    assert {
        place: reads for place, reads in found.items() if reads and not place.startswith(("storage/", "datasets/"))
    } == {}
