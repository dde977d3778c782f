"""Runs on a real Kubernetes API server with the real Dask operator: submitted, watched, hurt, cancelled and resumed.

The node is played by `real.kubernetes.kubelet`; everything is asked for from pods with the rights that the manifests
give, in the claim that they mount.
"""

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from real.kubernetes.control_plane import PROGRAMS, PrivateKubernetes, private_kubernetes, programs_on_path
from support.problems import Recorder, require_same_kernel, toml
from support.processes import begun, receipts, wait_until
from support.s3_server import PROGRAMS as S3_PROGRAMS
from support.s3_server import s3_server

from cntk_pipeline.config import parse_config
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import handover
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

MANIFESTS = Path(__file__).parent.parent.parent / "deploy" / "kubernetes"
CLAIM = "cntk-runs"
CLUSTERS = "kubernetes.dask.org/v1/daskclusters"
PATIENCE_SECONDS = 400.0
WORKFLOW: dict[str, Any] = {
    "name": "small",
    "data": {"source": "digits", "train": 400, "test": 40},
    "network": {"preset": "cntk"},
    "readouts": {"depths": [3, 150], "poolings": ["gap"]},
    "kernel": {"tile": 32},
    "solve": {"ridges": [1e-2], "tile": 96},
}
CLUSTER: dict[str, Any] = {
    "kind": "kubernetes",
    "image": "cntk-pipeline:0.1.0",
    "workers": 2,
    "memory_limit": "700MB",
    "volume_claim": CLAIM,
}


@dataclass(frozen=True)
class Desk:
    """A pod in which commands are given, as deploy/kubernetes/desk.yaml describes it."""

    cluster: PrivateKubernetes
    pod: str

    @property
    def claim(self) -> Path:
        """Where the claim of the run directories lies on this machine."""
        return self.cluster.folder / "claims" / CLAIM

    def cntk(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Give a command."""
        return self.cluster.execute(self.pod, "python", "-m", "cntk_pipeline.cli", *arguments)

    def submit(self, name: str, workflow: dict[str, Any] = WORKFLOW, **cluster: Any) -> Path:
        """Submit a workflow, and return its run directory as this machine sees it."""
        (self.claim / f"{name}.toml").write_text(toml(workflow))
        (self.claim / f"{name}-cluster.toml").write_text(toml({"cluster": CLUSTER | cluster}))
        said = self.cntk(*self.command(name))
        assert said.returncode == 0, said.stdout + said.stderr
        assert "submitted as kubernetes default/cntk-small-" in said.stdout
        return self.claim / name

    def command(self, name: str) -> list[str]:
        return ["submit", f"/runs/{name}.toml", "--cluster", f"/runs/{name}-cluster.toml", "--store", f"/runs/{name}"]

    def status(self, name: str) -> dict[str, Any]:
        """Ask how a run is."""
        return json.loads(self.cntk("status", f"/runs/{name}", "--json").stdout)

    def pods_of(self, part: str) -> list[str]:
        """Name the pods of a part of the runs that are not being deleted."""
        label = "app.kubernetes.io/component" if part == "driver" else "dask.org/component"
        pods = self.cluster.pods(f"{label}={part}")
        return [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def delete(self, pod: str) -> None:
        self.cluster.api.call("DELETE", f"/api/v1/namespaces/default/pods/{pod}")

    def left(self) -> list[str]:
        """Name what is there of any run, but for finished Jobs and their pods."""
        secrets = [name for name in self.cluster.names("secrets") if "-token-" not in name]
        return [*self.cluster.names(CLUSTERS), *secrets, *self.pods_of("scheduler"), *self.pods_of("worker")]


@pytest.fixture(scope="module")
def desk(require: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PATH", programs_on_path())
        require(*PROGRAMS, root=True)
        folder = tmp_path_factory.mktemp("kubernetes")
        for parent in (folder, *folder.parents):
            if parent.stat().st_uid == 0 and parent != Path("/tmp"):
                parent.chmod(parent.stat().st_mode | 0o111)  # pods do not run as root
        with private_kubernetes(folder / "c") as cluster:
            for name in ("access.yaml", "desk.yaml"):
                cluster.apply(list(yaml.safe_load_all((MANIFESTS / name).read_text())))
            modes = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
            claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": modes}
            cluster.apply([claim])
            selector = "app.kubernetes.io/component=desk"
            wait_until(lambda: any(pod["status"]["phase"] == "Running" for pod in cluster.pods(selector)), "the desk")
            yield Desk(cluster, cluster.pods(selector)[0]["metadata"]["name"])


def wait_for(desk: Desk, holds: Callable[[], bool], what: str) -> None:
    wait_until(holds, what, desk.cluster.describe, PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    config = parse_config(WORKFLOW | {"cluster": {"kind": "serial"}, "store": {"path": str(path)}}, "test")
    return runs.start(config, Recorder(), threading.Event())


def test_a_run_loses_a_worker_and_two_drivers_and_ends_with_the_same_bits(
    desk: Desk, undisturbed: RunDirectory
) -> None:
    """Without `_delete_those_before` the first driver's cluster stays; without owners, the second one's does."""
    path = desk.submit("lossy")
    wait_for(desk, lambda: receipts(path) >= 5, "the first tiles")
    status = desk.status("lossy")
    assert status["state"] == "running"
    assert "driver running, scheduler running, 2 workers running" in status["words"]
    desk.delete(desk.pods_of("worker")[0])
    seen = receipts(path)
    wait_for(desk, lambda: receipts(path) >= seen + 5 and len(desk.pods_of("worker")) == 2, "the worker's return")
    (driver,), before = desk.pods_of("driver"), desk.cluster.names(CLUSTERS)
    desk.cluster.kill(driver)
    wait_for(desk, lambda: desk.cluster.names(CLUSTERS) not in (before, []), "the driver's new cluster")
    wait_for(desk, lambda: set(desk.cluster.names(CLUSTERS)).isdisjoint(before), "the end of the old cluster")
    seen = receipts(path)
    wait_for(desk, lambda: receipts(path) >= seen + 5, "tiles of the second driver")
    desk.delete(driver)
    wait_for(desk, lambda: desk.pods_of("driver") not in ([driver], []), "another pod of the driver")
    wait_for(desk, lambda: make_report(RunDirectory(path)).complete and not desk.left(), "the end")
    assert desk.status("lossy")["state"] == "gone"
    require_same_kernel(RunDirectory(path), undisturbed)
    tiles = begun(path)
    print(f"{len(tiles) - len(set(tiles))} tiles begun again; a worker and two drivers lost")


def test_a_run_is_cancelled_and_resumed_from_a_pod(desk: Desk, undisturbed: RunDirectory) -> None:
    """Without ``--settle`` in the Job the driver fails when it was asked to stop, and Kubernetes starts it again."""
    path = desk.submit("stopped", minimum_workers=1)  # the solve then asks for the other one
    wait_for(desk, lambda: receipts(path) >= 3, "the first tiles")
    again = desk.cntk(*desk.command("stopped"))
    assert again.returncode != 0
    assert "is running for /runs/stopped already" in again.stderr
    assert "finishes the tiles in flight" in desk.cntk("cancel", "/runs/stopped").stdout
    wait_for(desk, lambda: desk.status("stopped")["state"] == "gone" and not desk.left(), "the driver's end")
    assert "stopped" in desk.status("stopped")["ending"]["message"]
    stopped = receipts(path)
    assert len(begun(path)) == stopped, "tiles in flight were lost"
    (job,) = [pod for pod in desk.cluster.pods("app.kubernetes.io/component=driver") if is_of(pod, path)]
    assert job["status"]["phase"] == "Succeeded", "Kubernetes would start it again"
    resumed = desk.cntk("resume", "/runs/stopped", "--cluster", "/runs/stopped-cluster.toml")
    assert "submitted as kubernetes default/cntk-small-" in resumed.stdout, resumed.stderr
    wait_for(desk, lambda: make_report(RunDirectory(path)).complete and not desk.left(), "the end")
    require_same_kernel(RunDirectory(path), undisturbed)


def test_a_run_in_a_bucket_is_submitted_from_a_laptop(
    desk: Desk, undisturbed: RunDirectory, require: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the Secret left out of the pods, the driver finds no credentials and the run never ends."""
    require(*S3_PROGRAMS)
    (tmp_path / "gateway").mkdir()
    address = desk.cluster.server.removeprefix("https://").partition(":")[0]
    with s3_server(tmp_path / "gateway", address) as gateway:
        for name, value in gateway.environment.items():
            monkeypatch.setenv(name, value)
        token = desk.cluster.token_of("cntk-desk")
        monkeypatch.setenv("KUBECONFIG", str(desk.cluster.kubeconfig(tmp_path / "kubeconfig", token)))
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cntk-s3"}}
        desk.cluster.apply([secret | {"stringData": gateway.environment}])
        place = f"s3://{gateway.bucket}/run"
        cluster = {name: value for name, value in CLUSTER.items() if name != "volume_claim"}
        config = parse_config(WORKFLOW | {"cluster": cluster, "store": {"path": place}}, "test")
        run, submission = handover.submit(config, Recorder())
        wait_for(desk, lambda: make_report(RunDirectory(place)).complete, "the end")
        wait_for(desk, lambda: handover.whereabouts(run).state == "gone", "the driver's end")
        require_same_kernel(RunDirectory(place), undisturbed)
        desk.cluster.api.call("DELETE", "/api/v1/namespaces/default/secrets/cntk-s3")
        jobs = desk.cluster.api.items("/apis/batch/v1/namespaces/default/jobs")
        (job,) = [job for job in jobs if job["metadata"]["name"] == submission.job.partition("/")[2]]
        assert gateway.environment["AWS_SECRET_ACCESS_KEY"] not in json.dumps(job)
        wait_for(desk, lambda: not desk.left(), "everything to go")


def test_the_status_says_what_pods_wait_for_and_cancelling_at_once_leaves_nothing(desk: Desk) -> None:
    desk.submit("absent", image="cntk-pipeline:absent")
    absent = 'driver pending (ImagePullBackOff: Back-off pulling image "cntk-pipeline:absent")'
    wait_for(desk, lambda: absent in desk.status("absent")["words"], absent)
    assert desk.status("absent")["state"] == "queued"
    assert "had not begun: it is out of the queue" in desk.cntk("cancel", "/runs/absent").stdout
    desk.submit("large", memory_limit="100GiB")
    large = "2 workers pending (Unschedulable: 0/1 nodes are available: 1 Insufficient memory.)"
    wait_for(desk, lambda: large in desk.status("large")["words"], large)
    assert "was ended at once" in desk.cntk("cancel", "/runs/large", "--now").stdout
    jobs = [desk.status(name)["submission"]["job"].partition("/")[2] for name in ("absent", "large")]

    def mine() -> list[str]:
        names = [name for kind in ("pods", "batch/v1/jobs") for name in desk.cluster.names(kind)]
        return [name for name in names if name.startswith(tuple(jobs))]

    wait_for(desk, lambda: not mine() and not desk.left(), "everything to go")


def test_what_no_pod_could_see_or_find_is_refused_before_anything_is_written(desk: Desk) -> None:
    def refused(name: str, **cluster: Any) -> str:
        (desk.claim / f"{name}.toml").write_text(toml(WORKFLOW))
        (desk.claim / f"{name}-cluster.toml").write_text(toml({"cluster": CLUSTER | cluster}))
        said = desk.cntk(*desk.command(name)[:-1], "/tmp/here" if name == "here" else f"/runs/{name}")
        assert said.returncode != 0
        assert not (desk.claim / name).exists()
        return said.stderr

    assert "no pod can see /tmp/here. Give the run a place in a bucket" in refused("here")
    assert "there is no service account nobody" in refused("account", service_account="nobody")
    assert "there is no claim nothing" in refused("claim", volume_claim="nothing")
    assert "no pod can see /runs/without" in refused("without", volume_claim="")


def test_a_stop_is_heeded_while_pods_are_waited_for(desk: Desk) -> None:
    """Fails where the executor does not look at requests: it waits for pods for ten minutes."""
    desk.submit("patient", memory_limit="100GiB")
    wait_for(desk, lambda: "Unschedulable" in desk.status("patient")["words"], "a pod that cannot be placed")
    assert desk.cntk("cancel", "/runs/patient").returncode == 0
    wait_for(desk, lambda: desk.status("patient")["state"] == "gone", "the driver's end")
    assert "stopped while it waited for its workers" in desk.status("patient")["ending"]["message"]
    wait_for(desk, lambda: not desk.left(), "everything to go")


def test_the_roles_allow_what_is_used_and_no_more(desk: Desk) -> None:
    """Runs last. A verb more in access.yaml, or one that the driver needs and lacks, fails it."""
    for role, account in (("cntk-driver", "cntk-driver"), ("cntk-submitter", "cntk-desk")):
        documents = yaml.safe_load_all((MANIFESTS / "access.yaml").read_text())
        (described,) = [d for d in documents if (d["kind"], d["metadata"]["name"]) == ("Role", role)]
        allowed = {(v, kind) for rule in described["rules"] for v in rule["verbs"] for kind in rule["resources"]}
        assert desk.cluster.rights_used(account) == allowed
    assert not desk.cluster.refused()


def is_of(pod: dict[str, Any], path: Path) -> bool:
    return f"/runs/{path.name}" in pod["spec"]["containers"][0]["command"]
