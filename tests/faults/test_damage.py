"""What lies on the disk is changed behind the back of a run: nothing wrong is ever read as done.

Seen to fail: without the comparison of checksums (flips, zeros), without that and both of sizes (truncated), without
that of what a receipt says (swapped chunks), with damaged JSON that is no error of the package (records), with lines
of the journal taken without their checksums, and without the look for the chunks of the data set.
"""

import gc
import itertools
import os
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.garbling import flip
from support.problems import Recorder
from support.restarts import forget

from cntk_pipeline import datasets
from cntk_pipeline.clusters import WorkerMemory
from cntk_pipeline.clusters.memory import PROCESS_BYTES, USABLE
from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import ConfigError, PipelineError, StoreError
from cntk_pipeline.gram.tiles import kernel_jobs
from cntk_pipeline.rundir import owners, stored_data, verification
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.storage import LocalPath
from cntk_pipeline.tasks import Stage, Task
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

pytestmark = pytest.mark.usefixtures("no_waiting")

FLIPS, OTHERS = (500, 20) if "CNTK_DAMAGES" in os.environ else (150, 10)
"""Flipped bits; and swaps, and garbled files of each record."""

Contents = dict[str, bytes]
Damage = Callable[[bytes, random.Random], bytes]

SMALL = {
    "data": {"train": 12, "test": 3},
    "readouts": {"depths": [3], "poolings": ["flatten"], "kinds": ["ntk"]},
    "kernel": {"tile": 8},
    "solve": {"ridges": [1e-2], "tile": 8},
}


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(1, len(content))]


def empty(content: bytes, rng: random.Random) -> bytes:
    return b""


def lengthen(content: bytes, rng: random.Random) -> bytes:
    return content + rng.randbytes(rng.randint(1, 40))


def zero(content: bytes, rng: random.Random) -> bytes:
    return bytes(len(content))


def garble(content: bytes, rng: random.Random) -> bytes:
    return rng.choice((cut, empty, flip, lengthen, lambda *_: b"[]", lambda *_: b'{"shape": [3]}'))(content, rng)


def is_chunk(path: Path) -> bool:
    return "c" in path.parts and path.is_file()


def chunks(path: Path) -> Contents:
    """Read the chunks of tiles, which the journal vouches for."""
    found = [file for part in ("kernel.zarr", "solve") for file in (path / part).rglob("*") if is_chunk(file)]
    return {str(file.relative_to(path)): file.read_bytes() for file in found}


@pytest.fixture
def whole(small_config: Callable[..., RunConfig], tmp_path: Path) -> Path:
    """A finished run, to be copied and damaged."""
    path = tmp_path / "whole"
    runs.start(small_config(**SMALL, store={"path": str(path)}), Recorder(), threading.Event())
    forget()
    return path


def copied(whole: Path, where: Path) -> Path:
    shutil.rmtree(where, ignore_errors=True)
    shutil.copytree(whole, where)
    return where


@pytest.mark.parametrize(
    ("damage", "count"), [(flip, FLIPS), (cut, 100), (empty, 20), (lengthen, 20), (zero, 20)], ids=lambda x: str(x)[:14]
)
def test_a_damaged_chunk_is_found_and_computed_again(whole: Path, tmp_path: Path, damage: Damage, count: int) -> None:
    rng, truth = random.Random(count), chunks(whole)
    path = copied(whole, tmp_path / "run")
    unseen, damaged = 0, set()
    for _ in range(count):
        name = rng.choice(sorted(truth))
        (path / name).write_bytes(damage(truth[name], rng))
        bad = runs.verify(str(path)).bad
        if bad:
            damaged.add(name)
        else:
            unseen += 1
        target = path / name
        assert not bad or not target.exists(), f"{name} is damaged and readable as done"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(truth[name])
    for name in damaged:  # all at once, for a run to repair
        (path / name).write_bytes(damage(truth[name], rng))
    runs.resume(str(path), Recorder(), threading.Event(), verify=True)
    wrong = sum(content != truth[name] for name, content in chunks(path).items())
    assert chunks(path).keys() == truth.keys()
    print(
        f"{count} faults injected, 0 tiles recomputed beyond the bound, {unseen + wrong} wrong numbers readable as done"
    )
    assert (unseen, wrong) == (0, 0)


@pytest.mark.parametrize("verify", [True, False], ids=["verified", "resumed"])
def test_chunks_that_changed_places_are_found_by_their_receipts(
    whole: Path, tmp_path: Path, verify: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalPath, "at_once", 4)  # threads look, as they do for a large run in a bucket
    monkeypatch.setattr(verification, "_TASKS_A_TURN", 2)
    rng, truth = random.Random(0), chunks(whole)
    alike: dict[int, list[str]] = {}
    for name in sorted(truth):
        alike.setdefault(len(truth[name]), []).append(name)
    unseen = count = 0
    while count < OTHERS:
        one, other = rng.sample(rng.choice([names for names in alike.values() if len(names) > 1]), 2)
        if truth[one] == truth[other]:
            continue
        count += 1
        path = copied(whole, tmp_path / "run")
        (path / one).write_bytes(truth[other])
        (path / other).write_bytes(truth[one])
        if verify:
            bad = runs.verify(str(path)).bad
            unseen += 2 - len(bad)
            assert not (path / one).exists()
            assert not (path / other).exists()
        else:
            runs.resume(str(path), Recorder(), threading.Event())
            unseen += sum(content != truth[name] for name, content in chunks(path).items())
            assert chunks(path).keys() == truth.keys()
    print(f"{count} faults injected, 0 tiles recomputed beyond the bound, {unseen} wrong numbers readable as done")
    assert unseen == 0


@pytest.mark.parametrize("what", ["run.json", "workflow.json", "journal", "lease", "zarr.json", "solve.json"])
def test_damaged_records_are_named_or_done_without_and_never_written_over(
    whole: Path, tmp_path: Path, what: str
) -> None:
    rng, truth = random.Random(what), chunks(whole)
    named = mended = wrong = 0
    for _ in range(OTHERS):
        path = copied(whole, tmp_path / "run")
        place = path / what
        files = [place] if place.is_file() else sorted(place.iterdir()) if place.is_dir() else sorted(path.rglob(what))
        file = rng.choice(files)
        file.write_bytes(garble(file.read_bytes(), rng))
        before = file.read_bytes()
        forget()
        try:
            runs.resume(str(path), Recorder(), threading.Event(), verify=True)
        except PipelineError:
            named += 1
            assert what in ("journal", "lease") or file.read_bytes() == before, f"{file} was written over"
            continue
        mended += 1
        found = chunks(path)
        wrong += sum(found.get(name) != content for name, content in truth.items())
        assert make_report(RunDirectory(str(path))).complete
    print(
        f"{what}: {named + mended} faults injected, {named} named, {mended} done without, "
        f"{wrong} wrong numbers readable as done"
    )
    assert wrong == 0


@pytest.mark.parametrize("data", ["at hand", "away", "another"])
def test_a_damaged_chunk_of_the_data_set_is_written_anew_or_named_and_not_read_as_zeros(
    small_config: Callable[..., RunConfig], small_npz: Path, tmp_path: Path, data: str
) -> None:
    source, whole = tmp_path / "data.npz", tmp_path / "whole"
    shutil.copy(small_npz, source)
    sections = SMALL | {"data": SMALL["data"] | {"path": str(source)}}
    runs.start(small_config(**sections, store={"path": str(whole)}), Recorder(), threading.Event())
    if data == "away":
        source.unlink()
    elif data == "another":
        with np.load(small_npz) as arrays:
            np.savez(source, **dict(arrays) | {"y_train": arrays["y_train"][::-1]})
    files = [file for file in sorted((whole / "inputs.zarr").rglob("*")) if is_chunk(file)]
    said = {"away": "cannot be written anew: .*data.npz", "another": "the data set that the workflow names is another"}
    for file, damage in itertools.product(files, (None, flip, cut, empty)):
        path = copied(whole, tmp_path / "run")
        chunk, content = path / file.relative_to(whole), file.read_bytes()
        if damage is None:
            chunk.unlink()
        else:
            chunk.write_bytes(damage(content, random.Random(1)))
        forget()
        assert runs.verify(str(path)).lost == (LocalPath(chunk),)
        if data == "at hand":
            runs.resume(str(path), Recorder(), threading.Event())
            assert chunk.read_bytes() == content
        else:
            with pytest.raises(StoreError, match=rf"{file.relative_to(whole)} is gone or damaged, and .*{said[data]}"):
                runs.resume(str(path), Recorder(), threading.Event())
    print(f"{4 * len(files)} faults injected, 0 tiles recomputed beyond the bound, 0 wrong numbers readable as done")
    assert len(files) >= 4


def test_a_data_set_that_comes_out_with_other_bits_here_is_not_mixed_with_what_is_stored(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole / "inputs.zarr/test_images/c/0/0/0/0").unlink()
    standardize = datasets.standardize

    def elsewhere(*arguments: Any) -> Any:
        data, statistics = standardize(*arguments)
        train = replace(data.train, images=np.nextafter(data.train.images, np.inf, dtype=data.train.images.dtype))
        return replace(data, train=train), statistics

    monkeypatch.setattr(datasets, "standardize", elsewhere)
    forget()
    with pytest.raises(StoreError, match=r"cannot be written anew: standardised here, the images have other bits"):
        runs.resume(str(whole), Recorder(), threading.Event())
    assert not (whole / "inputs.zarr/test_images/c/0/0/0/0").exists()


def test_a_lost_chunk_of_the_kernel_is_computed_again_from_images_that_are_checked_first(
    whole: Path, tmp_path: Path
) -> None:
    """Seen to fail where receipts alone told whether a tile is there."""
    truth = chunks(whole)
    lost = [name for name in sorted(truth) if name.startswith("kernel.zarr")]
    images = next(file for file in sorted((whole / "inputs.zarr/train_images").rglob("*")) if is_chunk(file))
    content = images.read_bytes()
    for name, damage in itertools.product(lost, (None, cut)):
        path = copied(whole, tmp_path / "run")
        if damage is None:
            (path / name).unlink()
        else:
            (path / name).write_bytes(damage(truth[name], random.Random(1)))
        (path / images.relative_to(whole)).write_bytes(flip(content, random.Random(2)))
        shutil.rmtree(path / "solve")  # so that no look at finished tiles comes before
        forget()
        runs.resume(str(path), Recorder(), threading.Event())
        assert (path / images.relative_to(whole)).read_bytes() == content
        assert chunks(path) == truth
    print(f"{2 * len(lost)} faults injected, 0 tiles recomputed beyond the bound, 0 wrong numbers readable as done")


@pytest.mark.parametrize("solve", [{}, {"solver": "centres", "centres": 9, "centre_choice": "rpcholesky"}], ids=str)
def test_images_behind_the_first_chunk_are_checked_before_a_lost_tile_is_computed_again(
    small_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, solve: dict[str, Any]
) -> None:
    """Seen to fail with centres that the kernel draws, whose tiles are computed before those of other runs."""
    monkeypatch.setattr(stored_data, "CHUNK_BYTES", 64)
    run = runs.start(small_config(solve=solve), Recorder(), threading.Event())
    path = Path(run.path)
    truth, images = chunks(path), sorted(filter(is_chunk, (path / "inputs.zarr/train_images").rglob("*")))[-1]
    content = images.read_bytes()
    lost = sorted(name for name in truth if name.startswith("kernel.zarr") and "/train/" in name)[-1]
    (path / lost).unlink()
    images.write_bytes(flip(content, random.Random(2)))
    shutil.rmtree(path / "solve")
    forget()
    assert make_report(runs.resume(str(path), Recorder(), threading.Event())).complete
    assert images.read_bytes() == content
    assert chunks(path) == truth


def test_a_damaged_first_chunk_of_the_images_is_written_anew_though_no_pair_is_left_to_compute(
    whole: Path, tmp_path: Path
) -> None:
    """Each worker reads it to test its engine. Seen to fail where only lost chunks were looked for."""
    path = copied(whole, tmp_path / "run")
    images = next(file for file in sorted((path / "inputs.zarr/train_images").rglob("*")) if is_chunk(file))
    content = images.read_bytes()
    images.write_bytes(flip(content, random.Random(2)))
    shutil.rmtree(path / "solve")
    forget()
    runs.resume(str(path), Recorder(), threading.Event())
    assert images.read_bytes() == content
    assert chunks(path) == chunks(whole)


def test_a_lost_chunk_of_the_kernel_is_computed_again_only_by_workers_with_memory_for_it(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = WorkerMemory(int((1e5 + PROCESS_BYTES) / USABLE), 1)  # enough for a factor of such tiles
    monkeypatch.setattr("cntk_pipeline.clusters.serial.SerialExecutor.memory", lambda self: memory)
    shutil.rmtree(whole / "solve")
    assert make_report(runs.resume(str(whole), Recorder(), threading.Event())).complete
    shutil.rmtree(whole / "solve")
    next(file for file in (whole / "kernel.zarr").rglob("*") if is_chunk(file)).unlink()
    with pytest.raises(ConfigError, match="a kernel tile of 8 samples holds"):
        runs.resume(str(whole), Recorder(), threading.Event())


def test_no_more_chunks_are_asked_at_once_than_the_store_takes() -> None:
    """Seen to fail where arrays were asked in turn, each with threads of its own."""
    lock, busy, most = threading.Lock(), 0, 0

    class Array:
        def checksums(self, indices: list[tuple[int, ...]]) -> list[int]:
            nonlocal busy, most
            with lock:
                busy += 1
                most = max(most, busy)
            time.sleep(0.02)
            with lock:
                busy -= 1
            return [0] * len(indices)

    arrays: list[Any] = [Array() for _ in range(4)]
    tasks = [(Task(Stage("train"), 0, k), [(array, (0, k)) for array in arrays], [0] * 4) for k in range(512)]
    assert all(verification._match(tasks, at_once=4))
    assert most == 4


def test_garbage_is_not_collected_while_finished_tiles_are_looked_up(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, match = [], verification._match

    def watched(*given: Any) -> Any:
        found.append(gc.isenabled())
        return match(*given)

    monkeypatch.setattr(verification, "_match", watched)
    run = RunDirectory(whole)
    assert verification.finished(run, list(kernel_jobs(run)))[0]
    assert found == [False]
    assert gc.isenabled()
    monkeypatch.setattr(verification, "_match", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        verification.finished(run, list(kernel_jobs(run)))
    assert gc.isenabled()


def test_a_resume_lists_the_chunks_of_a_whole_kernel_once(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a million tiles, each listing takes seconds. Seen to fail where chunks were listed before the look-up too."""
    monkeypatch.setattr(owners, "SWEEP_TASKS", 1)
    listed, sizes = Counter[str](), LocalPath.sizes

    def counted(path: LocalPath) -> Any:
        listed[str(path)] += 1
        return sizes(path)

    monkeypatch.setattr(LocalPath, "sizes", counted)
    shutil.rmtree(whole / "solve")
    forget()
    runs.resume(str(whole), Recorder(), threading.Event())
    kernel = {path: count for path, count in listed.items() if "kernel.zarr" in path}
    assert len(kernel) == 4
    assert set(kernel.values()) == {1}
