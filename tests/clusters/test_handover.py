"""Handing over, watching, cancelling and resuming, with real processes on this machine."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from support.problems import Recorder, Stopper, flip_bit, require_same_kernel, stop_at, toml, whole_matrix
from support.processes import PATIENCE_SECONDS, receipts, wait_until
from typer.testing import CliRunner

from cntk_pipeline.cli.main import app
from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.clusters.local.submitter import LocalSubmitter
from cntk_pipeline.clusters.slurm.submitter import SlurmSubmitter
from cntk_pipeline.clusters.submitter import Cause, Succession
from cntk_pipeline.config import ClusterConfig, RunConfig, StoreConfig, parse_config
from cntk_pipeline.errors import (
    ConfigError,
    DataNotFound,
    Interrupted,
    PipelineError,
    RunLocked,
    RunNotFound,
    SubmissionFailed,
)
from cntk_pipeline.kernels.cpu import CpuEngine
from cntk_pipeline.rundir import lease
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.submissions import (
    Submission,
    add_submission,
    read_ending,
    request_stop,
    stop_requested,
    submissions,
)
from cntk_pipeline.storage import open_path
from cntk_pipeline.workflow import handover, load
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

pytestmark = pytest.mark.slow


def workflow(path: Path, kind: str = "local", depth: int = 3, **cluster: Any) -> RunConfig:
    return parse_config(
        {
            "data": {"source": "digits", "train": 60, "test": 20},
            "network": {"preset": "cntk"},
            "readouts": {"depths": [depth], "poolings": ["gap"]},
            "kernel": {"tile": 8},
            "solve": {"ridges": [1e-2]},
            "cluster": {"kind": kind, "workers": 1} | cluster,
            "store": {"path": str(path)},
        },
        "test",
    )


def submission(kind: str, job: str, place: str = "") -> Submission:
    return Submission(kind, job, "here", "now", place, is_mine=True)


@pytest.fixture
def ended(tmp_path: Path) -> Iterator[None]:
    """End the drivers that a test left."""
    yield
    for submission in submissions(RunDirectory(tmp_path / "run")):
        with contextlib.suppress(psutil.NoSuchProcess, ValueError):
            process = psutil.Process(int(submission.job.rpartition(":")[2]))
            if "drive" in process.cmdline():
                os.killpg(process.pid, 9)


@pytest.mark.usefixtures("ended")
def test_a_driver_that_was_handed_over_needs_neither_the_data_nor_who_handed_it_over(tmp_path: Path) -> None:
    config = workflow(tmp_path / "run")
    run, submission = handover.submit(config, Recorder())
    process = psutil.Process(int(submission.job.rpartition(":")[2]))
    assert os.getsid(process.pid) != os.getsid(0), "a hang-up of this terminal would reach it"
    assert handover.whereabouts(run).state == "running"
    wait_until(lambda: read_ending(run) is not None, "the driver's end")
    assert read_ending(run).message == ""
    assert make_report(run).complete
    undisturbed = runs.start(workflow(tmp_path / "here", "serial"), Recorder(), threading.Event())
    for part in ("train", "test"):
        mine, other = (whole_matrix(each, "depth3-gap-ntk", part) for each in (run, undisturbed))
        np.testing.assert_array_equal(mine, other)
    assert "computing on 1 local workers" in (run.path / "log" / "driver.log").read_text()


def test_a_driver_is_seen_to_run_from_the_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail where nobody waits for its command line: the system sets it an instant after the process began."""
    quick = tmp_path / "python"
    quick.write_text("#!/bin/sh\nsleep 60\n")
    quick.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(quick))  # begins in an instant
    submitter, config = CLUSTERS["local"].submitter, workflow(tmp_path / "run")
    for _ in range(200):
        job = submitter.submit(open_path(tmp_path / "run"), config, "")
        mine = submission("local", job, str(tmp_path / "run"))
        assert submitter.state(mine) == "running"
        assert submitter.withdraw(mine, now=True)


@pytest.mark.usefixtures("ended")
def test_the_command_reads_the_data_and_measures_a_pair_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail where the run behind the forecast loads and measures anew: its tile may be another one then."""
    calls: list[str] = []
    read, measure = load.load_data, CpuEngine.measure
    monkeypatch.setattr(load, "load_data", lambda config: calls.append("read") or read(config))
    monkeypatch.setattr(CpuEngine, "measure", lambda *given: calls.append("measured") or measure(*given))
    tables = workflow(tmp_path / "run").model_dump(mode="json", exclude_defaults=True)
    (tmp_path / "w.toml").write_text(toml(tables | {"kernel": {"tile": "auto"}}))
    done = CliRunner().invoke(app, ["submit", str(tmp_path / "w.toml")])
    assert done.exit_code == 0, done.output
    assert calls == ["read", "measured"]
    run = RunDirectory(tmp_path / "run")
    assert f"tiles of {run.specification.tile} samples" in done.output
    wait_until(lambda: read_ending(run) is not None, "the driver's end")
    assert make_report(run).complete


@pytest.mark.usefixtures("ended")
def test_a_driver_drains_on_request_whoever_asks_and_is_resumed(tmp_path: Path) -> None:
    config = workflow(tmp_path / "run", depth=60)
    run, _ = handover.submit(config, Recorder())
    with pytest.raises(SubmissionFailed, match=r"is running for .* already: .*cntk cancel"):
        handover.submit(config, Recorder())
    with pytest.raises(SubmissionFailed, match=r"is running for .* already"):  # before it is locked to be read
        handover.resubmit(run.path, Recorder(), verify=True)
    wait_until(lambda: receipts(run.path) >= 3, "three tiles")
    assert "finishes the tiles in flight" in handover.cancel(run.path)
    wait_until(lambda: read_ending(run) is not None, "the driver's end")
    assert "stopped; every finished tile is kept" in read_ending(run).message
    assert handover.whereabouts(run).stop_requested
    lines = [json.loads(line) for file in (run.path / "log").glob("*.jsonl") for line in file.read_text().splitlines()]
    assert sum(line["event"] == "began" for line in lines) == receipts(run.path)
    assert not make_report(run).complete
    resumed = runs.resume(run.path, Recorder(), threading.Event(), cluster=workflow(tmp_path, "serial").cluster)
    assert not stop_requested(resumed)
    assert read_ending(resumed) is None, "what an earlier driver said is not true any more"
    assert resumed.workflow().cluster.kind == "serial"
    assert make_report(resumed).complete
    assert "no driver works on it" in handover.cancel(run.path)


@pytest.mark.usefixtures("ended")
def test_a_driver_that_is_ended_at_once_leaves_no_process(tmp_path: Path) -> None:
    run, submission = handover.submit(workflow(tmp_path / "run", depth=60), Recorder())
    wait_until(lambda: receipts(run.path) >= 1, "a tile")
    processes = [psutil.Process(int(submission.job.rpartition(":")[2]))]
    processes += processes[0].children(recursive=True)
    assert "was ended at once" in handover.cancel(run.path, now=True)
    assert psutil.wait_procs(processes, PATIENCE_SECONDS)[1] == []
    assert handover.whereabouts(run).state == "gone"


def test_a_driver_in_a_terminal_cannot_be_ended_from_elsewhere_and_that_is_said(tmp_path: Path) -> None:
    run = begun_run(tmp_path / "run")
    with lease.hold(run.lease_path):  # as `cntk run` holds it
        said = handover.cancel(run.path, now=True)
        assert f"it is process {os.getpid()} on {socket.gethostname()}, which finishes the tiles in flight" in said
        assert f"press Ctrl-C twice in its terminal, or `kill -KILL {os.getpid()}` on {socket.gethostname()}" in said
        assert "To end it at once" not in handover.cancel(run.path)
    assert "no driver works on it" in handover.cancel(run.path, now=True)


def test_a_job_that_has_ended_is_not_said_to_be_ended_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail where the state is not looked at: "was ended at once", while the driver in a terminal went on."""
    run, asked = begun_run(tmp_path / "run"), tmp_path / "asked"
    programs = {"squeue": "echo 'COMPLETED|n1|0:00|N/A|None'", "scancel": f"touch {asked}"}
    lay_programs(tmp_path / "bin", programs)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    add_submission(run, "slurm", "4711")
    with lease.hold(run.lease_path):  # as `cntk resume --cluster local` holds it
        assert f"it is process {os.getpid()} on {socket.gethostname()}" in handover.cancel(run.path, now=True)
    assert "no driver works on it" in handover.cancel(run.path, now=True)
    assert not asked.exists()
    lay_programs(tmp_path / "bin", {"squeue": "echo 'RUNNING|n1|9:00|N/A|None'"})
    assert handover.cancel(run.path, now=True) == "slurm 4711 was ended at once"
    assert asked.exists()


def test_what_a_cluster_refuses_leaves_no_run_and_no_image_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail where only run.json was taken back: the next run, of other images, computed those of the first."""
    config = workflow(tmp_path / "run", "slurm", memory_limit="1GiB")
    refuse = '[ "$1" = --version ] || { echo no such partition >&2; exit 1; }'  # as in tests/real/test_slurm.py
    lay_programs(tmp_path / "bin", {"sbatch": refuse})
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(SubmissionFailed, match="sbatch refused: no such partition"):
        handover.submit(config, Recorder())
    with pytest.raises(RunNotFound):
        RunDirectory(tmp_path / "run")
    as_they_are = config.data.model_copy(update={"standardize": False})
    other = workflow(tmp_path / "run", "serial").model_copy(update={"data": as_they_are})
    elsewhere = other.model_copy(update={"store": StoreConfig(path=str(tmp_path / "elsewhere"))})
    mine, its = (runs.start(each, Recorder(), threading.Event()) for each in (other, elsewhere))
    require_same_kernel(mine, its)


def test_a_place_that_the_script_cannot_name_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail where only a refusal by SLURM itself takes the run back: a whole run directory was left."""
    lay_programs(tmp_path / "bin", {"sbatch": "true"})
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    place = tmp_path / "a\N{NO-BREAK SPACE}b" / "run"
    for checked in (True, False):
        if not checked:
            monkeypatch.setattr(SlurmSubmitter, "check_place", LocalSubmitter.check_place)  # the script refuses
        with pytest.raises(ConfigError, match="the run directory must be one line of printable characters"):
            handover.submit(workflow(place, "slurm", memory_limit="1GiB"), Recorder())
        assert place.parent.exists() is not checked
        with pytest.raises(RunNotFound):
            RunDirectory(place)


def lay_programs(folder: Path, programs: dict[str, str]) -> None:
    """Write programs of the shell, by their names, into a folder."""
    folder.mkdir(exist_ok=True)
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)


def begun_run(path: Path) -> RunDirectory:
    return runs.begin_elsewhere(workflow(path, "serial"), Recorder(), None)[0]


@dataclass(frozen=True)
class Followed(LocalSubmitter):
    """A batch system whose jobs are followed by others, as those of SLURM are with ``resubmit``."""

    why: Cause = "limit"

    def succession(self, config: ClusterConfig) -> Succession:
        return Succession("another job follows", "somebody ended it", "it finished no tile")

    def cause(self, config: RunConfig) -> Cause:
        return self.why


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let jobs that compute in this process be followed by others."""

    def follow(cause: Cause = "limit") -> None:
        monkeypatch.setitem(CLUSTERS, "serial", replace(CLUSTERS["serial"], submitter=Followed(cause)))

    return follow


class Driving(LocalSubmitter):
    """A cluster that runs its drivers itself, on this machine."""

    drives_itself = True


@pytest.mark.usefixtures("ended")
@pytest.mark.parametrize("complete", [False, True])
def test_a_run_that_is_handed_over_again_is_verified_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complete: bool
) -> None:
    """Seen to fail where a run with results to come is not read: a resume that compares stored sums goes on with it."""
    monkeypatch.setitem(CLUSTERS, "local", replace(CLUSTERS["local"], submitter=Driving()))
    config = workflow(tmp_path / "run", "serial")
    view, stop = stop_at(20)
    if complete:
        run = runs.start(config, view, threading.Event())
    else:
        with pytest.raises(Interrupted):
            runs.start(config, view, stop)
        run = RunDirectory(tmp_path / "run")
    chunk = next(Path(run.path).glob("kernel.zarr/depth3-gap-ntk/train/c/*/*"))
    content = chunk.read_bytes()
    flip_bit(chunk)
    said = CliRunner().invoke(app, ["resume", str(run.path), "--verify", "--cluster", "local"])
    assert said.exit_code == 0, said.output
    words = " ".join((said.output + said.stderr).split())
    assert "was damaged on disk: moved to quarantine" in words
    assert "submitted as local" in words
    wait_until(lambda: handover.whereabouts(run).state == "gone", "the driver's end")
    assert make_report(run).complete
    assert chunk.read_bytes() == content
    said = CliRunner().invoke(app, ["resume", str(run.path), "--verify", "--cluster", "local"])
    assert "nothing is left to do" in " ".join((said.output + said.stderr).split())


def test_a_job_that_begins_after_it_was_cancelled_computes_nothing(tmp_path: Path) -> None:
    run = begun_run(tmp_path / "run")
    request_stop(run)
    with pytest.raises(Interrupted, match="asked to stop before it began"):
        handover.drive(run.path, Recorder(), threading.Event())
    assert receipts(run.path) == 0
    assert "asked to stop" in read_ending(run).message


def test_a_job_that_finished_no_tile_is_not_followed_by_another(tmp_path: Path, followed: Callable[..., None]) -> None:
    followed()
    run, stop = begun_run(tmp_path / "run"), threading.Event()
    stop.set()
    with pytest.raises(Interrupted, match="it finished no tile"):
        handover.drive(run.path, Recorder(), stop)


def test_a_job_of_a_cluster_that_sees_to_no_others_ends_as_it_is(tmp_path: Path) -> None:
    run, stop = begun_run(tmp_path / "run"), threading.Event()
    stop.set()
    with pytest.raises(Interrupted) as caught:
        handover.drive(run.path, Recorder(), stop)
    assert read_ending(run).message == str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cause", "tiles", "said"),
    [
        ("elsewhere", 0, "another job follows"),
        ("limit", 0, "it finished no tile"),
        ("withdrawn", 3, "somebody ended it"),
    ],
)
def test_whether_a_job_is_followed_depends_on_why_it_was_stopped(
    tmp_path: Path, followed: Callable[..., None], cause: Cause, tiles: int, said: str
) -> None:
    """Seen to fail with one rule for all causes. That SLURM tells them apart: tests/real/test_slurm.py."""
    followed(cause)
    run, (view, stop) = begun_run(tmp_path / "run"), stop_at(tiles)
    with pytest.raises(Interrupted, match=said):
        handover.drive(run.path, view, stop)
    assert said in read_ending(run).message


def test_a_job_that_got_on_is_followed_by_another_unless_it_was_cancelled(
    tmp_path: Path, followed: Callable[..., None]
) -> None:
    followed()

    def has_got_on(view: Recorder) -> bool:
        return view.moments[-1].done == 3

    def cancelled(view: Recorder) -> bool:
        if has_got_on(view):
            handover.cancel(tmp_path / "run")
        return has_got_on(view)

    run = begun_run(tmp_path / "run")
    for condition, said in ((has_got_on, True), (cancelled, False)):
        view = Stopper(condition)
        with pytest.raises(Interrupted) as caught:
            handover.drive(run.path, view, view.stop)
        assert ("another job follows" in str(caught.value)) is said
        assert ("another job follows" in read_ending(run).message) is said
        (tmp_path / "run" / "journal" / "000001.jsonl").unlink()


def test_a_driver_that_was_taken_for_dead_sees_to_no_next_job(tmp_path: Path, followed: Callable[..., None]) -> None:
    followed()
    run = begun_run(tmp_path / "run")
    with lease.hold(run.lease_path), pytest.raises(RunLocked):
        handover.drive(run.path, Recorder(), threading.Event())
    assert read_ending(run) is None, "it would be taken for the word of the driver at work"


def test_what_went_wrong_in_a_submitted_driver_is_remembered_until_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(config: RunConfig) -> None:
        raise DataNotFound("no digits here")

    run = begun_run(tmp_path / "run")
    (run.path / "inputs.zarr/train_images/c").rename(tmp_path / "aside")
    said = r"gone or damaged, and cannot be written anew: no digits here\. Restore .*inputs\.zarr from a copy"
    with monkeypatch.context() as patch:
        patch.setattr("cntk_pipeline.workflow.load.load_data", away)
        with pytest.raises(PipelineError, match=said):
            handover.drive(run.path, Recorder(), threading.Event())
    assert re.search(said, read_ending(run).message)
    handover.drive(run.path, Recorder(), threading.Event())
    assert read_ending(run).message == ""


def test_of_two_commands_that_hand_over_at_once_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent, begin = tmp_path / "sent", runs.begin_elsewhere
    programs = {"sbatch": f'[ "$1" = --version ] || touch {sent}', "squeue": "echo 'RUNNING|n1|9:00|N/A|None'"}
    lay_programs(tmp_path / "bin", programs)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def overtaken(*given: Any) -> Any:
        begun = begin(*given)
        add_submission(begun[0], "slurm", "4711")  # of the other command, while this one read its data
        return begun

    monkeypatch.setattr(runs, "begin_elsewhere", overtaken)
    with pytest.raises(SubmissionFailed, match=r"slurm 4711 is running for .* already"):
        handover.submit(workflow(tmp_path / "run", "slurm", memory_limit="1GiB"), Recorder())
    assert not sent.exists()
    assert RunDirectory(tmp_path / "run").has_inputs(), "it is the run of the other command's driver"


def test_submissions_of_several_commands_at_once_are_all_remembered(tmp_path: Path) -> None:
    run, together = begun_run(tmp_path / "run"), threading.Barrier(6)

    def submit(job: str) -> None:
        together.wait()
        add_submission(run, "slurm", job)

    commands = [threading.Thread(target=submit, args=(str(job),)) for job in range(6)]
    for command in commands:
        command.start()
    for command in commands:
        command.join()
    assert sorted(each.job for each in submissions(run)) == [str(job) for job in range(6)]


@pytest.mark.parametrize("job", ["a\nb", "J\N{LATIN SMALL LETTER U WITH DIAERESIS}rgen:7", "7" * 201])
def test_a_name_of_a_job_that_could_not_be_read_back_is_not_recorded(tmp_path: Path, job: str) -> None:
    """Seen to fail: the record was written, and every later command on the run ended with "is damaged"."""
    run = begun_run(tmp_path / "run")
    with pytest.raises(SubmissionFailed, match=r"named its job .*, where a plain text of at most 200 characters was"):
        add_submission(run, "slurm", job)
    assert submissions(run) == []


def test_submissions_are_remembered_in_order_and_hold_no_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-tell")
    run = begun_run(tmp_path / "run")
    for job in ("7", "8"):
        add_submission(run, "slurm", job)
    assert [str(submission) for submission in submissions(run)] == ["slurm 7", "slurm 8"]
    text = "".join(file.read_text() for file in (run.path / "submissions").iterdir())
    assert "do-not-tell" not in text
    assert set(json.loads((run.path / "submissions" / "000001.json").read_text())) == {
        "kind",
        "job",
        "host",
        "submitted",
        "place",
        "signature",
    }


def cntk(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[2] / "pipeline")
    command = [sys.executable, "-m", "cntk_pipeline.cli", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": root, "COLUMNS": "120", "NO_COLOR": "1"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, env=environment)


@pytest.mark.usefixtures("ended")
def test_the_commands_tell_where_a_run_is(tmp_path: Path) -> None:
    (tmp_path / "w.toml").write_text(
        '[data]\nsource = "digits"\ntrain = 60\ntest = 20\n[network]\npreset = "cntk"\n'
        "[readouts]\ndepths = [40]\n[kernel]\ntile = 8\n[solve]\nridges = [1e-2]\n"
    )
    (tmp_path / "small.toml").write_text('[cluster]\nkind = "local"\nworkers = 1\n')
    said = cntk("submit", "w.toml", "--cluster", "./small.toml", "--store", "run", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert "total" in said.stdout, "no forecast"
    assert "watch it with: cntk status --watch run" in said.stdout
    status = json.loads(cntk("status", "run", "--json", cwd=tmp_path).stdout)
    assert status["submission"]["kind"] == "local"
    watched = cntk("status", "run", "--watch", cwd=tmp_path)
    assert watched.returncode == 0, watched.stderr
    assert "train 36/36" in watched.stdout
    assert re.search(r"depth40\S*\s+0\.01 relative\s+\d+\.\d\d%", watched.stdout), "no results at the end"
    assert "\x1b" not in watched.stdout
    said = cntk("cancel", "run", cwd=tmp_path)
    assert said.stdout.splitlines()[1:] == ["it is complete"], said.stdout + said.stderr
    assert cntk("cancel", "nowhere", cwd=tmp_path).returncode == 2
    assert "no cluster is called" in cntk("submit", "w.toml", "--cluster", "nowhere", cwd=tmp_path).stderr


@pytest.mark.usefixtures("ended")
def test_submit_and_status_print_the_address_of_the_dashboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cntk_pipeline.cli import driving

    monkeypatch.setattr(driving, "START_SECONDS", PATIENCE_SECONDS)
    tables = workflow(tmp_path / "run", depth=1000).model_dump(mode="json", exclude_defaults=True)  # takes long enough
    (tmp_path / "w.toml").write_text(toml(tables))
    said = CliRunner().invoke(app, ["submit", str(tmp_path / "w.toml")])
    assert said.exit_code == 0, said.output
    (address,) = re.findall(r"(?m)^dashboard: (http://127\.0\.0\.1:\d+/cntk)$", said.output)
    assert f", dashboard {address}\n" in cntk("status", "run", cwd=tmp_path).stdout

    def shows_the_run() -> bool:
        with urllib.request.urlopen(address, timeout=60) as page:
            return str(tmp_path / "run") in page.read().decode()

    wait_until(shows_the_run, "the first news of the driver on its page")


def test_where_the_driver_is_elsewhere_or_slow_the_command_is_named_that_has_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cntk_pipeline.cli import driving

    monkeypatch.setattr(driving, "START_SECONDS", 0.0)
    for kind in ("local", "slurm"):
        driving.say_how_to_follow(begun_run(tmp_path / kind), submission(kind, "1"), ClusterConfig(kind=kind))
        later = f"the address of its dashboard, as soon as it has its workers: cntk status {tmp_path / kind}"
        assert capsys.readouterr().out.splitlines()[1:] == [later]


@pytest.mark.usefixtures("ended")
def test_a_driver_without_a_dashboard_ends_the_wait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cntk_pipeline.cli import driving

    config = workflow(tmp_path / "run", "serial")
    run, handed = handover.submit(config, Recorder())
    driving.say_how_to_follow(run, handed, config.cluster)
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["watch it with"]
    wait_until(lambda: read_ending(run) is not None, "the driver's end")


def test_watching_a_run_that_nobody_drives_ends_and_says_what_was_said_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cntk_pipeline.cli import watch

    run = begun_run(tmp_path / "run")
    request_stop(run)
    with pytest.raises(Interrupted):
        handover.drive(run.path, Recorder(), threading.Event())
    assert not watch.watch(run).complete
    shown = capsys.readouterr().out
    assert "train 0/36" in shown
    assert "the last driver said: it was asked to stop before it began" in shown
