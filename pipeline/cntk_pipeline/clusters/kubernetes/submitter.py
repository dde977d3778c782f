"""A driver as a Job of Kubernetes, whose pod makes the cluster that it computes on.

The Job holds the place of the run and the description of its pods. The workflow and the images are in the run
directory, credentials in a Secret that is only named.
"""

import contextlib
import os
import re
import socket
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from cntk_pipeline.clusters.kubernetes.api import dask_class, explained, require_described
from cntk_pipeline.clusters.kubernetes.manifests import INSTANCE, RUNS_FOLDER, Manifest, job_manifest
from cntk_pipeline.clusters.kubernetes.options import KubernetesOptions
from cntk_pipeline.clusters.submitter import JobStatus, State, Submitter, driver_command
from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import ConfigError, SubmissionFailed, WorkersLost
from cntk_pipeline.resources import BatchJob
from cntk_pipeline.rundir.submissions import Submission
from cntk_pipeline.storage import LocalPath, StorePath

PARTS = ("driver", "scheduler", "worker")
PART_LABELS = ("dask.org/component", "app.kubernetes.io/component")
"""The kinds of a run's pods, and the labels that hold a pod's kind: the operator's label, and a Job's."""

_JOB = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
"""Name of a Job here, NAMESPACE/NAME, as Kubernetes names objects: both become parts of an address."""


class KubernetesSubmitter(Submitter):
    """A submitter that uses kubectl's API server, or the server of the pod that it runs in.

    No job follows another one: Kubernetes itself restarts a driver that was taken away.
    """

    drives_itself = True

    def check(self, config: RunConfig) -> None:
        require_described(config.cluster)
        cluster = KubernetesOptions.of(config.cluster)
        import kr8s

        with _asking():
            namespace = cluster.namespace or kr8s.api().namespace
            _require(
                lambda: kr8s.objects.ServiceAccount(cluster.service_account, namespace=namespace).refresh(),
                f"there is no service account {cluster.service_account} in the namespace {namespace}: "
                "kubectl apply -f deploy/kubernetes/access.yaml, or name another one in cluster.service_account",
            )
            if cluster.volume_claim:
                _require(
                    lambda: kr8s.objects.PersistentVolumeClaim(cluster.volume_claim, namespace=namespace).refresh(),
                    f"there is no claim {cluster.volume_claim} in the namespace {namespace}: make it, or leave "
                    "cluster.volume_claim out where the run lies in a bucket",
                )
            _require(
                lambda: list(dask_class("DaskCluster").list(namespace=namespace)),
                "this Kubernetes cluster knows no DaskCluster: its administrator has to install the Dask operator",
            )

    def check_place(self, place: StorePath, config: RunConfig) -> None:
        options = KubernetesOptions.of(config.cluster)
        claim = options.volume_claim
        if not isinstance(place, LocalPath):
            return
        named = os.fspath(place.absolute())
        if claim and all(name.startswith(f"{RUNS_FOLDER}/") for name in (named, os.path.normpath(named))):
            return
        raise ConfigError(
            f"no pod can see {place}. Give the run a place in a bucket (--store s3://BUCKET/NAME), with its "
            f"credentials in the Secret {options.secret}; or one below {RUNS_FOLDER}, where every pod has "
            "cluster.volume_claim, and submit from a pod that has it too: deploy/kubernetes/desk.yaml"
        )

    def submit(self, place: StorePath, config: RunConfig, told: str) -> str:
        with _asking():
            import kr8s

            namespace = KubernetesOptions.of(config.cluster).namespace or kr8s.api().namespace
            name = f"cntk-{_slug(config.name)}-{uuid.uuid4().hex[:6]}"
            command = [*driver_command(str(place))[2:], "--settle", "--told", told]
            kr8s.objects.Job(job_manifest(config.cluster, name, namespace, command)).create()
        return f"{namespace}/{name}"

    def state(self, submission: Submission) -> State:
        return self.standing(submission).state

    def standing(self, submission: Submission) -> JobStatus:
        job = submission.job
        if not _JOB.fullmatch(job):
            return JobStatus("unknown", "is no Job of Kubernetes")
        try:
            found, pods = _job(job), _pods(job)
        except SubmissionFailed as error:
            return JobStatus("unknown", f"cannot be asked for: {error}")
        end = "" if found is None else _end_of(found)
        if end is not None:
            return JobStatus("gone", f"has ended ({end})" if end else "has ended")
        runs = any(_part(pod) == "driver" and _is_running(pod) for pod in pods)
        return JobStatus("running" if runs else "queued", f"has these pods: {describe_pods(pods) or 'none yet'}")

    def withdraw(self, submission: Submission, *, now: bool) -> bool:
        job = submission.job
        if not _JOB.fullmatch(job) or (not now and self.state(submission) != "queued"):
            return False
        with _asking():
            import kr8s

            namespace, _, name = job.partition("/")
            pods = _pods(job) if now else []
            try:
                kr8s.objects.Job(name, namespace=namespace).delete("Background")
            except kr8s.NotFoundError:
                return False
            for pod in pods:
                if _part(pod) == "driver":
                    with contextlib.suppress(kr8s.NotFoundError):
                        # Without time to drain; all other objects go with it.
                        kr8s.objects.Pod(pod["metadata"]["name"], namespace=namespace).delete(force=True)
        return True

    def current_job(self) -> BatchJob | None:
        if "KUBERNETES_SERVICE_HOST" not in os.environ:
            return None
        return BatchJob(os.environ.get("POD_NAME") or socket.gethostname(), "pod")


def describe_pods(pods: Sequence[Manifest]) -> str:
    """Describe the states of a run's pods in one line, with reasons for pods that do not run."""
    counts = Counter((_part(pod), _condition(pod)) for pod in pods)
    lines = sorted(counts.items(), key=lambda item: (PARTS.index(item[0][0]), item[0][1]))
    return ", ".join(f"{count} {part}s {how}" if count > 1 else f"{part} {how}" for (part, how), count in lines)


@contextlib.contextmanager
def _asking() -> Iterator[None]:
    """Turn a refusal of the API server into the error of a submission."""
    try:
        with explained():
            yield
    except (ConfigError, WorkersLost) as error:
        raise SubmissionFailed(str(error)) from error


def _require(ask: Callable[[], object], otherwise: str) -> None:
    """Refuse if an object does not exist; if the user may not ask, its absence shows later."""
    import kr8s

    try:
        ask()
    except kr8s.NotFoundError:
        raise SubmissionFailed(otherwise) from None
    except kr8s.ServerError as error:
        status = None if error.response is None else error.response.status_code
        if status == 404:
            raise SubmissionFailed(otherwise) from None
        if status != 403:
            raise


def _job(job: str) -> Manifest | None:
    """Read a Job, given as NAMESPACE/NAME; None where it is gone."""
    namespace, _, name = job.partition("/")
    with _asking():
        import kr8s

        found = kr8s.objects.Job(name, namespace=namespace)
        try:
            found.refresh()  # Job.get would list all Jobs; not every user may do that
        except kr8s.NotFoundError:
            return None
        return found.raw.to_dict()


def _pods(job: str) -> list[Manifest]:
    """List the pods of a Job, and the pods of the cluster that its driver made."""
    namespace, _, name = job.partition("/")
    with _asking():
        import kr8s

        found = kr8s.objects.Pod.list(namespace=namespace, label_selector={INSTANCE: name})
        return [pod.raw.to_dict() for pod in found]


def _end_of(job: Manifest) -> str | None:
    """Describe how a Job ended; None where it has not."""
    for condition in job.get("status", {}).get("conditions", []):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return ": ".join(part for part in (condition["type"], condition.get("message")) if part)
    return None


def _part(pod: Manifest) -> str:
    labels = pod["metadata"]["labels"]
    return next(labels[label] for label in PART_LABELS if label in labels)


def _containers(pod: Manifest) -> list[Manifest]:
    return pod.get("status", {}).get("containerStatuses", [])


def _is_running(pod: Manifest) -> bool:
    return any("running" in container.get("state", {}) for container in _containers(pod))


def _condition(pod: Manifest) -> str:
    """Describe the state of a pod, and why it does not run."""
    if _is_running(pod):
        return "running"
    status = pod.get("status", {})
    conditions = [
        condition
        for condition in status.get("conditions", [])
        if (condition["type"], condition["status"]) in (("PodScheduled", "False"), ("DisruptionTarget", "True"))
    ]
    # The status itself has the reason why a pod was evicted; its containers may have left none.
    said = [words for words in map(_reason, (status, *conditions)) if words]
    for container in _containers(pod):
        for state in (container.get("state", {}), container.get("lastState", {})):
            for kind in ("waiting", "terminated"):
                if kind in state:
                    found = state[kind]
                    code = f"exit code {found['exitCode']}" if "exitCode" in found else ""
                    words = (found.get("reason"), code, (found.get("message") or "").strip())
                    said.append(": ".join(word for word in words if word))
    return " ".join([status.get("phase", "Pending").lower(), *([f"({'; '.join(said)})"] if said else [])])


def _reason(told: Manifest) -> str:
    return ": ".join(part for part in (told.get("reason"), (told.get("message") or "").strip()) if part)


def _slug(name: str) -> str:
    """Turn a run's name into a valid part of an object's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:30].strip("-") or "run"
