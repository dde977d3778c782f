"""What is said and refused of drivers on Kubernetes; `tests/real/test_kubernetes.py` has a real API server."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusters.test_handover import begun_run, cntk, receipts, submission
from support.problems import toml
from support.processes import PATIENCE_SECONDS, wait_until

from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.clusters.base import DRAIN_SECONDS
from cntk_pipeline.clusters.kubernetes.manifests import job_manifest
from cntk_pipeline.clusters.kubernetes.submitter import describe_pods
from cntk_pipeline.clusters.submitter import driver_command
from cntk_pipeline.config import RunConfig, parse_config
from cntk_pipeline.errors import (
    ConfigError,
    Interrupted,
    NotPositiveDefinite,
    PipelineError,
    RunLocked,
    RunNotFound,
    StoreUnavailable,
    SubmissionFailed,
    TilesFailed,
    WorkersLost,
)
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.submissions import clear_earlier, request_stop
from cntk_pipeline.storage import LocalPath, open_path
from cntk_pipeline.workflow import handover
from cntk_pipeline.workflow.report import make_report

SUBMITTER = CLUSTERS["kubernetes"].submitter


def workflow(**cluster: Any) -> RunConfig:
    table = {"kind": "kubernetes", "image": "an-image", "workers": 2, "memory_limit": "1GiB"} | cluster
    return parse_config({"network": {"preset": "cntk"}, "cluster": table}, "test")


def pod(part: str, **status: Any) -> dict[str, Any]:
    label = "app.kubernetes.io/component" if part == "driver" else "dask.org/component"
    return {"metadata": {"name": part, "labels": {label: part}}, "status": status}


def container(**states: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "main"} | states]}


RUNNING = {"phase": "Running"} | container(state={"running": {"startedAt": "now"}})


@pytest.mark.parametrize(
    ("pods", "said"),
    [
        ([], ""),
        ([pod("driver", **RUNNING)], "driver running"),
        ([pod(part, **RUNNING) for part in ("worker", "driver", "worker")], "driver running, 2 workers running"),
        (
            [
                pod(
                    "worker",
                    phase="Pending",
                    conditions=[
                        {"type": "Ready", "status": "False", "reason": "not this"},
                        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"},
                    ],
                )
            ],
            "worker pending (Unschedulable: no node)",
        ),
        (
            [
                pod(
                    "driver",
                    phase="Pending",
                    **container(state={"waiting": {"reason": "ImagePullBackOff", "message": "cannot pull"}}),
                )
            ],
            "driver pending (ImagePullBackOff: cannot pull)",
        ),
        (
            [
                pod(
                    "driver",
                    phase="Running",
                    **container(
                        state={"waiting": {"reason": "CrashLoopBackOff"}},
                        lastState={"terminated": {"reason": "OOMKilled", "exitCode": 137}},
                    ),
                )
            ],
            "driver running (CrashLoopBackOff; OOMKilled: exit code 137)",
        ),
        (
            [
                pod(
                    "driver",
                    phase="Failed",
                    reason="Evicted",
                    message="The node was low on resource: memory. ",
                    conditions=[
                        {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"},
                        {"type": "PodScheduled", "status": "True"},
                    ],
                )
            ],
            "driver failed (Evicted: The node was low on resource: memory.; TerminationByKubelet)",
        ),
    ],
)
def test_pods_are_described_with_the_reasons_that_kubernetes_gives(pods: list[Any], said: str) -> None:
    assert describe_pods(pods) == said


@pytest.mark.parametrize("place", ["runs/here", "/runs", "/data/runs/one", "/runs/../home/me/x", "/home/../runs/x"])
def test_a_place_that_no_pod_sees_is_refused_with_what_to_do(place: str) -> None:
    with pytest.raises(ConfigError, match=r"no pod can see .*(--store s3://BUCKET/NAME).*Secret cntk-s3.*desk.yaml"):
        SUBMITTER.check_place(LocalPath(place), workflow(volume_claim="cntk-runs"))


def test_a_bucket_and_a_claim_are_seen_by_all_pods() -> None:
    SUBMITTER.check_place(open_path("s3://bucket/run"), workflow())
    SUBMITTER.check_place(LocalPath("/runs/one"), workflow(volume_claim="cntk-runs"))
    with pytest.raises(ConfigError, match="no pod can see /runs/one"):
        SUBMITTER.check_place(LocalPath("/runs/one"), workflow())


def test_a_dollar_in_a_place_is_no_variable_of_the_pod() -> None:
    """Seen to fail as it was: Kubernetes puts the name of the Job in the place of "$(CNTK_JOB)"."""
    command = driver_command("/runs/$(CNTK_JOB)$x")[2:]
    job = job_manifest(workflow().cluster, "cntk-a", "default", command)
    (driver,) = job["spec"]["template"]["spec"]["containers"]
    assert driver["command"][-1] == "/runs/$$(CNTK_JOB)$$x"


def test_the_driver_to_apply_by_hand_drains_and_stays_away_after_a_cancel_as_a_submitted_one() -> None:
    manifest = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "kubernetes" / "driver.yaml").read_text())
    by_hand = manifest["spec"]["template"]["spec"]
    submitted = job_manifest(workflow().cluster, "cntk-a", "default", [])["spec"]["template"]["spec"]
    for key in ("restartPolicy", "terminationGracePeriodSeconds"):
        assert by_hand[key] == submitted[key]
    assert by_hand["terminationGracePeriodSeconds"] > DRAIN_SECONDS
    assert "--end-on-cancel" in by_hand["containers"][0]["command"]


def pods_in(described: Any) -> list[Any]:
    """Find the security contexts of pods in a manifest."""
    if isinstance(described, list):
        return [found for each in described for found in pods_in(each)]
    if not isinstance(described, dict):
        return []
    below = pods_in(list(described.values()))
    return [described, *below] if "fsGroup" in described else below


def test_no_start_of_a_pod_opens_the_files_of_a_claim_to_its_group() -> None:
    """Seen to fail: the user's key on the claim became 0660 and signed nothing, and all chunks were looked at."""
    deployed = Path(__file__).parents[2] / "deploy" / "kubernetes"
    manifests = [job_manifest(workflow(volume_claim="runs").cluster, "cntk-a", "default", [])]
    manifests += [each for file in sorted(deployed.glob("*.yaml")) for each in yaml.safe_load_all(file.read_text())]
    pods = pods_in(manifests)
    assert len(pods) == 7
    assert {pod.get("fsGroupChangePolicy") for pod in pods} == {"OnRootMismatch"}


@pytest.mark.slow
def test_a_run_that_was_cancelled_ends_well_where_it_would_be_started_again(tmp_path: Path) -> None:
    """Seen to fail without the option: 130, upon which Kubernetes starts the driver anew, and that one computes on."""
    tables = {
        "data": {"source": "digits", "train": 60, "test": 20},
        "network": {"preset": "cntk"},
        "readouts": {"depths": [60], "poolings": ["gap"]},
        "kernel": {"tile": 4},
        "cluster": {"kind": "serial"},
    }
    (tmp_path / "w.toml").write_text(toml(tables))
    path = open_path(tmp_path / "run")
    command = [sys.executable, "-m", "cntk_pipeline.cli", "run", "w.toml", "--store", "run", "--end-on-cancel"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as driver:
        wait_until(lambda: receipts(path) > 0, "a tile")
        handover.cancel(path)
        said = driver.communicate(timeout=PATIENCE_SECONDS)[1]
    assert driver.returncode == 0, said
    assert "every finished tile is kept" in said
    assert not make_report(RunDirectory(path)).complete


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({"image": None}, "needs cluster.image"),
        ({"workers": None}, "needs cluster.workers"),
        ({"memory_limit": "auto"}, r"memory_limit of a worker in bytes"),
        ({"memory_limit": 0.5}, r"memory_limit of a worker in bytes \(\"4GiB\"\), got 0.5"),
        ({"minimum_workers": 3}, "must be at most cluster.workers"),
    ],
)
def test_what_a_pod_must_know_is_asked_for_before_the_api_server(cluster: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SUBMITTER.check(workflow(**cluster))


def test_without_an_api_server_nothing_is_submitted_and_nothing_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SubmissionFailed, match=r"the Kubernetes API server refuses: .*access.yaml"):
        SUBMITTER.check(workflow())
    mine = submission("kubernetes", "default/cntk-x")
    assert SUBMITTER.state(mine) == "unknown"
    assert "the Kubernetes API server refuses" in SUBMITTER.standing(mine).words


@pytest.mark.parametrize(
    ("error", "settled"),
    [
        (ConfigError("a tile does not fit"), True),
        (TilesFailed("a tile kills its workers"), True),
        (NotPositiveDefinite("a ridge is too small"), True),
        (WorkersLost("no worker came"), False),
        (RunLocked("the driver before this one still drains"), False),
        (RunNotFound("a volume that is not there yet"), False),
        (StoreUnavailable("a store that does not answer"), False),
        (Interrupted("the pod was taken away"), False),
    ],
)
def test_a_driver_is_started_again_where_that_may_help(tmp_path: Path, error: PipelineError, settled: bool) -> None:
    """With everything settled a lost pod would end the run; with nothing, a poison tile would be tried 20 times."""
    run = begun_run(tmp_path / "run")
    assert handover.is_settled(run.path, error) is settled
    request_stop(run)
    assert handover.is_settled(run.path, Interrupted("cntk cancel"))
    clear_earlier(run)


@pytest.mark.slow
def test_a_driver_that_was_asked_to_stop_ends_well_for_kubernetes_alone(tmp_path: Path) -> None:
    run = begun_run(tmp_path / "run")
    request_stop(run)
    assert cntk("drive", run.path, cwd=tmp_path).returncode == 130
    said = cntk("drive", "--settle", run.path, cwd=tmp_path)
    assert said.returncode == 0
    assert "asked to stop before it began" in said.stderr
    assert receipts(run.path) == 0
    assert cntk("drive", "--settle", "nowhere", cwd=tmp_path).returncode == 2
    assert "asked to stop" in json.loads((tmp_path / "run" / "ending.json").read_text())["message"]
