import errno
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.problems import SPECIFICATION, Recorder, owner_of, stop_at

from cntk_pipeline.clusters import Completion, Executor
from cntk_pipeline.clusters.dask.on_worker import Preparation
from cntk_pipeline.clusters.local.submitter import _without_waiting
from cntk_pipeline.clusters.table import current_job
from cntk_pipeline.config import RunConfig
from cntk_pipeline.driver.driver import Driver
from cntk_pipeline.driver.observed import LOGS_KEPT, Observed
from cntk_pipeline.errors import Interrupted, TilesFailed
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.journal import Journal
from cntk_pipeline.rundir.owners import Job
from cntk_pipeline.storage import open_path
from cntk_pipeline.storage.lacking import _claim
from cntk_pipeline.tasks import Receipt, Stage, Task
from cntk_pipeline.telemetry.driver_log import find_executor
from cntk_pipeline.telemetry.events import EVENTS, Event, RunLog, attach, attached, describe_error, emit, listeners
from cntk_pipeline.telemetry.redaction import redact
from cntk_pipeline.workflow import run as runs

Run = Callable[..., RunDirectory]
TILE = Task(Stage("train"), 2, 1)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for file in folder.glob("*.jsonl") for line in file.read_text().splitlines()]
    return sorted(lines, key=lambda line: line["time"])


def named(lines: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["event"] == event]


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    return RunLog("RUN", open_path(tmp_path / "log"), "0123456789abcdef" * 4)


def test_a_line_says_when_what_where_and_of_which_run(log: RunLog, tmp_path: Path) -> None:
    before = time.time()
    with attached(log):
        emit(Event("retry", TILE, "OSError: flaky", {"attempt": 1, "delay_seconds": 0.5}))
    (line,) = lines_of(tmp_path / "log")
    assert before <= line.pop("time") <= time.time()
    assert line == {
        "level": "warning",
        "event": "retry",
        "stage": "train",
        "row": 2,
        "col": 1,
        "attempt": 1,
        "delay_seconds": 0.5,
        "error": "OSError: flaky",
        "run": "0123456789abcdef",
        "worker": f"{os.uname().nodename}-{os.getpid()}",
    }


@pytest.mark.parametrize(
    ("environment", "fields"),
    [
        ({"SLURM_JOB_ID": "4711"}, {"job": "4711", "restart": 0}),
        ({"SLURM_JOB_ID": "4711", "SLURM_RESTART_COUNT": "2"}, {"job": "4711", "restart": 2}),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "POD_NAME": "worker-7"}, {"pod": "worker-7"}),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, {"pod": os.uname().nodename}),
    ],
)
def test_a_line_names_the_batch_job(
    environment: dict[str, str], fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with attached(RunLog("RUN", open_path(tmp_path / "log"), "f" * 64, current_job())):
        emit(Event("began", TILE))
    (line,) = lines_of(tmp_path / "log")
    assert {name: line.get(name) for name in fields} == fields


def test_a_run_in_a_batch_job_names_it_in_its_log_and_its_lease(
    run_small: Callable[..., RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    run = run_small()
    lines = lines_of(Path(run.path / "log"))
    assert {(line["job"], line["restart"]) for line in lines} == {("4711", 0)}
    (lease,) = Path(run.path / "lease").iterdir()
    held = json.loads(lease.read_text())
    assert (held["job"], held["restarts"]) == ("4711", 0)


def test_dasks_warnings_join_in_without_credentials(log: RunLog, tmp_path: Path) -> None:
    with attached(log):
        logging.getLogger("distributed.worker").warning("cannot reach %s", "tls://me:pw@host:8786")
        logging.getLogger("distributed.worker").info("started")
    (line,) = lines_of(tmp_path / "log")
    assert (line["event"], line["level"], line["logger"]) == ("library", "warning", "distributed.worker")
    assert line["message"] == "cannot reach tls://***@host:8786"


SECRETS = [
    "https://alice:s3cr3t@host/bucket",
    "s3://AKIAIOSFODNN7EXAMPLE:s3cr3t@bucket/key",
    "https://s3cr3t@host",
    "credential AKIAIOSFODNN7EXAMPLE was refused",
    "GET /key?X-Amz-Credential=s3cr3t%2F2026&X-Amz-Signature=s3cr3t HTTP/1.1",
    "aws_secret_access_key = 's3cr3t'",
    '{"SecretAccessKey": "s3cr3t", "SessionToken": "s3cr3t"}',
    "Authorization: AWS4-HMAC-SHA256 Credential=s3cr3t",
    "password=s3cr3t&x=1",
    "the value is of-the-environment",
]


@pytest.mark.parametrize("text", SECRETS)
def test_no_credential_reaches_a_log(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-environment")
    said = describe_error(OSError(errno.EIO, text))
    assert not any(secret in said for secret in ("s3cr3t", "AKIAIOSFODNN7EXAMPLE", "of-the-environment"))
    assert "***" in said


@pytest.mark.parametrize(
    "text", ["tile (3, 4): a@b.c", "s3://bucket/a/b", "https://host/x", "no secret at all", "E:/a@b"]
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("value", "text", "said"),
    [
        ("test", "8 training and 4 test images", "8 training and 4 test images"),
        ("minio", "cntk resume runs/minio", "cntk resume runs/minio"),
        ("Pass1", "key Pass1: refused; see Pass12 and myPass1", "key ***: refused; see Pass12 and myPass1"),
        ("a.b*", "a.b* axb", "*** axb"),
        ("abcdefghijklmnop", "xabcdefghijklmnopx", "x***x"),
        ("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "k=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEYs", "k=***s"),
        ("abc", "abc", "abc"),
    ],
)
def test_a_short_key_of_a_trial_is_masked_as_a_word_and_no_common_word_is(
    value: str, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail where each value is masked wherever it occurs: "8 training and 4 *** images"."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", value)
    assert redact(text) == said


def test_a_run_logs_each_tile_and_each_stage(run_small: Run) -> None:
    run = run_small()
    lines = lines_of(run.path / "log")
    assert {line["run"] for line in lines} == {run.fingerprint[:16]}
    receipts = {receipt.task: receipt for receipt in run.journal.receipts()}
    for event in ("began", "finished"):
        tasks = [Task(Stage.parse(line["stage"]), line["row"], line["col"]) for line in named(lines, event)]
        assert sorted(tasks) == sorted(receipts), event
    for line in named(lines, "finished"):
        receipt = receipts[Task(Stage.parse(line["stage"]), line["row"], line["col"])]
        assert line["bytes"] == receipt.written_bytes
        parts = line["read_seconds"] + line["compute_seconds"] + line["write_seconds"]
        assert line["seconds"] == pytest.approx(parts, abs=3e-6)
        assert line["seconds"] == pytest.approx(receipt.seconds, abs=3e-6)
    assert named(lines, "driver_started")[0]["executor"] == "this process"
    ended = named(lines, "stage_ended")
    assert [line["stage"] for line in ended] == [line["stage"] for line in named(lines, "stage_began")]
    assert [(line["done"], line["total"]) for line in ended if line["stage"] == "kernel"] == [(10, 10)]
    assert "error" not in named(lines, "driver_ended")[0]


@pytest.mark.slow
def test_a_second_driver_adds_to_the_log(run_small: Run) -> None:
    run_small()
    again = run_small(solve={"ridges": [0.5]})
    assert len(named(lines_of(again.path / "log"), "driver_ended")) == 2


@pytest.mark.slow
def test_no_handler_is_left_behind(run_small: Run) -> None:
    before = listeners()  # a process that was a worker keeps its last logs open
    run_small()
    assert listeners() == before


def test_a_stopped_driver_says_so(small_config: Callable[..., RunConfig]) -> None:
    view, stop = stop_at(3)
    config = small_config()
    with pytest.raises(Interrupted):
        runs.start(config, view, stop)
    lines = lines_of(runs.run_path(config) / "log")
    names = [line["event"] for line in lines if line["event"] not in ("began", "finished")]
    assert names == ["driver_started", "stage_began", "stop_requested", "drained", "stage_ended", "driver_ended"]
    assert lines[-1]["error"].startswith("Interrupted: stopped")


def test_a_tile_that_fails_is_told_of_by_its_worker_and_by_the_driver(
    small_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("s3://key:secret@bucket is odd")

    monkeypatch.setattr("cntk_pipeline.gram.tiles._evaluate", fail)
    config = small_config()
    with pytest.raises(TilesFailed):
        runs.start(config, Recorder(), threading.Event())
    lines = lines_of(runs.run_path(config) / "log")
    for event in ("failed", "gave_up"):
        assert {line["error"] for line in named(lines, event)} == {"ValueError: s3://***@bucket is odd"}
        assert len(named(lines, event)) == 10


@pytest.mark.slow
def test_a_killed_worker_is_told_of(small_config: Callable[..., RunConfig]) -> None:
    class Killer(Recorder):
        def progress(self, progress: Any) -> None:
            if progress.done == 5 and self.lines[-1:] != ["killed"]:
                self.say("killed")
                mine = {int(file.stem.rpartition("-")[2]) for file in (path / "log").iterdir()} - {os.getpid()}
                os.kill(next(pid for pid in mine if psutil.pid_exists(pid)), signal.SIGKILL)

    config = small_config(cluster={"kind": "local", "workers": 2}, kernel={"tile": 4})
    path = runs.run_path(config)
    runs.start(config, Killer(), threading.Event())
    lines = lines_of(path / "log")
    assert not [line for line in named(lines, "library") if "Closed comm" in line["message"]], "told a client that left"
    (lost,) = named(lines, "worker_lost")
    assert lost["peer"].startswith("t")
    assert lost["level"] == "warning"


class Frozen(Executor):
    """Never ends its first call; minutes pass while it is waited for."""

    slots, now = 1, 0.0

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def submit(self, key: tuple[Any, ...], function: Callable[..., Any], *arguments: Any, rank: int = 0) -> None:
        self.calls.append((key, arguments[1]))

    def wait(self, timeout_seconds: float) -> list[Completion]:
        self.now += 600
        return [Completion(key, result=Receipt(task, ())) for key, task in self.calls[1:]]

    def forget(self, key: tuple[Any, ...]) -> None:
        pass

    def memory(self) -> None:
        return None

    def describe(self) -> str:
        return "frozen"


def test_a_second_copy_of_a_tile_is_told_of(log: RunLog, tmp_path: Path) -> None:
    executor = Frozen()
    journal = Journal(open_path(tmp_path / "journal"))
    driver = Driver("RUN", executor, journal, lambda _: None, threading.Event(), clock=lambda: executor.now)
    with attached(log):
        driver.run([Job(TILE, owner_of(lambda run_path, task: Receipt(task, ())), 1)], {})
    (backup,) = named(lines_of(tmp_path / "log"), "backup")
    assert (backup["row"], backup["copy"], backup["waited_seconds"]) == (2, 2, 4200.0)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_log_on_a_full_disk_ends_nothing_and_keeps_no_half_line(tmp_path: Path) -> None:
    if os.system(f"mount -t tmpfs -o size=16k tmpfs {tmp_path} 2>/dev/null") != 0:
        pytest.skip("no tmpfs can be mounted here")
    try:
        log = RunLog("RUN", open_path(tmp_path / "log"), "f" * 64)
        with attached(log):
            for number in range(200):
                emit(Event("began", Task(Stage("train"), number, 0)))
            os.system(f"mount -o remount,size=64k {tmp_path}")
            emit(Event("finished", TILE))
        lines = lines_of(tmp_path / "log")
        assert 0 < len(lines) < 200
        assert lines[-1]["event"] == "finished"
    finally:
        os.system(f"umount {tmp_path}")


def test_a_worker_keeps_a_few_logs_open_and_each_holds_its_own_run(
    small_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    call = Observed(lambda run_path, task: Receipt(task, ()))
    paths = [tmp_path / f"run{k}" for k in range(LOGS_KEPT + 2)]
    for path in paths:
        RunDirectory.create(path, replace(SPECIFICATION, data=replace(SPECIFICATION.data, digest=str(path))), {})
    for turn in range(2):
        for path in paths:
            call(str(path), Task(Stage("train"), turn, 0))
    kept = [handler for handler in listeners() if isinstance(handler, RunLog)]
    assert [log.run_path for log in kept] == [str(path) for path in paths[-LOGS_KEPT:]]
    for path in paths:
        lines = lines_of(path / "log")
        assert [(line["event"], line["row"]) for line in lines] == [
            ("began", 0),
            ("finished", 0),
            ("began", 1),
            ("finished", 1),
        ]
        assert {line["run"] for line in lines} == {RunDirectory(path).fingerprint[:16]}
    for log in kept:
        logging.getLogger("cntk_pipeline").removeHandler(log)


def test_what_logs_still_hold_is_written_when_a_worker_ends(tmp_path: Path) -> None:
    closed = []

    class Waiting(RunLog):
        def close(self) -> None:
            closed.append(self.run_path)
            super().close()

    attach(Waiting("RUN", open_path(tmp_path / "log"), "f" * 64))
    Preparation(lambda: None).teardown(None)
    assert closed == ["RUN"]
    assert not [handler for handler in listeners() if isinstance(handler, RunLog)]


def test_a_task_without_a_run_is_called_all_the_same(tmp_path: Path) -> None:
    receipt = Observed(lambda run_path, task: Receipt(task, (), host=run_path))(str(tmp_path / "none"), TILE)
    assert receipt.host == str(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_every_event_reads_as_a_line() -> None:
    for name in EVENTS:
        text = str(Event(name, TILE, "OSError: flaky", {"attempt": 2, "delay_seconds": 2.123456}))
        assert text == f"{name.replace('_', ' ')} train tile (2, 1), attempt 2, delay_seconds 2.123: OSError: flaky"


def test_the_log_of_a_driver_is_not_that_of_a_host_with_a_longer_name(tmp_path: Path) -> None:
    """Seen to fail: of node1:7 the log of gpu-node1:7 was read."""
    for name in ("node1-7", "gpu-node1-7"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"event": "driver_started", "executor": name}) + "\n")
    folder = open_path(tmp_path)
    assert find_executor(folder, "node1:7") == "node1-7"
    later = tmp_path / "20261201T010203-node1-7.jsonl"
    later.write_text(json.dumps({"event": "driver_started", "executor": "later"}) + "\n")
    assert find_executor(folder, "node1:7") == "later"


def test_the_files_of_a_group_are_open_to_it(tmp_path: Path) -> None:
    """Seen to fail: a driver.log, or a journal, that one member had made kept the others from going on."""
    before = os.umask(0o002)
    try:
        for name, durable in (("log.jsonl", False), ("journal", True)):
            appender = open_path(tmp_path / name).appender(durable=durable)
            appender.append(b"line\n")
            appender.close()
        _claim(tmp_path / "claim")
        with open(tmp_path / "driver.log", "ab", opener=_without_waiting):
            pass
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == dict.fromkeys(
        ("log.jsonl", "journal", "claim", "driver.log"), 0o664
    )
