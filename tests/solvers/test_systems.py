"""What names a solve: run directories outlive versions of this package."""

from collections.abc import Callable

import pytest
from systems import ONE

from pipeline.config import RunConfig
from pipeline.report import make_report
from pipeline.solvers import Method, open_system, requested_solves, solve_name
from pipeline.store import RunDirectory

Run = Callable[..., RunDirectory]
Config = Callable[..., RunConfig]


@pytest.fixture
def run(run_small: Run) -> RunDirectory:
    return run_small(**ONE, solve={"ridges": [0.5]})


def test_a_solve_by_cholesky_is_named_as_it_was_before_there_were_other_solvers(
    run: RunDirectory, small_config: Config
) -> None:
    before = {
        "kernel": run.fingerprint,
        "readout": "depth3-gap-ntk",
        "ridge": 0.5,
        "ridge_mode": "relative",
        "tile": 16,
        "targets": "one-hot minus 1 / classes",
    }
    for solve in ({}, {"solver": "cholesky"}, {"factor_dtype": "float64"}):
        config = small_config(**ONE, solve={"ridges": [0.5]} | solve)
        assert requested_solves(run, config) == [before]
    assert (run.path / "solve" / solve_name(before)).is_dir()
    assert solve_name({"kernel": "k", "ridge": 0.5}) == "163eebb999fed8f5"


def name_with(run: RunDirectory, config: RunConfig) -> str:
    return solve_name(requested_solves(run, config)[0])


def test_what_changes_a_result_changes_its_name_and_nothing_else_does(run: RunDirectory, small_config: Config) -> None:
    def named(**solve: object) -> str:
        return name_with(run, small_config(**ONE, solve={"ridges": [0.5], "tile": 16} | solve))

    different = [
        named(),
        named(factor_dtype="float32"),
        named(factor_dtype="float32", tolerance=1e-8),
        named(solver="cg"),
        named(solver="cg", tolerance=1e-8),
        named(solver="cg", rank=7),
    ]
    assert len(set(different)) == len(different)
    assert named(solver="cg") == named(solver="cg", max_iterations=7, rank=256, tolerance=1e-10)


def test_a_system_is_read_back_as_it_was_made(run_small: Run) -> None:
    run = run_small(**ONE, solve={"solver": "cg", "rank": 3, "tolerance": 1e-7, "max_iterations": 77})
    system = open_system(run, make_report(run).solves[0].name)
    assert system.method == Method("cg", "float64", 1e-7, 77, 3)
    assert system.method.iterates
    assert not system.method.factors
