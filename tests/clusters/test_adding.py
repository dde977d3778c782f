"""A kind of cluster is one file and one line: that of docs/extending.md, added to a copy of the package.

Seen to fail without the line: the kind is unknown. Seen to fail for each command that knew kinds by name.
"""

import json
import shutil

import pytest
from support.adding import ROOT, Copy, add, copy_package

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
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    made = copy_package(tmp_path_factory.mktemp("adding"))
    add(made, "Adding a cluster", "clusters/threads.py")
    (made.folder / "w.toml").write_text(WORKFLOW)
    return made


def test_a_plan_counts_the_slots_of_an_added_cluster(copy: Copy) -> None:
    assert json.loads(copy.cntk("plan", "w.toml", "--json"))["slots"] == 3
    assert json.loads(copy.cntk("plan", "w.toml", "--json", "--set", "cluster.threads=5"))["slots"] == 5
    assert not (copy.folder / "run").exists()


def test_an_added_cluster_is_in_the_page_of_workflows(copy: Copy) -> None:
    page = copy.python(str(ROOT / "docs" / "make_workflow_page.py"))
    assert '| `kind` | "serial" or "local" or "threads" or "address" or ' in page
    assert '### `[cluster]` with `kind = "threads"`' in page
    assert "| `threads` | whole number from 1 to 64 | `2` | Tiles that are computed at once. |" in page


def test_a_run_on_an_added_cluster_is_looked_at_and_gone_on_with_like_any_other(copy: Copy) -> None:
    assert "computing on 3 threads of this process" in copy.cntk("run", "w.toml")
    assert json.loads(copy.cntk("status", "run", "--json"))["complete"]
    assert "0 are bad" in copy.cntk("verify", "run")
    shutil.rmtree(copy.folder / "run" / "journal")
    for name in ("solve", "kernel.zarr"):
        shutil.rmtree(copy.folder / "run" / name)
    assert 'going on with the cluster of kind "threads", as it was last run' in copy.cntk("resume", "run")


def test_a_run_is_followed_on_the_word_of_anybody_where_the_cluster_says_that_it_does_no_harm(copy: Copy) -> None:
    copy.cntk("run", "w.toml", "--store", "foreign")
    record = json.loads((copy.folder / "foreign" / "workflow.json").read_text())
    shutil.rmtree(copy.folder / "foreign" / "solve")
    for cluster, code in (({"hosts": ["h"]}, 2), ({"threads": 1}, 0)):
        forged = record | {"cluster": {"kind": "threads"} | cluster}
        (copy.folder / "foreign" / "workflow.json").write_text(json.dumps(forged))
        said = copy.cntk("resume", "foreign", code=code)
        assert ("this would compute in threads of this process" in said) is (code == 2)


def test_a_driver_of_an_added_cluster_is_handed_over(copy: Copy) -> None:
    assert "submitted as threads " in copy.cntk("submit", "w.toml", "--store", "submitted")
    copy.cntk("status", "submitted", "--watch")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("cluster.threds=1", "unknown key cluster.threds: did you mean 'threads'?"),
        ("cluster.threads=0", "cluster.threads: Input should be greater than or equal to 1 (got 0)"),
        ("cluster.threads='many'", "cluster.threads: Input should be a valid integer"),
        ("cluster.kind=thread", "unknown cluster.kind 'thread': known are serial, local, threads, address"),
    ],
)
def test_what_an_added_cluster_does_not_know_is_refused_before_anything_is_written(
    copy: Copy, setting: str, said: str
) -> None:
    assert said in copy.cntk("run", "w.toml", "--store", "refused", "--set", setting, code=2)
    assert not (copy.folder / "refused").exists()


def test_keys_of_an_added_cluster_may_stand_in_the_table_of_another_one(copy: Copy) -> None:
    said = copy.cntk("run", "w.toml", "--set", "cluster.kind=serial", "--store", "serial")
    assert 'a cluster of kind "serial" does not look at cluster.threads' in said
    assert "computing on this process" in said
