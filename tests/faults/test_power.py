"""The power fails at a random moment: whatever was not fsynced is dropped, cut short or zeroed, at random.

The operating system of the model keeps the bytes of a file as of its last fsync, and the names in a folder as of the
last fsync of that folder; of all else it writes some, and loses the rest. `make chaos` cuts it 200 times.

Seen to fail in 25 cuts: without the fsync of files in `_write_synced` (a damaged run.json), and without that of folders
in `write_whole` and `_make_folder` (tiles beyond the bound). Without that of folders in `make_whole` it does not fail
in 80: the data set has gaps then, and is written anew. A lost journal costs nothing: whole tiles are adopted.
"""

import contextlib
import os
import random
import shutil
import stat
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.faulty import Crash, FaultyPath, Plan, follow
from faults.test_every_operation import SMALL
from support.problems import Recorder, chunks_of
from support.restarts import forget

from cntk_pipeline.config import RunConfig
from cntk_pipeline.rundir import lease
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.storage import STORAGES
from cntk_pipeline.telemetry.events import Event
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

CASES = int(os.environ.get("CNTK_POWER_CUTS", "80"))


class Disk:
    """Remembers what is safe of a folder, and loses the rest of it.

    Parameters
    ----------
    root : Path
        Whose own name is safe.
    """

    def __init__(self, root: Path, rng: random.Random) -> None:
        self.root, self.rng, self.lost = root, rng, 0
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._held: list[int] = []  # so that no number of a file is given twice
        self._lock = threading.Lock()

    def fsync(self, descriptor: int) -> None:
        """Take the place of `os.fsync`."""
        status, place = os.fstat(descriptor), f"/proc/self/fd/{descriptor}"
        with self._lock:
            self._held.append(os.dup(descriptor))
            if stat.S_ISDIR(status.st_mode):
                self._names[status.st_ino] = {entry.name: entry.inode() for entry in os.scandir(os.readlink(place))}
            else:
                self._contents[status.st_ino] = Path(place).read_bytes()

    def fail(self) -> None:
        """Lose what is not safe."""
        self._lose_names(self.root)
        for descriptor in self._held:
            os.close(descriptor)
        self._held.clear()

    def _lose_names(self, folder: Path) -> None:
        safe = self._names.get(folder.stat().st_ino, {})
        there = {entry.name: entry for entry in os.scandir(folder)}
        for name in sorted(safe.keys() | there.keys()):
            entry, place = there.get(name), folder / name
            if entry is not None and safe.get(name) == entry.inode():
                self._lose_contents(place)
            elif self.rng.random() < 0.5:  # written, as it happens
                if entry is not None:
                    self._lose_contents(place)
            else:
                self.lost += 1
                if entry is not None:
                    shutil.rmtree(place) if entry.is_dir() else place.unlink()
                if safe.get(name) in self._contents:  # what it was before it was replaced or deleted
                    place.write_bytes(self._contents[safe[name]])

    def _lose_contents(self, place: Path) -> None:
        if place.is_dir():
            self._lose_names(place)
            return
        content, safe = place.read_bytes(), self._contents.get(place.stat().st_ino, b"")
        kept = len(safe) if content.startswith(safe) else 0
        if kept < len(content):
            self.lost += 1
            tail = len(content) - kept
            place.write_bytes(
                self.rng.choice(
                    (content, content[:kept], content[:kept] + bytes(tail), content[: kept + self.rng.randrange(tail)])
                )
            )


def begun_of(caplog: pytest.LogCaptureFixture) -> Counter[str]:
    """Count how often each tile was begun: the logs on the disk lose lines, those of this process do not."""
    events = (record.cntk for record in caplog.records if isinstance(getattr(record, "cntk", None), Event))
    return Counter(str(event.task) for event in events if event.name == "began")


@pytest.mark.timeout(1200)
def test_a_power_cut_costs_the_tile_in_flight(
    small_config: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(STORAGES, "", FaultyPath)
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 600.0)
    caplog.set_level("INFO", "cntk_pipeline.worker")
    counting = follow(Plan())
    runs.start(small_config(**SMALL, store={"path": str(tmp_path / "whole")}), Recorder(), threading.Event())
    truth, operations = chunks_of(tmp_path / "whole"), counting.count
    tiles = begun_of(caplog).keys()
    assert len(tiles) > 10
    forget()
    losses = recomputed = beyond = wrong = 0
    for case in range(CASES):
        rng = random.Random(case)
        (tmp_path / "disk").mkdir()
        disk, path = Disk(tmp_path / "disk", rng), tmp_path / "disk" / "runs" / "run"
        config = small_config(**SMALL, store={"path": str(path)})
        caplog.clear()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", disk.fsync)
            follow(Plan(crash_at=rng.randrange(1, operations - 10)))
            with contextlib.suppress(Crash):  # a run that is quicker than that comes to its end before
                runs.start(config, Recorder(), threading.Event())
            forget()
            disk.fail()
            losses += disk.lost
            patch.setattr(os, "fsync", lambda _: None)  # the power stays on
            follow(Plan())
            runs.start(config, Recorder(), threading.Event())
            forget()
        begun = begun_of(caplog)
        assert begun.keys() == tiles
        again = begun.total() - len(begun)
        recomputed, beyond = recomputed + again, beyond + max(again - 2, 0)
        assert make_report(RunDirectory(str(path))).complete
        found = chunks_of(path)
        assert found.keys() == truth.keys()
        wrong += sum(found[name] != content for name, content in truth.items())
        shutil.rmtree(tmp_path / "disk")
    print(
        f"{CASES} power cuts, {losses} names and contents lost, {recomputed} tiles recomputed, {beyond} beyond the "
        f"bound, {wrong} wrong numbers readable as done"
    )
    assert losses > CASES // 2
    assert recomputed
    assert (beyond, wrong) == (0, 0)
