"""The Kubernetes objects of a cluster, as the Dask operator takes them, as plain values."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cntk_pipeline.clusters.base import BESIDE_WORKER_BYTES, DRAIN_SECONDS
from cntk_pipeline.clusters.dask.certificates import AUTHORITY, CERTIFICATE, KEY, Certificates
from cntk_pipeline.clusters.dask.settings import SETTINGS
from cntk_pipeline.clusters.kubernetes.options import KubernetesOptions
from cntk_pipeline.config import ClusterConfig, memory_limit_bytes
from cntk_pipeline.errors import ConfigError

PORT, DASHBOARD = 8786, "127.0.0.1:8787"
_TCP = {"name": "tcp-comm", "protocol": "TCP"}
TLS_FOLDER, RUNS_FOLDER = "/tls", "/runs"
"""Mount points of the certificates and of the claim that holds run directories, in every pod."""

HEALTHY = f"import urllib.request; urllib.request.urlopen('http://{DASHBOARD}/health')"

USER = 10001
"""Number of the user that runs all processes; the image has it too."""

DRIVER_BYTES = 4 * 2**30
"""Memory of a driver, which holds the targets, their coefficients and the journal, but no tile."""

GRACE_SECONDS = int(DRAIN_SECONDS) + 30
"""Time to end for a driver whose pod is taken away: it waits for tiles in flight first."""

INSTANCE = "app.kubernetes.io/instance"
"""The label with the Job's name; a Job, its pods and all objects that they make have it."""

_POD, _POD_UID, _JOB = "CNTK_POD", "CNTK_POD_UID", "CNTK_JOB"

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Names:
    """The names of the objects of one cluster."""

    cluster: str
    namespace: str

    @property
    def secret(self) -> str:
        """Name of its certificates."""
        return f"{self.cluster}-tls"

    @property
    def worker_group(self) -> str:
        """Name of its worker group, as the operator makes it."""
        return f"{self.cluster}-default"

    def address(self, tls: bool) -> str:
        """Return the address of its scheduler for every pod."""
        return f"{'tls' if tls else 'tcp'}://{self.cluster}-scheduler.{self.namespace}.svc:{PORT}"


@dataclass(frozen=True)
class Owner:
    """The pod of a driver, and its Job. Kubernetes deletes a pod's objects with it, even if the driver was killed.

    Attributes
    ----------
    pod, uid : str
        Of the pod.
    job : str
        Its name.
    """

    pod: str
    uid: str
    job: str

    @classmethod
    def here(cls) -> "Owner | None":
        """Read the owner from this pod's environment; None outside of this package's Jobs."""
        found = [os.environ.get(name) for name in (_POD, _POD_UID, _JOB)]
        return cls(*found) if all(found) else None  # type: ignore[arg-type]

    def metadata(self) -> Manifest:
        """Return the metadata of an object that the pod owns."""
        reference = {"apiVersion": "v1", "kind": "Pod", "name": self.pod, "uid": self.uid}
        return {"labels": {INSTANCE: self.job}, "ownerReferences": [reference]}


def secret_manifest(names: Names, pem: tuple[str, ...], owner: Owner | None = None) -> Manifest:
    """Describe the Secret that holds a cluster's certificates."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(names.secret, names.namespace, owner),
        "type": "Opaque",
        "stringData": dict(zip((AUTHORITY, CERTIFICATE, KEY), pem, strict=True)),
    }


def cluster_manifest(config: ClusterConfig, names: Names, workers: int, owner: Owner | None = None) -> Manifest:
    """Describe a cluster as the Dask operator takes it.

    Raises
    ------
    ConfigError
        If the image or the memory of a worker is not given.
    """
    if not KubernetesOptions.of(config).image:
        raise ConfigError('the "kubernetes" cluster needs cluster.image: deploy/container says how to build one')
    selector = {"dask.org/cluster-name": names.cluster, "dask.org/component": "scheduler"}
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": _metadata(names.cluster, names.namespace, owner),
        "spec": {
            "scheduler": {
                "spec": pod(config, names.secret, _scheduler(config)),
                "service": {
                    "type": "ClusterIP",
                    "selector": selector,
                    "ports": [_TCP | {"port": PORT, "targetPort": "tcp-comm"}],
                },
            },
            "worker": {"replicas": workers, "spec": pod(config, names.secret, _worker(config, names))},
        },
    }


def _scheduler(config: ClusterConfig) -> Manifest:
    return container(
        config,
        "scheduler",
        ["distributed.cli.dask_scheduler", "--port", str(PORT), *_tls(config), "--dashboard-address", DASHBOARD],
    ) | {
        "resources": resources(1, 2 * 2**30),
        "ports": [_TCP | {"containerPort": PORT}],
        # Asked inside the pod: the dashboard answers only there, and TLS logs an error for each bare connection.
        "readinessProbe": {"exec": {"command": ["python", "-c", HEALTHY]}, "periodSeconds": 10, "timeoutSeconds": 5},
    }


def _worker(config: ClusterConfig, names: Names) -> Manifest:
    limit = memory_limit(config)
    worker = container(
        config,
        "worker",
        [
            "distributed.cli.dask_worker",
            *("--nthreads", str(config.threads_per_worker)),
            *("--memory-limit", str(limit)),
            *("--name", "$(DASK_WORKER_NAME)"),
            *("--local-directory", "/tmp/dask"),
            *_tls(config),
            *("--dashboard-address", "127.0.0.1:0"),
        ],
    )
    worker["resources"] = resources(config.threads_per_worker, limit + BESIDE_WORKER_BYTES)
    if config.gpus_per_node is not None:
        worker["resources"]["limits"] |= {"nvidia.com/gpu": "1"}  # a request for as many goes with it
    worker["env"] = [*worker["env"], {"name": "DASK_SCHEDULER_ADDRESS", "value": names.address(config.tls)}]
    return worker


def _tls(config: ClusterConfig) -> list[str]:
    return Certificates.within(TLS_FOLDER).arguments() if config.tls else []


def job_manifest(config: ClusterConfig, name: str, namespace: str, command: Sequence[str]) -> Manifest:
    """Describe the Job of a driver that makes its own cluster; ``command`` is a module for Python and its arguments.

    A lost pod is replaced, and a driver that ends early is started again; ``cntk drive --settle`` ends with 0 where
    another start would not help. A `podFailurePolicy` is not used: with it, the pod of a lost node is replaced only
    when somebody has removed the node.
    """
    config = config.model_copy(update={"tls": False})  # it makes the certificates, so it mounts none
    # Kubernetes would take "$(NAME)" in a word for a variable of the pod.
    driver = container(config, "driver", [word.replace("$", "$$") for word in command])
    driver["env"] = [
        *driver["env"],
        {"name": _JOB, "value": name},
        {"name": _POD, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": _POD_UID, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
    ]
    driver |= {"resources": resources(1, DRIVER_BYTES), "terminationMessagePolicy": "FallbackToLogsOnError"}
    labels = {"app.kubernetes.io/name": "cntk", "app.kubernetes.io/component": "driver", INSTANCE: name}
    described = pod(config, "", driver) | {
        "restartPolicy": "OnFailure",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "serviceAccountName": KubernetesOptions.of(config).service_account,
        "automountServiceAccountToken": True,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "backoffLimit": 20,
            "ttlSecondsAfterFinished": 7 * 86400,
            "template": {"metadata": {"labels": labels}, "spec": described},
        },
    }


def container(config: ClusterConfig, name: str, module_and_arguments: list[str]) -> Manifest:
    """Describe a container that runs a module of the image and may change nothing but its volumes."""
    options = KubernetesOptions.of(config)
    mounts: list[Manifest] = [{"name": "tmp", "mountPath": "/tmp"}]
    if config.tls:
        mounts.append({"name": "tls", "mountPath": TLS_FOLDER, "readOnly": True})
    if options.volume_claim:
        mounts.append({"name": "runs", "mountPath": RUNS_FOLDER})
    return {
        "name": name,
        "image": options.image,
        "command": ["python", "-P", "-m", *module_and_arguments],
        "env": [{"name": key, "value": value} for key, value in environment().items()],
        "envFrom": [{"secretRef": {"name": options.secret, "optional": True}}],
        "volumeMounts": mounts,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def pod(config: ClusterConfig, secret: str, described: Manifest) -> Manifest:
    """Describe the pod around a container: no root, no token of the API server."""
    claim = KubernetesOptions.of(config).volume_claim
    volumes: list[Manifest] = [{"name": "tmp", "emptyDir": {}}]
    if config.tls:
        # Readable by the pod's group; only its own user is in it.
        volumes.append({"name": "tls", "secret": {"secretName": secret, "defaultMode": 0o440}})
    if claim:
        volumes.append({"name": "runs", "persistentVolumeClaim": {"claimName": claim}})
    return {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            # "Always" would open every file of the claim to the group whenever a pod starts, the user's key among them.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [described],
        "volumes": volumes,
    }


def _metadata(name: str, namespace: str, owner: Owner | None) -> Manifest:
    return {"name": name, "namespace": namespace} | ({} if owner is None else owner.metadata())


def resources(cores: int, memory_bytes: int) -> Manifest:
    """Request as much as the limit, so that no neighbour's demand ends a pod."""
    amount = {"cpu": str(cores), "memory": f"{-(-memory_bytes // 2**20)}Mi"}
    return {"requests": amount, "limits": dict(amount)}


def environment() -> dict[str, str]:
    """Return Dask's settings as environment variables of a pod."""
    before_start = "distributed.nanny.pre-spawn-environ."
    # Dask would read the names of these in lower case; a worker inherits them from its pod.
    inherited = {key.removeprefix(before_start): value for key, value in SETTINGS.items() if before_start in key}
    settings = {
        "DASK_" + key.upper().replace(".", "__").replace("-", "_"): value
        for key, value in SETTINGS.items()
        if before_start not in key
    }
    return {key: str(value) for key, value in (settings | inherited | {"NUMBA_CACHE_DIR": "/tmp/numba"}).items()}


def memory_limit(config: ClusterConfig) -> int:
    """Return the memory of a worker in bytes.

    Raises
    ------
    ConfigError
        If it is not given in bytes.
    """
    limit = memory_limit_bytes(config.memory_limit)
    if limit is None:
        raise ConfigError(
            'the "kubernetes" cluster needs cluster.memory_limit of a worker in bytes ("4GiB"), '
            f"got {config.memory_limit!r}"
        )
    return limit
