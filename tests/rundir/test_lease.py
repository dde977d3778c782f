import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from cntk_pipeline.errors import RunLocked, SpecificationMismatch, StoreError
from cntk_pipeline.resources import BatchJob
from cntk_pipeline.rundir import lease
from cntk_pipeline.storage import LocalPath


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 0.6)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renew quickly, and wait so long for a counter that whoever does not wait at all is told apart on any machine."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 60.0)


def left_behind(folder: LocalPath, **lease: object) -> None:
    """Write what a driver that is gone left."""
    (folder / "000003.json").write_whole(json.dumps({"holder": "x", "counter": 3} | lease).encode())


@pytest.mark.usefixtures("quick")
def test_a_second_driver_is_refused_while_the_first_renews(tmp_path: LocalPath) -> None:
    folder = tmp_path / "lease"
    with (
        lease.hold(folder),
        pytest.raises(RunLocked, match=rf"another driver works on .*process {os.getpid()} on"),
        lease.hold(folder),
    ):
        pass


@pytest.mark.usefixtures("quick")
def test_a_lease_is_given_back_and_numbers_go_on(tmp_path: LocalPath) -> None:
    folder = tmp_path / "lease"
    for _ in range(3):
        with lease.hold(folder):
            assert lease.holder(folder) == f"{socket.gethostname()}:{os.getpid()}"
        assert lease.holder(folder) is None
    assert [path.name for path in folder.children()] == ["000003.json"]


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.usefixtures("patient")
def test_the_lease_of_a_dead_process_on_this_host_is_taken_at_once(tmp_path: LocalPath) -> None:
    folder = tmp_path / "lease"
    left_behind(folder, host=socket.gethostname(), processes=lease._process_namespace(), pid=dead_process())
    assert lease.holder(folder) is None
    began = time.monotonic()
    with lease.hold(folder):
        assert time.monotonic() - began < lease.PATIENCE_SECONDS / 2


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "where",
    [
        {"host": "elsewhere", "processes": ""},
        {"host": socket.gethostname()},
        {},
        # Every machine has this number, and machines may share a name; earlier versions wrote no more.
        {"host": socket.gethostname(), "processes": os.readlink("/proc/self/ns/pid")},
    ],
)
def test_the_lease_of_whoever_cannot_be_asked_is_taken_when_its_counter_stands_still(
    tmp_path: LocalPath, where: dict[str, str]
) -> None:
    folder = tmp_path / "lease"
    left_behind(folder, pid=dead_process(), **where)  # dead here, which says nothing of another container's
    began = time.monotonic()
    with lease.hold(folder):
        assert time.monotonic() - began >= lease.PATIENCE_SECONDS


@pytest.mark.usefixtures("quick")
def test_a_garbled_lease_does_not_lock_a_run_for_ever(tmp_path: LocalPath) -> None:
    folder = tmp_path / "lease"
    (folder / "000001.json").write_whole(b"{")
    with lease.hold(folder):
        pass


@pytest.mark.usefixtures("quick")
def test_whoever_was_taken_for_dead_learns_it_and_writes_no_more(tmp_path: LocalPath) -> None:
    folder = tmp_path / "lease"
    with lease.hold(folder) as mine:
        (folder / "000002.json").write_whole(b'{"holder": "y", "host": "elsewhere", "pid": 1, "counter": 0}')
        assert mine.lost.wait(10)
        with pytest.raises(
            RunLocked, match=r"another driver has taken over .*: this one was taken for dead, and stops"
        ):
            mine.require()
        (folder / "000001.json").unlink()
    assert [path.name for path in folder.children()] == ["000002.json"]


@pytest.mark.usefixtures("quick")
def test_a_number_that_was_deleted_meanwhile_does_not_count_again(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lease"
    (folder / "000004.json").write_whole(b'{"holder": "y", "host": "elsewhere", "pid": 1, "counter": 0}')
    real, asked = lease._highest, []

    def late(folder: LocalPath) -> int:  # the first look was long ago, when number 1 had been given back
        asked.append(1)
        return 1 if len(asked) == 1 else real(folder)

    monkeypatch.setattr(lease, "_highest", late)
    monkeypatch.setattr(lease, "_require_free", lambda *_: None)
    with lease.hold(folder):
        assert [path.name for path in folder.children()] == ["000005.json"]


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_of_many_drivers_that_start_at_once_one_gets_the_lease(tmp_path: LocalPath) -> None:
    folder = tmp_path / "lease"
    held, refused, release = [], [], threading.Event()

    def drive() -> None:
        try:
            with lease.hold(folder):
                held.append(1)
                release.wait(10)
        except RunLocked:
            refused.append(1)
            if len(refused) == 7:
                release.set()

    threads = [threading.Thread(target=drive) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 7)


@pytest.mark.usefixtures("patient")
def test_a_batch_job_takes_over_at_once_from_its_former_self(tmp_path: LocalPath) -> None:
    folder = tmp_path / "lease"
    with lease.hold(folder, BatchJob("7", restarts=0)) as former:
        began = time.monotonic()
        with lease.hold(folder, BatchJob("7", restarts=1)) as latter:
            assert time.monotonic() - began < lease.PATIENCE_SECONDS / 2
            assert former.lost.wait(10)
            assert not latter.lost.is_set()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("other", [BatchJob("8", restarts=1), BatchJob("7", restarts=0), BatchJob("7", "pod"), None])
def test_neither_another_batch_job_nor_a_second_driver_of_the_same_one_takes_over(
    tmp_path: LocalPath, other: BatchJob | None
) -> None:
    folder = tmp_path / "lease"
    with (
        lease.hold(folder, BatchJob("7", restarts=0)),
        pytest.raises(RunLocked, match="another driver works on"),
        lease.hold(folder, other),
    ):
        pass


@pytest.mark.usefixtures("quick")
def test_a_run_directory_that_is_gone_is_told_and_not_begun_anew(tmp_path: LocalPath) -> None:
    run = tmp_path / "run"
    (run / lease.RUN_RECORD).write_whole(b"{}")
    with lease.hold(run / "lease") as mine:
        mine.require()
        run.rename(tmp_path / "elsewhere")
        assert mine.lost.wait(10)
        with pytest.raises(
            StoreError, match=r"run cannot be written any more: No such file.*bring it back, then `cntk"
        ):
            mine.require()
    assert not run.exists()


@pytest.mark.usefixtures("patient")
def test_the_lease_of_a_run_that_was_taken_back_is_given_back(tmp_path: LocalPath) -> None:
    """A run whose workflow was refused is begun again, corrected, by the same process."""
    run = tmp_path / "run"
    (run / lease.RUN_RECORD).write_whole(b"refused")
    with lease.hold(run / "lease"):
        (run / lease.RUN_RECORD).unlink()
    began = time.monotonic()
    (run / lease.RUN_RECORD).write_whole(b"corrected")
    with lease.hold(run / "lease"):
        assert time.monotonic() - began < lease.PATIENCE_SECONDS / 2


@pytest.mark.usefixtures("quick")
def test_a_driver_whose_run_was_deleted_leaves_the_next_run_there_alone(tmp_path: LocalPath) -> None:
    """Seen to fail where it is only asked whether a run is there: its higher number ends the driver of the next run."""
    run = tmp_path / "run"
    (run / lease.RUN_RECORD).write_whole(b"one")
    with lease.hold(run / "lease"):
        pass
    with lease.hold(run / "lease") as former:  # number 2
        run.rename(tmp_path / "elsewhere")
        (run / lease.RUN_RECORD).write_whole(b"another")
        with lease.hold(run / "lease") as latter:
            assert former.lost.wait(10)
            with pytest.raises(SpecificationMismatch, match=r"run holds another run by now, or none: .* not written"):
                former.require()
            assert not latter.lost.wait(lease.RENEW_SECONDS * 3)
            assert [path.name for path in (run / "lease").children()] == ["000001.json"]
    assert [path.name for path in (run / "lease").children()] == ["000001.json"]


@pytest.mark.usefixtures("quick")
def test_a_run_that_was_brought_back_from_a_copy_is_the_same(tmp_path: LocalPath) -> None:
    run = tmp_path / "run"
    (run / lease.RUN_RECORD).write_whole(b"one")
    with lease.hold(run / "lease") as mine:
        (tmp_path / "copy").write_whole((run / lease.RUN_RECORD).read_bytes())
        os.rename(tmp_path / "copy", run / lease.RUN_RECORD)
        assert not mine.lost.wait(lease.PATIENCE_SECONDS)


@pytest.mark.usefixtures("quick")
def test_a_store_that_refuses_ends_a_run_only_where_it_goes_on_to(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = threading.Event()
    write = LocalPath.write_whole

    def refuse(path: LocalPath, *parts: bytes) -> None:
        if refused.is_set():
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        write(path, *parts)

    monkeypatch.setattr(LocalPath, "write_whole", refuse)
    with lease.hold(tmp_path / "lease") as mine:
        refused.set()
        assert not mine.lost.wait(lease.PATIENCE_SECONDS / 2)
        refused.clear()
        assert not mine.lost.wait(lease.PATIENCE_SECONDS)
        refused.set()
        assert mine.lost.wait(10)
    with pytest.raises(StoreError, match=r"cannot be written any more: Read-only file system"):
        mine.require()


def put_back(file: LocalPath, seconds: float) -> None:
    """Let a file look older, or with less than 0 written in the future."""
    os.utime(file, (time.time() - seconds,) * 2)


def test_a_holder_elsewhere_that_is_silent_is_told_from_one_at_work(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.02)
    monkeypatch.setattr(lease, "WATCH_SECONDS", 0.1)
    file = tmp_path / "000003.json"
    left_behind(tmp_path, host="node9", pid=123)
    assert lease.look(tmp_path) == lease.Sighting("node9:123", None)
    assert lease.holder(tmp_path) == "node9:123"
    put_back(file, 3 * 3600)
    found = lease.look(tmp_path)
    assert found is not None
    assert found.name == "node9:123"
    assert found.silent_seconds == pytest.approx(3 * 3600, abs=60)
    assert lease.holder(tmp_path) is None
    monkeypatch.setattr(lease, "_moves", lambda *_: pytest.fail("it was watched"))
    assert lease.holder(tmp_path, watch=False) is None
    put_back(file, 25 * 3600)
    assert lease.holder(tmp_path) is None
    monkeypatch.undo()
    monkeypatch.setattr(lease, "WATCH_SECONDS", 0.1)
    put_back(file, -3 * 3600)  # its clock is ahead of this one, and nothing moves
    assert lease.look(tmp_path) == lease.Sighting("node9:123", 0.1)


@pytest.mark.usefixtures("quick")
def test_a_killed_driver_here_is_silent_although_its_number_is_another_process_by_now(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "WATCH_SECONDS", 0.1)
    here = {"host": socket.gethostname(), "processes": lease._process_namespace(), "pid": os.getpid()}
    name = f"{socket.gethostname()}:{os.getpid()}"
    left_behind(tmp_path, **here)
    assert lease.look(tmp_path) == lease.Sighting(name, None)
    put_back(tmp_path / "000003.json", 2 * 3600)
    found = lease.look(tmp_path)
    assert found is not None
    assert (found.name, found.silent_seconds) == (name, pytest.approx(2 * 3600, abs=60))
    monkeypatch.setattr(lease, "_moves", lambda *_: pytest.fail("a list of runs would wait"))
    assert lease.holder(tmp_path, watch=False) == name  # where clocks differ, a driver at work is no silent one


def test_a_holder_whose_clock_is_wrong_is_at_work_as_long_as_its_counter_moves(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.02)
    monkeypatch.setattr(lease, "WATCH_SECONDS", 60.0)
    left_behind(tmp_path, host="node9", pid=123)
    put_back(tmp_path / "000003.json", 3 * 3600)
    done = threading.Event()

    def renew() -> None:
        counter = 3
        while not done.wait(0.02):
            counter += 1
            left_behind(tmp_path, host="node9", pid=123, counter=counter)
            put_back(tmp_path / "000003.json", 3 * 3600)

    renewer = threading.Thread(target=renew)
    renewer.start()
    try:
        assert lease.look(tmp_path) == lease.Sighting("node9:123", None)
    finally:
        done.set()
        renewer.join()


def test_without_a_number_of_its_start_a_machine_still_tells_containers_apart(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = os.readlink("/proc/self/ns/pid")

    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, "not for containers", path)

    monkeypatch.setattr(lease, "open", refuse, raising=False)
    assert lease._process_namespace() == namespace
    left_behind(tmp_path, host=socket.gethostname(), processes="pid:[1]", pid=dead_process())
    assert lease.holder(tmp_path) is not None
    left_behind(tmp_path, host=socket.gethostname(), processes=namespace, pid=dead_process())
    assert lease.holder(tmp_path) is None
