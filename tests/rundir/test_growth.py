import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from obstore.store import MemoryStore
from support.problems import TEST, TRAIN, Recorder, flip_bit, stop_after, whole_matrix
from support.processes import kernel_tiles_begun

from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import ConfigError, Interrupted, RunNotFound, SpecificationMismatch, StoreError
from cntk_pipeline.gram import tiles as gram
from cntk_pipeline.gram.tiles import KERNEL_OWNERS
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.growth import Growth
from cntk_pipeline.storage import LocalPath, objects
from cntk_pipeline.tasks import Stage, Task
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report
from cntk_pipeline.workflow.wanted import OWNERS

pytestmark = pytest.mark.slow

Config = Callable[..., RunConfig]
Sections = dict[str, Any]
Compute = Callable[..., RunDirectory]
FLATTEN, GAP = "depth3-flatten-ntk", "depth3-gap-ntk"


def sections(**changes: Sections) -> Sections:
    """Give the sections of a run whose values do not change with more images; later ones replace or extend them."""
    given: Sections = {
        "data": {"standardize_first": 20},
        "readouts": {"poolings": ["flatten"], "kinds": ["ntk"]},
        "kernel": {"tile": 8},
        "solve": {"ridges": [0.3], "ridge_mode": "absolute", "tile": 16},
    }
    for name, values in changes.items():
        given[name] = given.get(name, {}) | values
    return given


@pytest.fixture
def compute(small_config: Config, tmp_path: Path) -> Compute:
    """Run the small problem to its end in a directory of some name, with ``sections`` changed."""

    def run(
        name: str, *, grow_from: str | None = None, view: Recorder | None = None, **changes: Sections
    ) -> RunDirectory:
        store = {"path": str(tmp_path / name), "grow_from": grow_from and str(tmp_path / grow_from)}
        config = small_config(**sections(**changes), store=store)
        return runs.start(config, view or Recorder(), threading.Event())

    return run


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep finished runs for the tests of this file."""
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture
def scratch(small_config: Config, shelf: Path) -> Callable[..., RunDirectory]:
    """Give a run from scratch with ``sections`` changed, computed once for all tests: read it only."""

    def give(**changes: Sections) -> RunDirectory:
        path = shelf / hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()[:16]
        if path.exists():
            return RunDirectory(path)
        return runs.start(small_config(**sections(**changes), store={"path": str(path)}), Recorder(), threading.Event())

    return give


@pytest.fixture
def older(scratch: Compute, tmp_path: Path) -> Callable[..., RunDirectory]:
    """Lay a run from scratch into this test's directory "old"."""

    def lay(**changes: Sections) -> RunDirectory:
        return RunDirectory(shutil.copytree(scratch(**changes).path, tmp_path / "old"))

    return lay


@pytest.fixture
def variant(small_npz: Path, tmp_path: Path) -> Callable[..., Sections]:
    """Write the small data set with some arrays replaced; gives the section that names it."""

    def write(**arrays: np.ndarray) -> Sections:
        path = tmp_path / f"variant{len(list(tmp_path.glob('variant*')))}.npz"
        np.savez(path, **(dict(np.load(small_npz)) | arrays))
        return {"path": str(path)}

    return write


def chunks(run: RunDirectory) -> dict[str, bytes]:
    """Read every chunk of the kernels and the solves, by its place in the run directory."""
    paths = [path for part in ("kernel.zarr", "solve") for path in (run.path / part).rglob("c/*") if path.is_file()]
    paths += [path for part in ("kernel.zarr", "solve") for path in (run.path / part).rglob("c/*/*") if path.is_file()]
    return {str(path.relative_to(run.path)): path.read_bytes() for path in paths}


def assert_same_bits(run: RunDirectory, scratch: RunDirectory) -> None:
    mine, its = chunks(run), chunks(scratch)
    assert run.fingerprint == scratch.fingerprint
    assert mine.keys() == its.keys()
    assert [place for place in its if mine[place] != its[place]] == []
    assert make_report(run).complete
    accuracies = [[solve.accuracy for solve in make_report(each).solves] for each in (run, scratch)]
    assert accuracies[0] == accuracies[1]


def computed(run: RunDirectory) -> dict[str, int]:
    """Count the tasks that were computed, by stage; those that were taken over are not."""
    receipts = {receipt.task: receipt for receipt in run.journal.receipts()}
    return dict(Counter(task.stage.kind for task, receipt in receipts.items() if not receipt.adopted))


def state(run: RunDirectory) -> dict[str, tuple[bytes, int]]:
    """Read all files of a run directory, and when they were written."""
    files = [path for path in run.path.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_appended_training_rows_compute_new_tiles_only_and_give_the_bits_of_a_run_from_scratch(
    compute: Compute,
    older: Compute,
    scratch: Compute,
) -> None:
    old = older(data={"train": 27})  # blocks of 8, 8, 8, 3: the ragged one is computed again
    before, view = state(old), Recorder()
    new = compute("new", grow_from="old", view=view)
    assert_same_bits(new, scratch())
    assert state(old) == before
    blocks = range(5)
    expected = [("train", row, col) for row in blocks for col in range(row + 1) if row > 2]
    expected += [("test", row, col) for row in range(2) for col in blocks if col > 2]
    assert kernel_tiles_begun(new) == sorted(expected)
    assert "taken over 6 of 15 tiles of train" in view.lines
    assert "taken over 6 of 10 tiles of test" in view.lines
    assert "taken over 2 of 2 tiles of variance" in view.lines
    common = "of its 27 training and 11 test images, 24 and 11 are the same here in whole tiles of 8"
    assert f"growing from {old.path}: {common}" in view.lines


def test_the_factor_grows_by_block_rows(compute: Compute, older: Compute, scratch: Compute) -> None:
    old, view = older(data={"train": 34}), Recorder()  # factor blocks of 16, 16, 2; the new ones end in 5
    new = compute("new", grow_from="old", view=view)
    # Block rows 0 and 1 are kept with their part of the forward solve.
    assert "taken over 5 of 9 tiles of factor" in view.lines
    assert computed(new) | {"train": 0, "test": 0} == {
        "train": 0,
        "test": 0,
        "factor": 3 + 1,
        "coefficients": 1,
        "mean": 2,
        "residual": 5,
    }
    assert_same_bits(new, scratch())
    solve = make_report(new).solves[0].name
    its = make_report(old).solves[0].name
    place = new.solved(solve, "factor").chunk_path(1, 0)
    assert os.path.samefile(place, old.solved(its, "factor").chunk_path(1, 0))


def test_other_labels_keep_the_factor_and_the_forward_solve_before_them(
    compute: Compute, older: Compute, scratch: Compute, variant: Callable[..., Sections], small_npz: Path
) -> None:
    labels = np.load(small_npz)["y_train"].copy()
    labels[20] = (labels[20] + 1) % 3
    older()
    view = Recorder()
    new = compute("new", grow_from="old", view=view, data=variant(y_train=labels))
    assert "taken over 7 of 9 tiles of factor" in view.lines  # all of L, and one of three blocks of the forward solve
    assert_same_bits(new, scratch(data=variant(y_train=labels)))


def test_appended_test_images_compute_their_rows_only(compute: Compute, older: Compute, scratch: Compute) -> None:
    older(data={"test": 8})
    view = Recorder()
    new = compute("new", grow_from="old", view=view)
    assert kernel_tiles_begun(new) == [("test", 1, col) for col in range(5)] + [("variance", 1, 0)]
    # The system is the same, so nothing is solved again; only new rows are predicted.
    assert computed(new) == {"test": 5, "variance": 1, "mean": 1}
    assert_same_bits(new, scratch())


PLAIN = {"standardize": False, "standardize_first": None}
DRAWN = {"centre_choice": "random", "centre_seed": 2}
CENTRES = {"solver": "centres", "centres": 12}  # of the second tile of columns, the first half


@pytest.mark.parametrize(
    ("before", "after", "kernel_tiles"),
    [
        ({"data": {"train": 20}, "solve": CENTRES}, {"solve": CENTRES}, {"train": 6, "train_variance": 3}),
        ({"solve": CENTRES}, {"solve": CENTRES | {"centres": 21}}, {"train": 7, "test": 4}),
        (
            {"data": {"train": 20}, "solve": CENTRES},
            {"solve": CENTRES | {"centres": 21}},
            {"train": 10, "train_variance": 2, "test": 4},
        ),
        (
            {"data": PLAIN, "solve": CENTRES | DRAWN | {"centre_seed": 5}},
            {"data": PLAIN, "solve": CENTRES | DRAWN | {"centre_seed": 5, "centres": 21}},
            {"train": 11, "train_variance": 2, "test": 4},
        ),
        ({}, {"solve": CENTRES | {"centres": 16}}, {}),
        ({"solve": CENTRES | {"centres": 16}}, {}, {"train": 6, "test": 6}),
    ],
    ids=["more rows", "more centres", "more of both", "more of a draw", "from the whole kernel", "to the whole kernel"],
)
def test_a_kernel_of_centres_grows_like_any_other(
    compute: Compute, older: Compute, scratch: Compute, before: Sections, after: Sections, kernel_tiles: dict[str, int]
) -> None:
    older(**before)
    new = compute("new", grow_from="old", **after)
    found = {kind: count for kind, count in computed(new).items() if kind in (owner.kind for owner in KERNEL_OWNERS)}
    assert found == kernel_tiles
    assert_same_bits(new, scratch(**after))


def test_centres_drawn_among_more_images_have_nothing_in_common(compute: Compute, older: Compute) -> None:
    drawn = {"solve": CENTRES | DRAWN}
    older(data={"train": 20}, **drawn)
    with pytest.raises(SpecificationMismatch, match='centre_choice = "random" draws among all training images'):
        compute("new", grow_from="old", **drawn)


def test_another_test_set_keeps_the_training_kernel_and_its_solution(
    compute: Compute, older: Compute, scratch: Compute, variant: Callable[..., Sections]
) -> None:
    images = np.random.default_rng(3).standard_normal((TEST, 6, 5, 2)).astype(np.float32)
    older()
    view = Recorder()
    new = compute("new", grow_from="old", view=view, data=variant(x_test=images))
    assert {stage for stage, _, _ in kernel_tiles_begun(new)} == {"test", "variance"}
    assert "taken over 0 of 10 tiles of test" in view.lines
    assert computed(new) == {"test": 10, "variance": 2, "mean": 2}
    assert_same_bits(new, scratch(data=variant(x_test=images)))


def test_a_new_readout_is_computed_alone(
    compute: Compute, older: Compute, scratch: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = older(readouts={"poolings": ["gap"]})
    evaluated, evaluate = [], gram._evaluate

    def watch(run_path: str, task: Task, numbers: tuple[int, ...]) -> object:
        evaluated.append(numbers)
        return evaluate(run_path, task, numbers)

    monkeypatch.setattr(gram, "_evaluate", watch)
    view = Recorder()
    new = compute("new", grow_from="old", view=view, readouts={"poolings": ["flatten", "gap"], "depths": [3, 4]})
    assert [readout.name for readout in new.specification.readouts].index(GAP) == 1
    assert set(evaluated) == {(0, 2, 3)}
    assert "taken over 0 of 15 tiles of train, and 1 of 4 read-outs of 15 more" in view.lines
    for index in ((0, 0), (4, 3)):
        places = [run.kernel(GAP, "train").chunk_path(*index) for run in (old, new)]
        assert os.path.samefile(*places)
    assert_same_bits(new, scratch(readouts={"poolings": ["flatten", "gap"], "depths": [3, 4]}))


def test_rows_test_images_and_readouts_grow_at_once_and_again(
    compute: Compute, older: Compute, scratch: Compute
) -> None:
    older(data={"train": 20, "test": 3}, readouts={"poolings": ["flatten"]})
    compute("middle", grow_from="old", data={"train": 27, "test": 8}, readouts={"kinds": ["nngp", "ntk"]})
    everything = {"readouts": {"depths": [4, 3], "kinds": ["nngp", "ntk"]}}
    view = Recorder()
    new = compute("new", grow_from="middle", view=view, **everything)
    assert "taken over 0 of 15 tiles of train, and 2 of 4 read-outs of 6 more" in view.lines
    assert_same_bits(new, scratch(**everything))


@pytest.mark.parametrize(("rows", "taken"), [(9, 1), (16, 3)])
def test_a_run_may_also_take_over_the_first_rows_of_a_larger_one(
    compute: Compute, older: Compute, scratch: Compute, rows: int, taken: int
) -> None:
    data = {"train": rows, "standardize_first": 8}
    older(data={"standardize_first": 8})
    view = Recorder()
    new = compute("new", grow_from="old", view=view, data=data)
    assert f"taken over {taken} of " in next(line for line in view.lines if line.endswith("of train"))
    assert_same_bits(new, scratch(data=data))


def test_a_relative_ridge_changes_with_the_rows_and_this_is_said(
    compute: Compute, older: Compute, scratch: Compute
) -> None:
    relative = {"ridges": [0.1], "ridge_mode": "relative"}
    both = {"poolings": ["flatten", "gap"]}
    older(data={"train": 34}, readouts=both, solve=relative)
    view = Recorder()
    new = compute("new", grow_from="old", view=view, readouts=both, solve=relative)
    assert "taken over 0 of 18 tiles of factor" in view.lines
    (line,) = (line for line in view.lines if "factor computed anew" in line)
    assert line.startswith(f"{FLATTEN}: ridge 0.1 (relative) is now ") or line.startswith(f"{GAP}: ridge 0.1")
    assert line.endswith("keeps it (likewise 1 more)")
    assert_same_bits(new, scratch(readouts=both, solve=relative))
    # What the line says is enough to keep it.
    absolute = {"ridges": [float(line.partition('"absolute" with ')[2].split()[0])], "ridge_mode": "absolute"}
    view = Recorder()
    compute("kept", grow_from="old", view=view, readouts=both, solve=absolute)
    assert "taken over 5 of 18 tiles of factor" in view.lines


def test_another_factor_tile_is_said_to_lose_the_factor(compute: Compute, older: Compute) -> None:
    older(data={"train": 34})
    view = Recorder()
    compute("new", grow_from="old", view=view, solve={"tile": 24})
    lost = "factor tiles of 16 are now 24: factor computed anew; solve.tile = 16 keeps it"
    assert any(line.endswith(lost) for line in view.lines)


def test_an_older_run_whose_solves_were_deleted_gives_its_kernel(
    compute: Compute, older: Compute, scratch: Compute
) -> None:
    shutil.rmtree(older(data={"train": 34}).path / "solve")
    view = Recorder()
    new = compute("new", grow_from="old", view=view)
    assert any(re.fullmatch(r"taken over [1-9]\d* of \d+ tiles of train", line) for line in view.lines), view.lines
    assert_same_bits(new, scratch())


@pytest.mark.parametrize(("ridge_mode", "tile"), [("absolute", 16), ("relative", 40)])
def test_tiles_that_are_to_be_chosen_are_those_of_the_older_run(
    compute: Compute, older: Compute, ridge_mode: str, tile: int
) -> None:
    older(data={"train": 34})
    automatic = {"kernel": {"tile": "auto"}, "solve": {"tile": "auto", "ridge_mode": ridge_mode}}
    new = compute("new", grow_from="old", **automatic)
    assert new.specification.tile == 8
    assert new.solved(make_report(new).solves[0].name, "factor").tile == (tile, tile)
    again = compute("new", **automatic)  # the workflow without its source
    assert make_report(again).complete
    assert len(make_report(again).solves) == len(list((again.path / "solve").iterdir()))


def test_a_factor_tile_that_is_far_too_small_is_not_followed(compute: Compute, older: Compute) -> None:
    older(data={"train": 34}, solve={"tile": 8})
    new = compute("new", grow_from="old", solve={"tile": "auto"})  # 40 would be chosen
    assert new.workflow().solve.tile == "auto"


def test_standardisation_by_more_images_is_named_with_the_key_that_keeps_it(
    compute: Compute, older: Compute, tmp_path: Path
) -> None:
    older(data={"train": 34, "standardize_first": None})
    with pytest.raises(
        SpecificationMismatch, match=r"(?s)nothing of .*old can.*data.standardize_first = 34 keeps them"
    ):
        compute("new", grow_from="old", data={"standardize_first": None})
    assert not (tmp_path / "new").exists()
    view = Recorder()
    compute("new", grow_from="old", view=view, data={"standardize_first": 34})
    assert "taken over 10 of 15 tiles of train" in view.lines


def test_pixels_that_were_not_standardised_are_named(compute: Compute, older: Compute) -> None:
    older(data={"standardize_first": None, "standardize": False})
    with pytest.raises(SpecificationMismatch, match=r"not standardised there: data.standardize = false keeps them"):
        compute("new", grow_from="old")


def test_a_shuffled_run_grows_by_the_rows_that_its_seed_draws_next(compute: Compute, older: Compute) -> None:
    older(data={"shuffle": 3, "train": 27})
    view = Recorder()
    new = compute("new", grow_from="old", view=view, data={"shuffle": 3, "train": 34})
    assert "taken over 6 of 15 tiles of train" in view.lines
    assert_same_bits(new, compute("scratch", data={"shuffle": 3, "train": 34}))


def test_another_order_by_another_seed_is_named(compute: Compute, older: Compute) -> None:
    older(data={"shuffle": 3})
    with pytest.raises(SpecificationMismatch, match=r"data\.shuffle was 3 there and is 4 here"):
        compute("new", grow_from="old", data={"shuffle": 4})
    with pytest.raises(SpecificationMismatch, match=r"data\.shuffle was 3 there and is none here"):
        compute("new", grow_from="old")


def test_a_shuffled_data_set_of_more_rows_is_said_to_have_another_order(
    compute: Compute, older: Compute, variant: Callable[..., Sections], small_npz: Path
) -> None:
    older(data={"shuffle": 3})
    arrays = np.load(small_npz)
    more = variant(**{key: np.concatenate([arrays[key]] * 2) for key in ("x_train", "y_train")})
    with pytest.raises(
        SpecificationMismatch, match=r"append others; data\.shuffle orders a data set of more rows anew"
    ):
        compute("new", grow_from="old", data=more | {"shuffle": 3})


def test_another_way_to_standardise_vectors_is_named(
    compute: Compute, older: Compute, variant: Callable[..., Sections], small_npz: Path
) -> None:
    arrays = np.load(small_npz)
    vectors = variant(**{key: arrays[key].reshape(len(arrays[key]), -1) for key in ("x_train", "x_test")})
    network = {"network": {"preset": "fully_connected"}, "readouts": {"poolings": []}}
    older(data=vectors | {"standardize": "per_feature"}, **network)
    with pytest.raises(SpecificationMismatch, match=r'otherwise: data\.standardize = "per_feature" keeps them'):
        compute("new", grow_from="old", data=vectors, **network)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": {"dtype": "float64"}}, "dtype: stored 'float32', wanted 'float64'"),
        ({"kernel": {"flips": True}}, "flips: stored False, wanted True"),
        ({"kernel": {"tile": 16}}, r'tile: stored 8, wanted 16 \(kernel.tile = "auto" follows the older run\)'),
        ({"readouts": {"depths": [5]}}, "readouts.depth3-flatten-ntk: only stored"),
        ({"data": {"train": 5, "standardize_first": 5}}, "data.standardize_first = 20 keeps them"),
    ],
)
def test_a_run_with_nothing_in_common_is_refused_before_anything_is_written(
    compute: Compute, older: Compute, tmp_path: Path, changes: Sections, message: str
) -> None:
    older()
    with pytest.raises(SpecificationMismatch, match=f"(?s)nothing of .*old can be taken over.*({message}).*leave out"):
        compute("new", grow_from="old", **changes)
    assert not (tmp_path / "new").exists()


def test_fewer_images_than_a_tile_are_said_to_be_too_few(compute: Compute, older: Compute) -> None:
    older(data={"train": 5, "standardize": False, "standardize_first": None})
    with pytest.raises(SpecificationMismatch, match="are the same, but in one of the runs they are fewer than a tile"):
        compute("new", grow_from="old", data={"standardize": False, "standardize_first": None})


def test_another_order_of_the_images_is_refused(
    compute: Compute, older: Compute, variant: Callable[..., Sections], small_npz: Path
) -> None:
    older(data={"standardize": False, "standardize_first": None})
    turned = variant(x_train=np.load(small_npz)["x_train"][::-1])
    with pytest.raises(SpecificationMismatch, match="differ in every tile: keep the older run's, in their order"):
        compute("new", grow_from="old", data=turned | {"standardize": False, "standardize_first": None})


def test_one_changed_image_loses_the_tiles_of_its_block_alone(
    compute: Compute, older: Compute, scratch: Compute, variant: Callable[..., Sections], small_npz: Path
) -> None:
    images = np.load(small_npz)["x_train"].copy()
    images[25, 2, 1, 0] += 1e-6  # block 3 of 8 samples, block 1 of the factor
    older()
    view = Recorder()
    new = compute("new", grow_from="old", view=view, data=variant(x_train=images))
    assert [tile for tile in kernel_tiles_begun(new) if 3 not in tile[1:]] == []
    assert "taken over 10 of 15 tiles of train" in view.lines
    assert "taken over 2 of 9 tiles of factor" in view.lines
    assert_same_bits(new, scratch(data=variant(x_train=images)))


def test_what_cannot_be_a_source_is_refused(compute: Compute, tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match="holds no run"):
        compute("new", grow_from="nowhere")
    with pytest.raises(ConfigError, match=r"is the run directory .*new itself: a grown run is a new one, name another"):
        compute("new", grow_from="new")
    assert not (tmp_path / "new").exists()


def test_an_unfinished_run_gives_what_it_has(
    compute: Compute, scratch: Compute, small_config: Config, tmp_path: Path
) -> None:
    for name, count in (("nothing", 0), ("old", 6)):
        view, stop = stop_after(count)
        with pytest.raises(Interrupted):
            runs.start(small_config(**sections(), store={"path": str(tmp_path / name)}), view, stop)
    with pytest.raises(SpecificationMismatch, match="none of its tiles is finished yet"):
        compute("new", grow_from="nothing")
    finished = {receipt.task for receipt in RunDirectory(tmp_path / "old").journal.receipts()}
    new = compute("new", grow_from="old")
    assert 0 < len(finished) < 27
    assert len(kernel_tiles_begun(new)) == 27 - len(finished)
    assert_same_bits(new, scratch())


def test_a_driver_at_work_on_the_older_run_is_mentioned(compute: Compute, older: Compute) -> None:
    old = older(data={"train": 34})
    lease = {"holder": "x", "host": "elsewhere", "pid": 1, "counter": 0}
    (old.lease_path / "000009.json").write_whole(json.dumps(lease).encode())
    view = Recorder()
    compute("new", grow_from="old", view=view)
    assert any("(elsewhere:1): what it finishes after this is not taken over" in line for line in view.lines)


@pytest.mark.parametrize("count", [0, 7, 22])
def test_a_takeover_that_was_interrupted_goes_on(
    compute: Compute, older: Compute, scratch: Compute, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: int
) -> None:
    old = older(data={"train": 34})
    before, done, share = state(old), [], LocalPath.share_with

    def link(source: LocalPath, target: LocalPath) -> None:
        if len(done) == count:
            raise KeyboardInterrupt
        done.append(target)
        share(source, target)

    monkeypatch.setattr(LocalPath, "share_with", link)
    with pytest.raises(KeyboardInterrupt):
        compute("new", grow_from="old")
    monkeypatch.undo()
    new = runs.resume(tmp_path / "new", Recorder(), threading.Event())
    assert [tile for tile in kernel_tiles_begun(new) if 4 not in tile[1:]] == []
    assert_same_bits(new, scratch())
    assert state(old) == before


def test_what_a_grown_run_mends_does_not_touch_the_older_one(
    compute: Compute, older: Compute, scratch: Compute
) -> None:
    old = older(data={"train": 34})
    new = compute("new", grow_from="old")
    before = state(old)
    factor = Stage("factor", solve=make_report(new).solves[0].name)
    for task in (Task(Stage("train"), 1, 0), Task(Stage("train"), 2, 2), Task(factor, 1, 0)):
        (array, index), *_ = OWNERS[task.stage.kind].places(new, task)
        assert os.stat(array.chunk_path(*index)).st_nlink == 2
        new.set_aside([array.chunk_path(*index)])
    runs.resume(new.path, Recorder(), threading.Event())
    assert state(old) == before
    assert_same_bits(new, scratch())


def test_a_damaged_tile_is_not_taken_over_twice(compute: Compute, older: Compute, scratch: Compute) -> None:
    old = older(data={"train": 34})
    path = old.kernel(FLATTEN, "train").chunk_path(1, 0)
    flip_bit(path)  # the disk's doing: whole in size
    new = compute("new", grow_from="old")
    assert ("train", 1, 0) in kernel_tiles_begun(new)  # the solve met it
    assert_same_bits(new, scratch())


def test_damage_that_both_runs_share_is_computed_and_not_taken_over_again(
    compute: Compute, older: Compute, scratch: Compute
) -> None:
    old = older(data={"train": 34})
    new = compute("new", grow_from="old")
    path = old.kernel(FLATTEN, "train").chunk_path(1, 0)
    with open(path, "r+b") as file:  # in place, as a disk would: a link shares it
        file.write(b"\x07")
    assert runs.verify(new.path).bad == (Task(Stage("train"), 1, 0),)
    again = runs.resume(new.path, Recorder(), threading.Event())
    assert ("train", 1, 0) in kernel_tiles_begun(again)
    assert_same_bits(again, scratch())


def test_a_damaged_tile_beside_a_new_readout_is_noticed(compute: Compute, older: Compute, scratch: Compute) -> None:
    both = {"readouts": {"poolings": ["flatten", "gap"]}}
    old = older(readouts={"poolings": ["gap"]})
    path = old.kernel(GAP, "train").chunk_path(1, 0)
    flip_bit(path)
    new = compute("new", grow_from="old", **both)
    assert not os.path.samefile(path, new.kernel(GAP, "train").chunk_path(1, 0))
    assert_same_bits(new, scratch(**both))


def test_a_tile_that_the_older_run_lost_is_computed(compute: Compute, older: Compute, scratch: Compute) -> None:
    old = older(data={"train": 34})
    old.kernel(FLATTEN, "train").chunk_path(1, 0).unlink()
    cut = old.kernel(FLATTEN, "train").chunk_path(1, 1)
    cut.write_bytes(cut.read_bytes()[:-1])
    new = compute("new", grow_from="old")
    assert [tile for tile in kernel_tiles_begun(new) if 4 not in tile[1:]] == [("train", 1, 0), ("train", 1, 1)]
    assert_same_bits(new, scratch())
    assert not (new.path / "quarantine").exists()


@pytest.fixture
def other_device(tmp_path: Path) -> Iterator[Path]:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    folder = Path(tempfile.mkdtemp(dir=memory))
    yield folder
    shutil.rmtree(folder)


def test_a_run_on_another_device_is_copied(
    compute: Compute, older: Compute, scratch: Compute, other_device: Path
) -> None:
    old = older(data={"train": 34})
    before = state(old)
    new = compute(str(other_device / "new"), grow_from="old")
    place = new.kernel(FLATTEN, "train").chunk_path(1, 0)
    assert place.stat().st_nlink == 1
    assert not [tile for tile in kernel_tiles_begun(new) if 4 not in tile[1:]]
    assert_same_bits(new, scratch())
    assert state(old) == before


@pytest.mark.parametrize("way", ["into a bucket", "out of a bucket"])
def test_a_run_grows_from_a_directory_into_a_bucket_and_back(
    scratch: Compute, small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    store, bucket = MemoryStore(), "s3://bucket/run"
    monkeypatch.setattr(objects, "_open_bucket", lambda *_: store)
    old, new = ("old", bucket) if way == "into a bucket" else (bucket, "new")

    def at(name: str, **more: str) -> Sections:
        return {"path": name if "://" in name else str(tmp_path / name)} | more

    before = runs.start(small_config(**sections(data={"train": 34}), store=at(old)), Recorder(), threading.Event())
    config = small_config(**sections(), store=at(new, grow_from=str(before.path)))
    grown = runs.start(config, view := Recorder(), threading.Event())
    assert [tile for tile in kernel_tiles_begun(grown) if 4 not in tile[1:]] == []
    assert any(line.startswith("taken over 10 of 15 tiles of train") for line in view.lines)
    np.testing.assert_array_equal(whole_matrix(grown, FLATTEN, "train"), whole_matrix(scratch(), FLATTEN, "train"))


def test_a_grown_run_is_resumed_with_and_without_its_source(
    older: Compute, scratch: Compute, small_config: Config, tmp_path: Path
) -> None:
    scratch = scratch()
    old = older(data={"train": 34})
    store = {"path": str(tmp_path / "new"), "grow_from": str(old.path)}
    view, stop = stop_after(2)
    with pytest.raises(Interrupted):
        runs.start(small_config(**sections(), store=store), view, stop)
    shutil.copytree(tmp_path / "new", tmp_path / "alone")
    view = Recorder()
    new = runs.resume(tmp_path / "new", view, threading.Event())
    assert [line for line in view.lines if "tiles of train" in line] == []
    assert "taken over 5 of 9 tiles of factor" in view.lines
    assert_same_bits(new, scratch)
    shutil.rmtree(old.path)
    view = Recorder()
    alone = runs.resume(tmp_path / "alone", view, threading.Event())
    assert f"{old.path} is gone: what was not taken over from it is computed" in view.lines
    assert_same_bits(alone, scratch)


def test_another_run_in_the_place_of_the_source_is_not_taken_for_it(compute: Compute, older: Compute) -> None:
    old = older(data={"train": 34})
    new = compute("new", grow_from="old")
    shutil.rmtree(old.path)
    older(kernel={"flips": True})
    view = Recorder()
    again = compute("new", grow_from="old", view=view, solve={"ridges": [0.3, 0.7]})
    assert f"{old.path} holds another run by now: what was not taken over from it is computed" in view.lines
    assert make_report(again).complete
    assert Growth.of(new) == Growth.of(again)


@pytest.mark.parametrize("field", ["train", "test", "targets", "factor_tile"])
def test_a_record_that_names_other_blocks_takes_no_tile_of_other_images_over(
    older: Compute, small_config: Config, tmp_path: Path, field: str
) -> None:
    older(data={"train": 34})
    store = {"path": str(tmp_path / "new"), "grow_from": str(tmp_path / "old")}
    runs.begin_elsewhere(small_config(**sections(), store=store), Recorder(), None)
    file = tmp_path / "new" / "growth.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {field: 8 if field == "factor_tile" else [0, 2]}))
    with pytest.raises(StoreError, match=r"growth\.json was edited: .* delete it: what is not taken over"):
        runs.resume(tmp_path / "new", Recorder(), threading.Event())
    file.unlink()
    assert make_report(runs.resume(tmp_path / "new", Recorder(), threading.Event())).complete


def test_a_grown_run_takes_nothing_over_again(compute: Compute, older: Compute) -> None:
    older(data={"train": 34})
    new = compute("new", grow_from="old")
    before, view = chunks(new), Recorder()
    again = compute("new", grow_from="old", view=view)
    assert not any("tak" in line or "grow" in line for line in view.lines)
    assert chunks(again) == before
    assert view.stages == []


def test_a_finished_run_may_be_given_a_source_later(compute: Compute, older: Compute) -> None:
    older(data={"train": 34})
    new = compute("new")
    count = len(kernel_tiles_begun(new))
    assert len(kernel_tiles_begun(compute("new", grow_from="old"))) == count
    assert new.train_cut.count == TRAIN


def test_a_plan_follows_the_tile_of_the_older_run(older: Compute, small_config: Config, tmp_path: Path) -> None:
    older(data={"train": 34})
    config = small_config(**sections(kernel={"tile": "auto"}), store={"grow_from": str(tmp_path / "old")})
    assert runs.plan(config).tile == 8


CG = {"solve": {"solver": "cg", "rank": 5}}


def test_what_iterations_came_to_is_taken_over_where_all_training_images_are_the_same(
    compute: Compute, older: Compute, scratch: Compute
) -> None:
    older(**CG, data={"test": 8})
    view = Recorder()
    new = compute("new", grow_from="old", view=view, solve=CG["solve"] | {"max_iterations": 77})
    assert_same_bits(new, scratch(**CG))
    assert computed(new) == {"test": 5, "variance": 1, "mean": 1}
    assert "taken over 1 of 1 tiles of coefficients" in view.lines
    assert not any(f"tiles of {stage}" in line for line in view.lines for stage in ("sketch", "product", "step"))
    quarantined = runs.verify(new.path).bad
    assert quarantined == ()
    again = runs.resume(new.path, Recorder(), threading.Event())
    assert computed(again) == {"test": 5, "variance": 1, "mean": 1}


def test_appended_training_rows_are_iterated_on_anew(compute: Compute, older: Compute, scratch: Compute) -> None:
    older(**CG, data={"train": 27})
    view = Recorder()
    new = compute("new", grow_from="old", view=view, **CG)
    assert_same_bits(new, scratch(**CG))
    assert computed(new)["step"] > 1
    assert "taken over 0 of 1 tiles of coefficients" in view.lines
    assert not any(f"tiles of {stage}" in line for line in view.lines for stage in ("sketch", "product", "step"))


def test_leading_rows_of_a_float32_factor_are_taken_over_and_those_in_float64_are_not(
    compute: Compute, older: Compute, scratch: Compute
) -> None:
    single = {"solve": {"factor_dtype": "float32"}}
    older(**single, data={"train": 32})
    new = compute("new", grow_from="old", **single)
    assert_same_bits(new, scratch(**single))
    assert computed(new)["factor"] == 3
    view = Recorder()
    compute("other", grow_from="old", view=view)
    assert "taken over 0 of 9 tiles of factor" in view.lines
    assert not any("factor tiles of" in line for line in view.lines)
