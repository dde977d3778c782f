"""What `cntk inspect` says: a summary that fits a screen, and everything with ``--all``.

Seen to fail: with a summary that shows all rows, with one that leaves out the best row, and with lacking tiles counted
as done.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.problems import TEST, TRAIN, Recorder, stop_after

from cntk_pipeline.cli import inspection
from cntk_pipeline.cli.inspection import SUMMARY_LINES, best_of, show_inspection, show_summary
from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import Interrupted
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report, read_contents


@pytest.fixture
def summary(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[RunDirectory], list[str]]:
    """Return the lines of a summary on 80 columns; it must fit the smallest screen, with its prompt."""
    monkeypatch.setattr(inspection.out, "_width", 80)

    def lines_of(run: RunDirectory) -> list[str]:
        capsys.readouterr()
        show_summary(make_report(run), read_contents(run))
        lines = capsys.readouterr().out.splitlines()
        long = [line for line in lines if len(line) > 80]
        assert all(str(run.path) in line for line in long)  # only a path may be as long as it is
        assert len(lines) < SUMMARY_LINES
        return lines

    return lines_of


def test_four_read_outs_with_all_their_results_fit_a_screen(
    run_small: Callable[..., RunDirectory], summary: Callable[..., list[str]]
) -> None:
    inference = {"leave_one_out": True, "learning_curve": True, "posterior_variance": True, "spectrum": True}
    run = run_small(inference=inference)
    report, lines = make_report(run), summary(run)
    assert lines[0] == str(run.path)
    said = " ".join(lines)
    assert f"This run has 4 kernels in float32 of {TRAIN} training and {TEST} test images of 6 x 5 x 2" in said
    for solve in report.solves:
        (row,) = [line for line in lines if line.startswith(f"{solve.readout} ")]
        assert row.split()[1:] == ["0.01", "relative", f"{100 * solve.accuracy:.2f}%", f"{solve.relative_residual:.1e}"]  # type: ignore[operator]
    assert "complete: every tile and every result is there" in lines
    assert "further results: leave one out, learning curve, posterior variance, spectrum" in lines
    assert any("cntk inspect --all" in line for line in lines)
    assert any(f'cntk_pipeline.open_run("{run.path}")' in line for line in lines)


def test_of_many_ridges_the_best_rows_are_shown_and_the_others_counted(
    run_small: Callable[..., RunDirectory], summary: Callable[..., list[str]]
) -> None:
    run = run_small(solve={"ridges": [10.0**k for k in range(-4, 3)]})
    report, lines = make_report(run), summary(run)
    rows = [line.split() for line in lines if line.startswith("depth3")]
    (more,) = [line for line in lines if "not shown" in line]
    assert len(report.solves) == 28
    assert int(more.split()[0]) + len(rows) == 28
    scores = sorted((solve.accuracy for solve in report.solves), reverse=True)  # type: ignore[type-var]
    assert sorted((row[3] for row in rows), reverse=True) == [f"{100 * score:.2f}%" for score in scores[: len(rows)]]


@pytest.mark.usefixtures("no_waiting")
def test_what_is_lacking_is_counted_as_in_the_status(
    small_config: Callable[..., RunConfig], summary: Callable[..., list[str]]
) -> None:
    config = small_config()
    view, stop = stop_after(4)
    with pytest.raises(Interrupted):
        runs.start(config, view, stop)
    run = RunDirectory(runs.run_path(config))
    report, lines = make_report(run), summary(run)
    left = {stage.stage: stage.total - stage.done for stage in report.stages if stage.done < stage.total}
    said = " ".join(lines)
    assert left["factor"] == 8
    for stage, count in left.items():
        assert f"{count} of {stage}" in said
    assert f"incomplete: cntk resume {run.path}" in lines
    assert said.count("not yet") == 4
    runs.resume(run.path, Recorder(), threading.Event())
    assert "tiles to compute" not in " ".join(summary(run))


@pytest.mark.usefixtures("no_waiting")
def test_a_run_whose_ridges_are_not_chosen_names_its_read_outs(
    small_config: Callable[..., RunConfig], summary: Callable[..., list[str]]
) -> None:
    config = small_config(solve={"ridges": "auto"})
    view, stop = stop_after(4)
    with pytest.raises(Interrupted):
        runs.start(config, view, stop)
    run = RunDirectory(runs.run_path(config))
    said = " ".join(summary(run))
    assert "with no ridge yet;" in said
    assert f"no ridge is chosen yet for {', '.join(make_report(run).readouts)}" in said


def test_the_best_are_chosen_by_their_scores_and_kept_in_order(run_small: Callable[..., RunDirectory]) -> None:
    solves = make_report(run_small()).solves
    scored: list[Any] = [replace(solves[k], accuracy=accuracy) for k, accuracy in enumerate((0.5, None, 0.9, 0.7))]
    assert best_of(scored, 2) == [scored[2], scored[3]]
    assert best_of(scored, 4) == scored


def test_all_says_everything(run_small: Callable[..., RunDirectory], capsys: pytest.CaptureFixture[str]) -> None:
    run = run_small(inference={"leave_one_out": True})
    report = make_report(run)
    capsys.readouterr()
    show_inspection(report, read_contents(run))
    said = capsys.readouterr().out
    for stage in report.stages:
        assert f"{stage.done}/{stage.total}" in said
    for text in (
        report.fingerprint[:16],
        "engine    cpu",
        "training images by class",
        "leave-one-out",
        *report.openers,
    ):
        assert text in said
