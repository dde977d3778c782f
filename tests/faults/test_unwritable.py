"""The store becomes read-only, or is gone, before a run or in the middle of one: that is told, and nothing is lost.

Seen to fail: with a lease that bears every failure to renew it (`TilesFailed`, once all tiles were tried), and with
one that is renewed where the run directory is gone (which begins it anew in its place).
"""

import os
import random
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from faults.test_every_operation import SMALL, again
from support.problems import Recorder, chunks_of
from support.restarts import forget

from cntk_pipeline.config import RunConfig
from cntk_pipeline.driver.driver import Progress
from cntk_pipeline.errors import RunNotFound, StoreError
from cntk_pipeline.rundir import lease
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

TIMES = 10

Config = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.02)
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 0.1)
    yield
    forget()


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Let nobody write to a folder: by a mount over it for root, who may write wherever the file system lets them."""
    if os.geteuid() == 0:
        if subprocess.run(["mount", "--bind", str(path), str(path)], capture_output=True).returncode:
            pytest.skip("nothing can be mounted here")
        undo = ["umount", str(path)]
        while subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], capture_output=True).returncode:
            pass  # the lease is just being renewed through it
    else:
        subprocess.run(["chmod", "-R", "a-w", str(path)], check=True)
        undo = ["chmod", "-R", "u+w", str(path)]
    try:
        yield
    finally:
        subprocess.run(undo, check=True)


@contextmanager
def gone(path: Path) -> Iterator[None]:
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    try:
        yield
    finally:
        assert not path.exists(), f"{sorted(path.rglob('*'))[-1]} was made where the run is gone"
        elsewhere.rename(path)


class Breaking(Recorder):
    """Does something to the store when so many tiles are done."""

    def __init__(self, count: int, enter: Callable[[], object]) -> None:
        super().__init__()
        self.left, self.enter = count, enter

    def progress(self, progress: Progress) -> None:
        super().progress(progress)
        self.left -= progress.receipt is not None
        if self.left == 0:
            self.left = -1
            self.enter()


@pytest.fixture
def truth(small_config: Config, tmp_path: Path) -> dict[str, bytes]:
    runs.start(small_config(**SMALL, store={"path": str(tmp_path / "whole")}), Recorder(), threading.Event())
    forget()
    return chunks_of(tmp_path / "whole")


def test_a_store_that_cannot_be_written_is_refused_before_anything_is_computed(
    small_config: Config, tmp_path: Path
) -> None:
    config = small_config(**SMALL, store={"path": str(tmp_path / "disk" / "run")})
    (tmp_path / "disk").mkdir()
    refusal = r"could not be begun: (Read-only file system|Permission denied)\. Nothing is computed yet: mend that"
    with read_only(tmp_path / "disk"), pytest.raises(StoreError, match=refusal):
        runs.start(config, Recorder(), threading.Event())
    assert list((tmp_path / "disk").iterdir()) == []
    runs.begin_elsewhere(config, Recorder(), None)  # everything but the tiles
    refusal = r"cannot be read or written: (Read-only file system|Permission denied).*kept.*then the same command again"
    for begin in (
        lambda: runs.start(config, Recorder(), threading.Event()),
        lambda: runs.resume(tmp_path / "disk" / "run", Recorder(), threading.Event()),
    ):
        with read_only(tmp_path / "disk"), pytest.raises(StoreError, match=refusal):
            begin()
    assert not (tmp_path / "disk" / "run" / "log").exists()
    with gone(tmp_path / "disk"), pytest.raises(RunNotFound, match="holds no run"):
        runs.resume(tmp_path / "disk" / "run", Recorder(), threading.Event())


@pytest.mark.parametrize("how", [read_only, gone])
def test_a_store_that_is_lost_in_the_middle_of_a_run_costs_the_tile_in_flight(
    small_config: Config, tmp_path: Path, truth: dict[str, bytes], how: Callable[[Path], AbstractContextManager[None]]
) -> None:
    rng, recomputed, beyond, wrong = random.Random(how.__name__), 0, 0, 0
    for _ in range(TIMES):
        path = tmp_path / "disk" / "run"
        shutil.rmtree(tmp_path / "disk", ignore_errors=True)
        config = small_config(**SMALL, store={"path": str(path)})
        broken = how(path)
        # Between the stages, after the sixth tile, new arrays would be made where it was.
        view = Breaking(rng.choice([1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]), broken.__enter__)
        try:
            with pytest.raises(StoreError, match=r"cannot be (read or )?written|is gone") as caught:
                runs.start(config, view, threading.Event())
            assert str(path) in str(caught.value)
        finally:
            forget()
            broken.__exit__(None, None, None)
        runs.resume(path, Recorder(), threading.Event())
        forget()
        assert make_report(RunDirectory(path)).complete
        recomputed += again(path)
        beyond += max(again(path) - 4, 0)  # one tile in flight, which is tried up to four times
        found = chunks_of(path)
        wrong += sum(found.get(name) != content for name, content in truth.items())
    print(
        f"{how.__name__}: {TIMES} faults injected, {recomputed} tiles recomputed, {beyond} beyond the bound, "
        f"{wrong} wrong numbers readable as done"
    )
    assert (beyond, wrong) == (0, 0)
