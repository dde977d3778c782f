"""A solver is one file and one line: that of docs/extending.md, added to a copy of the package."""

import json

import pytest
from support.adding import ROOT, Copy, add, copy_package

WORKFLOW = """
name = "small"
data = { source = "digits", train = 24, test = 8 }
network = { preset = "cntk" }
readouts = { depths = [2], poolings = ["flatten"] }
kernel = { tile = 8 }
solve = { ridges = [1e-2] }
inference = { spectrum = true }
cluster = { kind = "serial" }
store = { path = "run" }
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    made = copy_package(tmp_path_factory.mktemp("adding"))
    add(made, "Adding a solver", "solvers/dense.py")
    (made.folder / "w.toml").write_text(WORKFLOW)
    return made


def test_an_added_solver_is_seen_in_plan_run_status_and_verify_and_solves_the_same(copy: Copy) -> None:
    dense = ("--set", "solve.solver=dense")
    rows = {
        stage["stage"]: stage["tasks"] for stage in json.loads(copy.cntk("plan", "w.toml", "--json", *dense))["stages"]
    }
    assert (rows["coefficients"], "factor" in rows) == (1, False)
    copy.cntk("run", "w.toml", *dense)
    copy.cntk("run", "w.toml", "--set", "solve.refinements=2", *dense)
    copy.cntk("run", "w.toml", "--store", "factored")
    mine, its = (json.loads(copy.cntk("status", path, "--json")) for path in ("run", "factored"))
    assert mine["complete"]
    assert mine["solves"][0]["accuracy"] == its["solves"][0]["accuracy"]
    assert mine["solves"][0]["relative_residual"] < 1e-12
    assert len(list((copy.folder / "run" / "solve").iterdir())) == 2  # an option is a part of the solve's name
    assert "0 are bad" in copy.cntk("verify", "run")


def test_an_added_solver_is_in_the_page_of_workflows(copy: Copy) -> None:
    page = copy.python(str(ROOT / "docs" / "make_workflow_page.py"))
    assert '| `solver` | "cholesky" or "dense" or "cg" or "centres" |' in page
    assert '### `[solve]` with `solver = "dense"`' in page
    assert "| `refinements` | whole number from 0 to 10 | `1` |" in page


def test_what_an_added_solver_solved_is_taken_over_by_a_run_that_grows(copy: Copy) -> None:
    """Seen to fail without ``twin`` in the added file."""
    dense = ("--set", "solve.solver=dense", "--set", "solve.ridge_mode=absolute", "--set", "data.standardize_first=24")
    copy.cntk("run", "w.toml", "--store", "older", *dense)
    grown = ("--from", "older", *dense, "--set", "data.test=16")
    said = copy.cntk("run", "w.toml", "--store", "grown", *grown)
    assert "taken over 1 of 1 tiles of coefficients" in said
    more = copy.cntk("run", "w.toml", "--store", "longer", *grown, "--set", "data.train=32")
    assert "taken over 0 of 1 tiles of coefficients" in more
    for store in ("grown", "longer"):
        assert "0 are bad" in copy.cntk("verify", store)


def test_keys_of_an_added_solver_belong_to_it_alone(copy: Copy) -> None:
    said = copy.cntk("run", "w.toml", "--store", "refused", "--set", "solve.refinements=2", code=2)
    assert 'solve.refinements belongs to solver = "dense", not to "cholesky": leave it out' in said
    dense = ("--store", "refused", "--set", "solve.solver=dense", "--set")
    assert "solve.refinements: Input should be less than or equal to 10" in copy.cntk(
        "run", "w.toml", *dense, "solve.refinements=11", code=2
    )
    needs = copy.cntk("run", "w.toml", *dense, "inference.leave_one_out=true", code=2)
    assert "inference.leave_one_out needs the factor of the solve" in needs
    assert not (copy.folder / "refused").exists()
