"""Conjugate gradients on a kernel of which a part is stored, or only the diagonal: the bits of the stored one."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.problems import (
    SPECIFICATION,
    TRAIN,
    Recorder,
    Stopper,
    flip_bit,
    receive,
    require_same_kernel,
)
from support.processes import begun
from support.systems import ONE

from cntk_pipeline.cli.plan import show_plan
from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import ConfigError, Interrupted, NotPositiveDefinite
from cntk_pipeline.opened import open_run
from cntk_pipeline.opened.export import plan_export
from cntk_pipeline.plots.displays.kernel_matrix import KernelMatrix
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers import SOLVERS, SystemSize, open_system
from cntk_pipeline.solvers.options import ConjugateGradientOptions
from cntk_pipeline.solvers.systems import SystemKernel, kept_tiles
from cntk_pipeline.storage import LocalPath
from cntk_pipeline.tasks import Stage, Task
from cntk_pipeline.tiling import KeptTiles, Tile, lower_tiles
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report
from cntk_pipeline.workflow.ways import Way, cheapest, is_telling

Run = Callable[..., RunDirectory]
Config = Callable[..., RunConfig]

STORED = {"solver": "cg", "tile": 16, "rank": 5, "ridges": [1e-2], "sketch": "columns"}
COMPUTED = STORED | {"kernel_bytes": 0}
CHUNK = 16**2 * 8 + 4
"""Bytes of a tile of the small problem: three rows of tiles, six on and below the diagonal."""


def test_the_kept_tiles_are_the_diagonal_and_then_the_first_rows() -> None:
    every = [Tile(row, col) for row in range(4) for col in range(row + 1)]
    for room, below in ((0, 0), (4, 0), (5, 1), (8, 4), (10, 6), (99, 6)):
        kept = KeptTiles(4, room)
        chosen = [tile for tile in every if tile in kept]
        assert [tile for tile in chosen if tile.row == tile.col] == [Tile(k, k) for k in range(4)]
        assert [tile for tile in chosen if tile.row > tile.col] == [t for t in every if t.row > t.col][:below]
        assert kept.count == len(chosen)
        assert all((Tile(tile.col, tile.row) in kept) == (tile in kept) for tile in every)
    assert KeptTiles(4, 0).total == 10


def interrupt_iterations(config: RunConfig) -> None:
    """Begin a run, and stop it when its system is at the fourth iteration."""
    view = Stopper(lambda view: sum("iteration 4," in moment.note for moment in view.moments) > 3)
    with pytest.raises(Interrupted):
        runs.start(config, view, view.stop)


def found(run: RunDirectory) -> dict[str, np.ndarray]:
    """Read the results of the first solve of a run."""
    name = make_report(run).solves[0].name
    classes = len(run.specification.data.classes)
    return {
        part: run.solved(name, part).read_region((0, count), (0, classes))
        for part, count in (("coefficients", TRAIN), ("mean", 11), ("residual", TRAIN))
    }


def require_same_results(run: RunDirectory, stored: RunDirectory) -> None:
    mine, its = found(run), found(stored)
    assert make_report(run).solves[0].name == make_report(stored).solves[0].name
    for part in ("coefficients", "mean"):
        np.testing.assert_array_equal(mine[part], its[part])
    # The residual of the last pass sums the blocks in another order than a pass over rows.
    targets = np.linalg.norm(its["residual"]) / (make_report(stored).solves[0].relative_residual or 1)
    assert np.abs(mine["residual"] - its["residual"]).max() <= 1e-14 * targets
    assert (make_report(run).solves[0].relative_residual or 1) <= 1e-10
    assert make_report(run).complete


def tiles_of(run: RunDirectory, readout: str | None = None) -> set[tuple[int, int]]:
    """List the tiles of K(train, train) that are on disk."""
    kernel = run.kernel(readout or run.specification.readouts[0].name, "train")
    return {(t.row, t.col) for t in lower_tiles(kernel.cut(0)) if kernel.chunk_path(t.row, t.col).exists()}


@pytest.fixture
def beside(small_config: Config) -> Callable[[str], dict[str, str]]:
    """Return a section of the store for a run beside the small one."""
    return lambda name: {"path": f"{small_config().store.path}-{name}"}


@pytest.mark.slow
@pytest.mark.parametrize("kernel_bytes", [0, "11kB", 4 * CHUNK, 5 * CHUNK, "1GB"])
@pytest.mark.parametrize("more", [{}, {"unit_diagonal": True}, {"tile": 32}, {"rank": 0}])
def test_a_kernel_of_which_a_part_is_stored_has_the_bits_of_the_whole(
    run_small: Run, beside: Callable[[str], dict[str, str]], kernel_bytes: int | str, more: dict[str, Any]
) -> None:
    stored = run_small(**ONE, solve=STORED | more, store=beside("stored"))
    run = run_small(**ONE, solve=STORED | more | {"kernel_bytes": kernel_bytes})
    require_same_results(run, stored)
    below = {0: 0, "11kB": 2, 4 * CHUNK: 1, 5 * CHUNK: 2, "1GB": 3}[kernel_bytes]
    assert tiles_of(run) == {(0, 0), (1, 1), (2, 2), *[(1, 0), (2, 0), (2, 1)][:below]}


@pytest.mark.slow
def test_each_of_several_read_outs_has_its_bits_in_float32(
    run_small: Run, beside: Callable[[str], dict[str, str]]
) -> None:
    readouts = {"depths": [3], "poolings": ["flatten", "gap"], "kinds": ["nngp"]}
    sections = {"readouts": readouts, "kernel": {"tile": 16}}
    stored = run_small(**sections, solve=STORED | {"ridges": [1.0]}, store=beside("stored"))
    run = run_small(**sections, solve=COMPUTED | {"ridges": [1.0]})
    assert len(run.specification.readouts) == 2
    for mine, its in zip(make_report(run).solves, make_report(stored).solves, strict=True):
        assert tiles_of(run, mine.readout) == {(0, 0), (1, 1), (2, 2)}
        arrays = (each.solved(mine.name, "coefficients").read(0, 0) for each in (run, stored))
        np.testing.assert_array_equal(*arrays)
        assert mine.name == its.name


@pytest.mark.slow
def test_columns_of_a_kernel_are_those_of_its_matrix(run_small: Run, beside: Callable[[str], dict[str, str]]) -> None:
    columns, unit = np.array([0, 15, 16, 20, 36]), {"unit_diagonal": True}
    run = run_small(**ONE, solve=STORED | unit, store=beside("stored"))
    stored = SystemKernel(run, open_system(run, make_report(run).solves[0].name))
    whole = stored.train((0, TRAIN), (0, TRAIN))
    expected = [stored.train_columns(piece, columns) for piece in range(3)]
    run = run_small(**ONE, solve=COMPUTED | unit)
    kernel = SystemKernel(run, open_system(run, make_report(run).solves[0].name))
    assert kernel.kept == KeptTiles(3, 0)
    for piece in range(3):
        found = kernel.train_columns(piece, columns)
        # A tile above the diagonal is the mirror image of a tile that is normalised below it, in every bit.
        np.testing.assert_array_equal(found, expected[piece])
        np.testing.assert_allclose(found, whole[slice(*run.train_cut.bounds(piece)), columns], rtol=1e-15)


@pytest.mark.slow
def test_a_resume_may_store_more_and_less_and_goes_on_from_its_state(run_small: Run, small_config: Config) -> None:
    path = Path(str(small_config().store.path))
    stored = run_small(**ONE, solve=STORED, store={"path": f"{path}-stored"})
    interrupt_iterations(small_config(**ONE, solve=COMPUTED))
    steps = len(begun(RunDirectory(path), "step"))
    assert steps >= 3
    more = run_small(**ONE, solve=STORED)
    require_same_results(more, stored)
    assert len(tiles_of(more)) == 6
    assert len(begun(more, "step")) == len(begun(stored, "step"))
    less = run_small(**ONE, solve=COMPUTED)
    assert make_report(less).complete
    assert len(begun(less, "step")) == len(begun(stored, "step"))


@pytest.mark.slow
def test_a_solve_that_began_on_a_stored_kernel_goes_on_with_a_part_of_it(run_small: Run, small_config: Config) -> None:
    path = Path(str(small_config().store.path))
    stored = run_small(**ONE, solve=STORED, store={"path": f"{path}-stored"})
    interrupt_iterations(small_config(**ONE, solve=STORED))
    run = run_small(**ONE, solve=COMPUTED)
    require_same_results(run, stored)
    assert len(begun(run, "step")) == len(begun(stored, "step"))
    assert 0 < len(begun(run, "sum")) < 3 * len(begun(run, "step"))


@pytest.mark.slow
@pytest.mark.parametrize("tile", [8, 16])
def test_a_residual_that_is_damaged_later_is_computed_again_with_the_same_bits(run_small: Run, tile: int) -> None:
    sections = ONE | {"kernel": ONE["kernel"] | {"tile": 8}}  # blocks of two tiles, so that sums have two levels
    run = run_small(**sections, solve=COMPUTED | {"tile": tile})
    before, name = found(run), make_report(run).solves[0].name
    products = len(begun(run, "product"))
    for row in range(5):
        flip_bit(run.solved(name, "residual").chunk_path(row, 0))
    assert len(runs.verify(run.path).bad) == 5
    again = runs.resume(run.path, Recorder(), threading.Event())
    np.testing.assert_array_equal(found(again)["residual"], before["residual"])
    assert len(begun(again, "product")) == products
    assert make_report(again).complete


@pytest.mark.slow
def test_damaged_kept_tiles_and_variances_are_computed_again(run_small: Run) -> None:
    run = run_small(**ONE, solve=COMPUTED | {"kernel_bytes": 4 * CHUNK})
    before, kernel = found(run), run.kernel(run.specification.readouts[0].name, "train")
    flip_bit(kernel.chunk_path(1, 0))
    flip_bit(kernel.chunk_path(2, 2))
    assert len(runs.verify(run.path).bad) == 2
    again = runs.resume(run.path, Recorder(), threading.Event())
    assert tiles_of(again) == {(0, 0), (1, 0), (1, 1), (2, 2)}
    for part, values in found(again).items():
        np.testing.assert_array_equal(values, before[part])


@pytest.mark.slow
def test_a_run_grows_from_one_of_which_a_part_is_stored(
    run_small: Run, beside: Callable[[str], dict[str, str]]
) -> None:
    data = {"standardize_first": 32}
    old = run_small(**ONE, data=data | {"train": 32}, solve=COMPUTED, store=beside("old"))
    fresh = run_small(**ONE, data=data, solve=STORED, store=beside("fresh"))
    grown = run_small(**ONE, data=data, solve=STORED, store=beside("grown") | {"grow_from": str(old.path)})
    require_same_kernel(grown, fresh)
    assert len(begun(grown, "train")) == 6 - 2
    np.testing.assert_array_equal(found(grown)["coefficients"], found(fresh)["coefficients"])


@pytest.mark.slow
def test_a_kernel_that_is_not_positive_definite_is_named_without_its_eigenvalues(run_small: Run) -> None:
    run = run_small(**ONE, solve=COMPUTED | {"ridges": [1e3]})
    kernel = run.kernel(run.specification.readouts[0].name, "train")
    kernel.write((1, 1), -kernel.read(1, 1))
    receive(run, Task(Stage("train"), 1, 1))
    view = Recorder()
    with pytest.raises(NotPositiveDefinite, match="the kernel plus ridge is not positive definite") as caught:
        run_small(view, **ONE, solve=COMPUTED)
    assert "smallest eigenvalue" not in str(caught.value)
    assert "ridge that would do" not in view.stages


@pytest.mark.parametrize(
    ("solve", "message"),
    [
        ({"solver": "cholesky", "kernel_bytes": 0}, r'solve\.kernel_bytes belongs to solver = "cg", not to "cholesky"'),
        ({"solver": "cg", "kernel_bytes": -1}, r'kernel_bytes: .*expected bytes \("40GB"\), at least 0, got -1'),
        (
            {"solver": "cg", "kernel_bytes": "some"},
            r'kernel_bytes: .*expected bytes \("40GB"\), at least 0, got \'some\'',
        ),
        ({"solver": "cg", "kernel_bytes": True}, "solve.kernel_bytes"),
        ({"solver": "cg", "kernel_bytes": 0, "sketch": "gaussian"}, 'sketch = "gaussian" reads the whole kernel'),
        ({"solver": "cg", "sketch": "rows"}, "sketch"),
        ({"solver": "cg", "kernel_bytes": ""}, r"kernel_bytes: .*expected bytes .* got ''"),
        ({"solver": "cg", "kernel_bytes": " "}, r"kernel_bytes: .*expected bytes .* got ' '"),
        ({"solver": "cg", "kernel_bytes": "GB"}, r"kernel_bytes: .*expected bytes .* got 'GB'"),
    ],
)
def test_options_that_do_not_fit_are_refused(run_small: Run, solve: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_small(**ONE, solve={"ridges": [1.0]} | solve)


@pytest.mark.parametrize("key", ["spectrum", "ensemble"])
def test_results_that_read_the_whole_kernel_are_refused_by_name(run_small: Run, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"inference\.{key} reads the whole kernel .* solve\.kernel_bytes"):
        run_small(**ONE, solve=COMPUTED, inference={key: {"spectrum": 3, "ensemble": ["inf"]}[key]})


@pytest.mark.slow
def test_who_reads_the_whole_kernel_of_such_a_run_is_told_how_to_store_it(run_small: Run) -> None:
    run = run_small(**ONE, solve=COMPUTED)
    opened = open_run(run.path)
    message = r"needs the whole kernel .* solve\.kernel_bytes has a part stored, 3 of 6 tiles: leave the key out"
    with pytest.raises(ConfigError, match=message):
        opened.kernel(missing="raise")
    with pytest.raises(ConfigError, match=message):
        plan_export(run, (), "npz", kernels=True)
    with pytest.raises(ConfigError, match=message):
        KernelMatrix.from_run(opened)
    assert plan_export(run, (), "npz", kernels=False).predictions
    assert np.isnan(opened.kernel().compute()).sum() == 2 * 16 * 16 + 2 * 2 * 16 * 5
    assert any("3 of 6 lower tiles; the others are NaN" in line for line in make_report(run).openers)
    whole = run_small(**ONE, solve=STORED)
    assert not np.isnan(opened.kernel(missing="raise").compute()).any()
    assert plan_export(whole, (), "npz", kernels=True).kernels


@pytest.mark.slow
def test_a_plan_compares_the_ways_and_names_the_cheapest(
    small_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = runs.plan(small_config(**ONE, solve=COMPUTED))
    ways = {way.name: way for way in plan.ways}
    assert set(ways) == {"factored", "stored", "recomputed", "centres"}
    assert [way.name for way in plan.ways if way.is_asked] == ["recomputed"]
    pieces = 3
    assert {stage.stage: stage.tasks for stage in plan.stages}["train"] == pieces
    assert ways["stored"].written_bytes - ways["recomputed"].written_bytes == CHUNK * pieces * (pieces - 1) // 2
    assert plan.iteration is not None
    assert plan.iteration.read_bytes == CHUNK * pieces
    show_plan(plan)
    said = capsys.readouterr().out
    assert "computed again in each of 40 passes" in said
    assert "\ncheapest: " in said
    stored = Way("stored", 3.0, 9, fits=False)
    others = (Way("recomputed", 5.0, 2, fits=True), Way("centres", 1.0, 1, fits=True))
    assert cheapest((stored, *others), exact=True) is others[0]
    assert cheapest((stored, *others), exact=False) is others[1]
    assert cheapest((stored,), exact=False) is None
    assert runs.plan(small_config(**ONE)).ways == ()


@pytest.mark.parametrize(
    ("asked", "fits", "other", "other_fits", "telling"),
    [
        (10.0, False, 10.0, True, True),
        (10.0, False, 10.0, False, True),
        (6000.0, True, 2000.0, True, True),
        (6000.0, True, 2001.0, True, False),
        (6000.0, True, 1.0, False, False),
        (599.0, True, 1.0, True, False),
    ],
)
def test_other_ways_are_told_where_the_disk_is_short_or_they_are_far_cheaper(
    asked: float, fits: bool, other: float, other_fits: bool, telling: bool
) -> None:
    ways = (Way("factored", asked, 9, fits, is_asked=True), Way("centres", other, 1, other_fits))
    assert is_telling(ways) == telling
    assert not is_telling(ways[1:])


@pytest.mark.slow
def test_a_factor_in_float32_is_charged_the_passes_that_it_takes(
    small_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with those of conjugate gradients without a factor."""
    monkeypatch.setattr(LocalPath, "free_bytes", lambda path: 1000)
    plan = runs.plan(small_config(**ONE, solve={"factor_dtype": "float32"}))
    (asked,) = (way for way in plan.ways if way.is_asked)
    assert plan.iteration is not None
    extra = asked.seconds - plan.seconds
    assert extra == pytest.approx(12 * plan.iteration.seconds, rel=1e-3)


@pytest.mark.slow
def test_a_plan_on_a_short_disk_says_where_the_workflow_allows_no_other_way(
    small_config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(LocalPath, "free_bytes", lambda path: 1000)
    plan = runs.plan(small_config(**ONE, solve={"ridges": "auto"}))
    assert [way.name for way in plan.ways] == ["factored"]
    show_plan(plan)
    assert "the workflow's ridges or its [inference] allow no other way" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solve", "name"), [({}, "factored"), ({"solver": "centres", "centres": 9}, "centres")], ids=["cholesky", "centres"]
)
def test_a_plan_on_a_short_disk_tells_other_ways_until_the_run_is_begun(
    run_small: Run, small_config: Config, solve: dict[str, Any], name: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(LocalPath, "free_bytes", lambda path: 1000)
    plan = runs.plan(small_config(**ONE, solve=solve))
    (asked,) = (way for way in plan.ways if way.is_asked)
    assert (asked.name, asked.fits, asked.written_bytes) == (name, False, plan.written_bytes)
    assert asked.seconds == pytest.approx(plan.seconds, rel=1e-12)
    show_plan(plan)
    said = capsys.readouterr().out
    assert "asked for: " + {"factored": "stored, and factored", "centres": "of 9 centres"}[name] in said
    assert said.count("more than is free") == len(plan.ways)
    assert "no way fits the disk" in said
    monkeypatch.undo()
    run_small(**ONE, solve=solve)
    monkeypatch.setattr(LocalPath, "free_bytes", lambda path: 1000)
    assert runs.plan(small_config(**ONE, solve=solve)).ways == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inference", "allowed"),
    [
        ({"spectrum": 3}, ["factored", "stored"]),
        ({"ensemble": ["inf"]}, ["factored", "stored"]),
        ({"posterior_covariance": True, "posterior_variance": True}, ["factored"]),
        ({}, ["centres", "factored", "recomputed", "stored"]),
    ],
    ids=repr,
)
def test_a_plan_compares_no_way_that_the_workflow_would_refuse(
    small_config: Config, monkeypatch: pytest.MonkeyPatch, inference: dict[str, Any], allowed: list[str]
) -> None:
    monkeypatch.setattr("cntk_pipeline.workflow.plan.is_telling", lambda ways: True)
    centres = {"solver": "centres", "centres": 9}
    tables: dict[str, Any] = {"factored": {}, "stored": STORED, "recomputed": COMPUTED, "centres": centres}
    rest: dict[str, Any] = {"readouts": {"poolings": ["gap"]}, "inference": inference}
    for name in allowed:
        asked = small_config(**rest, solve={"ridges": [1.0]} | tables[name])
        assert {way.name for way in runs.plan(asked).ways} == set(allowed)
    for name in tables.keys() - set(allowed):
        with pytest.raises(ConfigError, match=next(iter(inference))):
            runs.plan(small_config(**rest, solve={"ridges": [1.0]} | tables[name]))


def test_a_pass_is_forecast_with_the_pairs_that_it_computes() -> None:
    size = SystemSize(1000, 10, 2, 100, 100, "float32", 1e10, kept=KeptTiles(10, 10), pair_seconds=1.0)
    solver, options = SOLVERS["cg"], ConjugateGradientOptions(kernel_bytes=0, rank=7)
    pairs = 1000 * 1001 / 2 * 45 / 55
    iteration = solver.forecast_iteration(size, options)
    assert iteration is not None
    assert pairs < iteration.product_seconds < pairs + 10
    assert {row.kind: row.core_seconds for row in solver.forecast(size, options)}["sketch"] == 7 * 1000
    stored = solver.forecast_iteration(replace(size, kept=None), ConjugateGradientOptions())
    assert stored is not None
    assert stored.product_seconds < 10


def test_room_is_counted_in_tiles_of_all_read_outs() -> None:
    kept = kept_tiles(SPECIFICATION, 5 * (4**2 * 4 + 4) - 1)
    assert kept is not None
    assert (kept.pieces, kept.room, kept.count) == (3, 4, 4)
    two = kept_tiles(replace(SPECIFICATION, readouts=2 * SPECIFICATION.readouts), 8 * (4**2 * 4 + 4))
    assert two is not None
    assert two.room == 4
    assert kept_tiles(SPECIFICATION, None) is None
