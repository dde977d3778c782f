"""A kind of cluster is one file and one line: that of docs/extending.md, added to a copy of the package.

Seen to fail without the line: the kind is unknown. Seen to fail for each command that knew kinds by name.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WORKFLOW = """
name = "small"
data = { source = "digits", train = 24, test = 8 }
network = { preset = "cntk" }
readouts = { depths = [2], poolings = ["flatten"] }
kernel = { tile = 8 }
solve = { ridges = [1e-2], tile = 8 }
cluster = { kind = "threads", threads = 3 }
store = { path = "run" }
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a workflow, and with a copy of the package to which the cluster was added."""
    folder = tmp_path_factory.mktemp("adding")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "pipeline" / "cntk_pipeline", folder / "copy" / "cntk_pipeline", ignore=ignored)
    page = (ROOT / "docs" / "extending.md").read_text()
    page = page[page.index("# Adding a cluster") :]
    file, line = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[:2]
    (statement,) = re.findall(r"with its import, `(.*?)`", page)
    clusters = folder / "copy" / "cntk_pipeline" / "clusters"
    (clusters / "threads.py").write_text(file)
    door = (clusters / "__init__.py").read_text()
    opening = "CLUSTERS: dict[str, Cluster] = {\n"
    assert opening in door
    (clusters / "__init__.py").write_text(door.replace(opening, f"{statement}\n\n{opening}{line}"))
    (folder / "w.toml").write_text(WORKFLOW)
    return folder


def cntk(place: Path, *words: str, code: int = 0) -> str:
    """Run a command of the copy; return all it said."""
    command = [sys.executable, "-m", "cntk_pipeline.cli", *words]
    environment = os.environ | {"PYTHONPATH": str(place / "copy"), "COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_plan_counts_the_slots_of_an_added_cluster(place: Path) -> None:
    assert json.loads(cntk(place, "plan", "w.toml", "--json"))["slots"] == 3
    assert json.loads(cntk(place, "plan", "w.toml", "--json", "--set", "cluster.threads=5"))["slots"] == 5
    assert not (place / "run").exists()


def test_a_run_on_an_added_cluster_is_looked_at_and_gone_on_with_like_any_other(place: Path) -> None:
    assert "computing on 3 threads of this process" in cntk(place, "run", "w.toml")
    assert json.loads(cntk(place, "status", "run", "--json"))["complete"]
    assert "0 are bad" in cntk(place, "verify", "run")
    shutil.rmtree(place / "run" / "journal")
    for name in ("solve", "kernel.zarr"):
        shutil.rmtree(place / "run" / name)
    assert 'going on with the cluster of kind "threads", as it was last run' in cntk(place, "resume", "run")


def test_a_run_is_followed_on_the_word_of_anybody_where_the_cluster_says_that_it_does_no_harm(place: Path) -> None:
    cntk(place, "run", "w.toml", "--store", "foreign")
    record = json.loads((place / "foreign" / "workflow.json").read_text())
    shutil.rmtree(place / "foreign" / "solve")
    for cluster, code in (({"hosts": ["h"]}, 2), ({"threads": 1}, 0)):
        forged = record | {"cluster": {"kind": "threads"} | cluster}
        (place / "foreign" / "workflow.json").write_text(json.dumps(forged))
        said = cntk(place, "resume", "foreign", code=code)
        assert ("this would compute in threads of this process" in said) is (code == 2)


def test_a_driver_of_an_added_cluster_is_handed_over(place: Path) -> None:
    assert "submitted as threads " in cntk(place, "submit", "w.toml", "--store", "submitted")
    cntk(place, "status", "submitted", "--watch")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("cluster.threds=1", "unknown key cluster.threds: did you mean 'threads'?"),
        ("cluster.threads=0", "cluster.threads: Input should be greater than or equal to 1 (got 0)"),
        ("cluster.threads='many'", "cluster.threads: Input should be a valid integer"),
        ("cluster.kind=thread", "unknown cluster.kind 'thread': known are threads, serial, local, address"),
    ],
)
def test_what_an_added_cluster_does_not_know_is_refused_before_anything_is_written(
    place: Path, setting: str, said: str
) -> None:
    assert said in cntk(place, "run", "w.toml", "--store", "refused", "--set", setting, code=2)
    assert not (place / "refused").exists()


def test_keys_of_an_added_cluster_may_stand_in_the_table_of_another_one(place: Path) -> None:
    said = cntk(place, "run", "w.toml", "--set", "cluster.kind=serial", "--store", "serial")
    assert 'a cluster of kind "serial" does not look at cluster.threads' in said
    assert "computing on in this process" in said
