import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline import lease
from pipeline.errors import RunLocked


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 0.6)


@pytest.mark.usefixtures("quick")
def test_a_second_driver_is_refused_while_the_first_renews(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    with (
        lease.hold(path),
        pytest.raises(RunLocked, match=rf"another driver works on .*process {os.getpid()} on"),
        lease.hold(path),
    ):
        pass


@pytest.mark.usefixtures("quick")
def test_a_lease_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    for _ in range(2):
        with lease.hold(path):
            assert lease.holder(path) == f"{socket.gethostname()}:{os.getpid()}"
        assert not path.exists()


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.usefixtures("quick")
def test_the_lease_of_a_dead_process_on_this_host_is_taken_at_once(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    path.write_text(json.dumps({"holder": "x", "host": socket.gethostname(), "pid": dead_process(), "counter": 3}))
    assert lease.holder(path) is None
    began = time.monotonic()
    with lease.hold(path):
        assert time.monotonic() - began < lease.PATIENCE_SECONDS / 2


@pytest.mark.usefixtures("quick")
def test_the_lease_of_another_host_is_taken_when_its_counter_stands_still(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    path.write_text(json.dumps({"holder": "x", "host": "elsewhere", "pid": 1, "counter": 3}))
    began = time.monotonic()
    with lease.hold(path):
        assert time.monotonic() - began >= lease.PATIENCE_SECONDS


@pytest.mark.usefixtures("quick")
def test_a_garbled_lease_does_not_lock_a_run_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    path.write_text("{")
    with lease.hold(path):
        pass


@pytest.mark.usefixtures("quick")
def test_of_many_drivers_that_start_at_once_one_gets_the_lease(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    held, refused, release = [], [], threading.Event()

    def drive() -> None:
        try:
            with lease.hold(path):
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
