"""Runs on a real SLURM of two nodes: what is submitted is finished, whatever is lost on the way, with the same bits."""

import contextlib
import json
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from real.slurm.private import PrivateSlurm, private_slurm
from real.slurm.shell import (
    WORKFLOW,
    Shell,
    computing_workers,
    finished,
    frozen,
    has_driver,
    lease_names,
    promptly,
    submitted,
)
from support.hostile import hostile_run, lay_hostile
from support.problems import Recorder, require_same_kernel, stop_at, toml
from support.processes import PATIENCE_SECONDS, begun
from support.s3_server import SECRET

from cntk_pipeline.config import ClusterConfig, load_cluster, parse_config
from cntk_pipeline.errors import Interrupted, PipelineError, SubmissionFailed
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.storage import StorePath, open_path
from cntk_pipeline.workflow import handover
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")

pytestmark = pytest.mark.timeout(3 * PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def slurm(require: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSlurm]:
    require(*DAEMONS, root=True)
    with private_slurm(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


@pytest.fixture(autouse=True)
def commands(slurm: PrivateSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SLURM's commands find it from this process too."""
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(slurm.folder))  # jobs that are killed leave their certificates there


@pytest.fixture
def shell(slurm: PrivateSlurm, tmp_path: Path) -> Iterator[Shell]:
    slurm.wait_for_nodes()
    with promptly():
        yield Shell(tmp_path, slurm)
    with contextlib.suppress(AssertionError):
        slurm.ask("scancel", "--state=PENDING,RUNNING,SUSPENDED", "--user=root")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    tables = WORKFLOW | {"cluster": {"kind": "serial"}, "store": {"path": str(path)}}
    return runs.start(parse_config(tables, "test"), Recorder(), threading.Event())


def require_same(path: Path | StorePath, undisturbed: RunDirectory) -> None:
    """Compare every bit of the kernel, and the predictions; every checksum holds."""
    assert runs.verify(path).bad == ()
    run = RunDirectory(path)
    require_same_kernel(run, undisturbed)
    assert make_report(run).complete
    for solve in make_report(undisturbed).solves:
        mine, other = (each.solved(solve.name, "mean").read(0, 0) for each in (run, undisturbed))
        # How the factor's tiles are split depends on how many workers there are, and with it the order of sums.
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-10)


def test_what_is_submitted_is_finished_though_the_one_who_submitted_is_gone(
    shell: Shell, undisturbed: RunDirectory
) -> None:
    """Seen to fail without -P in the command of the workers, and in that of the driver: files beside the workflow."""
    lay_hostile(shell.folder)
    shell.write()
    said = shell.cntk("submit", "workflow.toml", "--cluster", "cluster.toml", "--store", shell.run)
    job = submitted(said)  # and the process that submitted it has ended
    shell.wait_for_state(job, "RUNNING")
    assert re.search(rf"slurm {job} runs on n\[1-2\], [0-9:]+ left", shell.cntk("status", shell.run, code=3))
    watched = shell.cntk("status", "--watch", shell.run)
    assert "train 190/190" in watched  # it ended with the run, whose results it shows
    assert "100.00%" in watched
    shell.wait_for_state(job, "COMPLETED")
    assert "2 workers of SLURM job" in shell.log()
    assert "Traceback" not in shell.log()
    assert hostile_run(shell.folder) == []
    require_same(shell.run, undisturbed)


def test_a_job_signalled_in_its_first_second_goes_on_and_a_cancelled_one_stays_away_until_it_is_resumed_elsewhere(
    shell: Shell, undisturbed: RunDirectory
) -> None:
    """Seen to fail with the driver in the place of the batch script's shell, and with one rule for all causes."""
    job = shell.submit(resubmit=True)
    shell.wait(lambda: has_driver(shell.run), "Python to start")
    shell.slurm.ask("scancel", "--signal=TERM", "--batch", job)
    shell.wait(lambda: "it goes on in the next job" in shell.log(), "the driver, or its shell, to heed the signal")
    assert shell.receipts() == 0
    shell.wait_for_receipts(10)
    with frozen(computing_workers(shell.run)):  # so that the run is not over before it is cancelled
        assert "finishes the tiles in flight" in handover.cancel(shell.run)
        shell.wait(lambda: "asked to stop" in shell.log(), "the driver to obey")
    shell.wait_for_state(job, "FAILED")  # SLURM's word for an exit code of 130
    assert shell.slurm.restarts(job) == 1, "only that of the signal"
    assert handover.whereabouts(RunDirectory(shell.run)).stop_requested
    assert len(begun(shell.run)) == shell.receipts(), "a tile in flight was lost"
    (shell.folder / "here.toml").write_text(toml({"cluster": {"kind": "local", "workers": 2}}))
    assert 'kind "local"' in shell.cntk("resume", shell.run, "--cluster", "here.toml")
    require_same(shell.run, undisturbed)


def test_a_run_begun_here_is_resumed_on_the_cluster_withdrawn_from_its_queue_and_ended_there_by_scancel(
    shell: Shell, undisturbed: RunDirectory
) -> None:
    """Seen to fail, with a third job, where a driver that scancel ended sees to a next one."""
    begun_here(shell.run)
    shell.write(batch_options=["--hold"])
    job = submitted(shell.cntk("resume", shell.run, "--cluster", "cluster.toml"))
    assert f"slurm {job} waits: it is held: scontrol release {job}" in shell.cntk("status", shell.run, code=3)
    with pytest.raises(SubmissionFailed, match=f"slurm {job} is queued"):
        handover.resubmit(shell.run, Recorder())
    assert "out of the queue" in handover.cancel(shell.run)
    shell.wait_for_state(job, "CANCELLED")
    shell.write(resubmit=True)
    job = handover.resubmit(shell.run, Recorder(), load_cluster(shell.folder / "cluster.toml")).job
    # While it waits for its workers a driver has nothing to drain: it is quick enough to ask for another job.
    shell.wait(
        lambda: "cntk-workers" in shell.slurm.ask("squeue", "--steps", f"--jobs={job}", "--format=%j"),
        "its workers' steps",
    )
    shell.slurm.ask("scancel", job)
    shell.wait_for_state(job, "CANCELLED")
    assert f"slurm {job} was cancelled" in shell.cntk("status", shell.run, code=3)
    assert shell.slurm.ask("squeue", "--noheader") == "", "what scancel ended came back"
    runs.resume(shell.run, Recorder(), threading.Event(), cluster=serial())
    require_same(shell.run, undisturbed)


def begun_here(path: Path) -> None:
    """Begin the workflow in this process, and stop it after some tiles."""
    view, stop = stop_at(10)
    tables = WORKFLOW | {"cluster": {"kind": "serial"}, "store": {"path": str(path)}}
    with pytest.raises(Interrupted):
        runs.start(parse_config(tables, "test"), view, stop)


def serial() -> ClusterConfig:
    return parse_config(WORKFLOW | {"cluster": {"kind": "serial"}}, "test").cluster


def test_a_job_near_its_time_limit_drains_and_goes_on_in_the_next_one_until_the_run_is_complete(
    shell: Shell, undisturbed: RunDirectory
) -> None:
    job = shell.submit(drain_seconds=100, resubmit=True)
    shell.wait_for_receipts(20)
    with frozen(computing_workers(shell.run)):  # so that the run lasts until then, and costs nothing meanwhile
        # The end comes near: in 70 to 130 seconds. SLURM looks at that twice a minute, and signals half a minute early.
        minutes = math.ceil((shell.slurm.seconds(job) + 70) / 60)
        shell.slurm.ask("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")
        shell.wait(lambda: "tiles in flight are finished first" in shell.log(), "the signal")
    shell.wait(lambda: "it goes on in the next job" in shell.log(), "the driver to go on")
    shell.slurm.ask("scontrol", "update", f"JobId={job}", "TimeLimit=10")  # the next one is to meet no limit
    shell.wait_for_state(job, "COMPLETED")
    assert shell.slurm.restarts(job) == 1
    tiles = begun(shell.run)
    assert len(tiles) == len(set(tiles)), "a tile in flight was lost"
    require_same(shell.run, undisturbed)


def test_lost_workers_are_started_again_and_a_lost_node_restarts_the_job(
    shell: Shell, undisturbed: RunDirectory
) -> None:
    job = shell.submit()
    shell.wait_for_receipts(20)
    node = shell.slurm.node_of(job)
    other = "n2" if node == "n1" else "n1"
    shell.slurm.kill_steps(other)
    with frozen(computing_workers(shell.run)):
        shell.wait(lambda: f"workers restarted node {other}" in shell.log(), "word of lost workers")
    before = shell.receipts()
    shell.wait_for_receipts(before + 20)
    shell.slurm.kill_node(node)
    shell.slurm.miss(node)
    shell.wait(lambda: shell.slurm.restarts(job) == 1, "a restart")
    shell.slurm.start_node(node)
    shell.wait_for_state(job, "COMPLETED")
    tiles = begun(shell.run)
    assert len(tiles) - len(set(tiles)) <= 2 * 3, "more than what two workers, lost twice, had in flight"
    require_same(shell.run, undisturbed)


def test_a_job_started_again_elsewhere_and_its_former_self_that_was_only_cut_off_do_each_other_no_harm(
    require: Callable[..., None], tmp_path: Path, undisturbed: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(*DAEMONS, "ip", "nsenter", root=True)
    with private_slurm(tmp_path / "slurm", hosts=True) as slurm, promptly():
        for name, value in slurm.environment.items():
            monkeypatch.setenv(name, value)
        shell = Shell(tmp_path, slurm)
        job = shell.submit(batch_options=["--nodes=1"])
        shell.wait_for_receipts(20)
        node = slurm.node_of(job)
        former = computing_workers(shell.run)
        logs = [next((shell.run / "log").glob(f"*-{worker.pid}.jsonl")) for worker in former]
        leases = lease_names(shell.run)
        with frozen(former):  # only so that the run is not over before SLURM misses the node
            slurm.cut(node)
            slurm.miss(node)
            shell.wait(lambda: slurm.restarts(job) == 1, "a restart")
            shell.wait(lambda: lease_names(shell.run) != leases, "another driver")
            before = finished(logs)
        shell.wait(lambda: finished(logs) > before, "a tile of the driver that was cut off")
        shell.wait_for_state(job, "COMPLETED")
        shell.wait(lambda: "another driver has taken over" in shell.log(), "the former driver to find out")
        assert slurm.node_of(job) != node
        require_same(shell.run, undisturbed)


def test_a_run_in_a_bucket_is_submitted_and_its_credentials_are_written_nowhere(
    shell: Shell, bucket: str, undisturbed: RunDirectory
) -> None:
    """Seen to fail where the environment is written into the script."""
    shell.write()
    place = open_path(f"s3://{bucket}/slurm/run")
    said = shell.cntk("submit", "workflow.toml", "--cluster", "cluster.toml", "--store", place)
    job = submitted(said)
    shell.wait_for_state(job, "COMPLETED", "FAILED")
    printed = (shell.folder / f"slurm-{job}.log").read_text()
    assert shell.slurm.state(job) == "COMPLETED", printed
    require_same(place, undisturbed)
    written = [object.read_bytes() for object in objects(place)]
    script = shell.slurm.ask("scontrol", "write", "batch_script", job, "-")
    told = [said, printed, script, shell.slurm.ask("scontrol", "show", "job", job)]
    assert len(written) > 100
    assert not any(SECRET.encode() in content for content in [*written, *(text.encode() for text in told)])


def objects(place: StorePath) -> Iterator[StorePath]:
    """Find every object below a place."""
    return (place / name for name in place.listing())


def test_what_slurm_refuses_is_said_in_its_own_words(shell: Shell) -> None:
    shell.write(partition="nowhere")
    said = shell.cntk("submit", "workflow.toml", "--cluster", "cluster.toml", "--store", shell.run, code=1)
    assert re.search("sbatch refused: .*invalid partition", said), said
    for change, message in (
        ({"batch_options": ["--constraint=avx512"]}, "Invalid feature specification"),
        ({"memory_limit": "220MB"}, "a kernel tile of 8 samples holds"),  # refused before SLURM is asked
    ):
        with pytest.raises(PipelineError, match=message):
            shell.submit(**change)
        assert not (shell.run / "run.json").exists(), "a run that was refused is left"
    assert shell.slurm.ask("squeue", "--noheader") == ""


def test_a_run_driven_from_a_terminal_asks_for_jobs_of_workers_and_replaces_a_lost_one(
    shell: Shell, undisturbed: RunDirectory
) -> None:
    shell.write(batch_options=[])
    command = [sys.executable, "-m", "cntk_pipeline.cli", "run", "workflow.toml", "--cluster", "cluster.toml"]
    impatient = os.environ | {"DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "2s"}  # Dask waits 15 s otherwise
    with open(shell.folder / "said", "wb") as said:
        command += ["--store", str(shell.run)]
        process = subprocess.Popen(command, cwd=shell.folder, stdout=said, stderr=said, env=impatient)
    try:
        shell.wait_for_receipts(10)
        first = shell.slurm.ask("squeue", "--noheader", "--states=RUNNING", "--format=%i").split()
        others = [worker for worker in computing_workers(shell.run) if worker.environ()["SLURM_JOB_ID"] != first[0]]
        with frozen(others):  # not that of the lost job: SLURM would leave it behind
            shell.slurm.ask("scancel", first[0])
            shell.wait(lambda: another_job(shell, first), "a job in the place of the lost one")
        assert process.wait(PATIENCE_SECONDS) == 0, (shell.folder / "said").read_text()
    finally:
        process.kill()
    shell.wait(lambda: not shell.slurm.ask("squeue", "--noheader"), "its jobs to end")
    require_same(shell.run, undisturbed)


def another_job(shell: Shell, known: list[str]) -> bool:
    return bool(set(shell.slurm.ask("squeue", "--noheader", "--format=%i").split()) - set(known))


ALL_DEVICES = """\
import json, os, signal, sys, threading
from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.config import ClusterConfig
from support.processes import wait_until

def where():
    return os.environ["SLURMD_NODENAME"], os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid()

def ask():
    return {tuple(place): pid for *place, pid in executor._client.run(where, on_error="ignore").values()}

config = ClusterConfig(kind="slurm", gpus_per_node=2, memory_limit="400MB", interface="lo")
with CLUSTERS["slurm"].executor(config, print) as executor:
    before = ask()
    place = sorted(before)[0]
    os.kill(before[place], signal.SIGKILL)
    wait_until(lambda: len(after := ask()) == 4 and after[place] != before[place], "its nanny to restart the worker")
    print(json.dumps(["devices", sorted(before), sorted(ask())]))
"""


def test_each_worker_of_a_job_with_cards_sees_one_of_them_and_keeps_it(shell: Shell) -> None:
    """Without the option of the steps, SLURM shows each worker both cards of its node."""
    (shell.folder / "ask.py").write_text(ALL_DEVICES)
    root = Path(__file__).parents[2]
    asked = [
        "--nodes=2",
        "--ntasks=4",
        "--ntasks-per-node=2",
        "--cpus-per-task=1",
        "--gres=gpu:2",
        "--mem-per-cpu=900M",
    ]
    output = shell.folder / "output"
    lines = [f"export PYTHONPATH={root / 'pipeline'}:{root / 'tests'}", f"exec {sys.executable} {shell.folder}/ask.py"]
    (shell.folder / "job.sh").write_text("\n".join(["#!/bin/bash", *lines]))
    job = shell.slurm.ask("sbatch", "--parsable", *asked, f"--output={output}", str(shell.folder / "job.sh"))
    shell.wait_for_state(job, "COMPLETED", "FAILED")
    (line,) = [line for line in output.read_text().splitlines() if line.startswith('["devices"')]
    each = [[node, card] for node in ("n1", "n2") for card in ("0", "1")]
    assert json.loads(line) == ["devices", each, each]
