"""Pods of a Kubernetes cluster, kept by the Dask operator from a `DaskCluster` that this module writes.

The `KubeCluster` of dask-kubernetes is not used: it has no TLS. Certificates are a Secret of the cluster's own. All
objects go when the driver ends: it deletes them; otherwise Kubernetes deletes them with their owner, the driver's pod,
or the next driver of its Job does. `deploy/kubernetes` holds the same as manifests, and some that need no operator.
"""

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dask.config
import distributed

from cntk_pipeline.clusters.base import Executor, require_no_stop
from cntk_pipeline.clusters.dask.certificates import make_pem, security_of
from cntk_pipeline.clusters.dask.executor import ExecutorTraits, count_workers, prepared
from cntk_pipeline.clusters.dask.scaling import Scalable, Scaling, bounds
from cntk_pipeline.clusters.dask.settings import SETTINGS
from cntk_pipeline.clusters.kubernetes.manifests import INSTANCE, Names, Owner, cluster_manifest, secret_manifest
from cntk_pipeline.clusters.kubernetes.options import EXTRA, KubernetesOptions
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.errors import ConfigError, WorkersLost

logger = logging.getLogger(__name__)

START_SECONDS = 600.0
"""Time for the start: nodes may have to be added, and an image be fetched, before the first pod runs."""

ATTEMPT_SECONDS = 15.0
"""Time of one attempt to connect; a request to stop waits as long."""

PATIENCE_SECONDS = 1800.0


@contextmanager
def open_kubernetes(
    config: ClusterConfig, prepare: Callable[[], None], stop: threading.Event | None = None
) -> Iterator[Executor]:
    """Make a `DaskCluster`, wait for its workers, and delete it afterwards.

    Raises
    ------
    ConfigError
        If a value is missing, kr8s is not installed, or the API server or its operator is missing.
    WorkersLost
        If no scheduler or too few workers come up.
    """
    minimum, maximum = require_described(config)
    pem = make_pem() if config.tls else ()
    with _created(config, minimum, pem) as names:
        address = KubernetesOptions.of(config).address or names.address(config.tls)
        with dask.config.set(SETTINGS), _connect(address, pem, stop) as client:
            _wait_for_workers(client, minimum, names, stop)
            scaling = Scaling(Pods(names, minimum), minimum, maximum, config.threads_per_worker)
            count = f"{minimum}" if minimum == maximum else f"{minimum} to {maximum}"
            label = f"{count} pods of {names.cluster} in {names.namespace}, scheduler {address}"
            yield prepared(client, prepare, ExecutorTraits(label, PATIENCE_SECONDS, scaling=scaling))


def require_described(config: ClusterConfig) -> tuple[int, int]:
    """Check that a table has all values that a cluster needs; return its smallest and largest number of workers.

    Raises
    ------
    ConfigError
        If a value is missing, or kr8s is not installed.
    """
    EXTRA.require('the "kubernetes" cluster')
    if config.workers is None:
        raise ConfigError('the "kubernetes" cluster needs cluster.workers: how many pods it asks for')
    cluster_manifest(config, Names("cntk", "default"), config.workers)
    return bounds(config, config.workers)


class Pods(Scalable):
    """The worker pods of a `DaskCluster`, ``count`` of them at first."""

    def __init__(self, names: Names, count: int) -> None:
        self._names, self._count = names, count

    def request(self, count: int) -> None:
        self._count = count
        group = dask_class("DaskWorkerGroup")(self._names.worker_group, namespace=self._names.namespace)
        try:
            with explained():
                group.patch({"spec": {"worker": {"replicas": count}}})
        except (ConfigError, WorkersLost) as error:  # existing pods compute on, and the request is repeated
            logger.warning("%s", error)

    def release(self, names: Sequence[str]) -> None:
        # The operator chooses: it asks the scheduler without TLS for idle pods, gets no answer, and takes the youngest.
        self.request(self._count - len(names))


def dask_class(kind: str) -> Any:
    """Return the class of one of the operator's kinds of objects."""
    import kr8s

    return kr8s.objects.new_class(kind, "kubernetes.dask.org/v1", namespaced=True)


@contextmanager
def _created(config: ClusterConfig, workers: int, pem: tuple[str, ...]) -> Iterator[Names]:
    """Make the objects of a cluster, and delete them in any case."""
    import kr8s

    owner, namespace = Owner.here(), KubernetesOptions.of(config).namespace
    with explained():
        names = Names(f"cntk-{uuid.uuid4().hex[:8]}", namespace or kr8s.api().namespace)
        if owner is not None:
            _delete_those_before(owner, names.namespace)
    cluster = dask_class("DaskCluster")(cluster_manifest(config, names, workers, owner))
    made = [kr8s.objects.Secret(secret_manifest(names, pem, owner)), cluster] if pem else [cluster]
    try:
        with explained():
            for described in made:
                described.create()
        yield names
    finally:
        for described in reversed(made):
            with contextlib.suppress(ConfigError, WorkersLost), explained():  # also an object that was not created
                described.delete()


def _delete_those_before(owner: Owner, namespace: str) -> None:
    """Delete objects of an earlier driver of the same Job: it may have been killed in this pod, or in a kept one."""
    import kr8s

    for cluster in dask_class("DaskCluster").list(namespace=namespace, label_selector={INSTANCE: owner.job}):
        secret = Names(cluster.name, namespace).secret
        for left in (cluster, kr8s.objects.Secret(secret, namespace=namespace)):
            with contextlib.suppress(kr8s.NotFoundError):
                left.delete()


@contextmanager
def explained() -> Iterator[None]:
    """Turn a refusal of the API server into an error that names its likely cause.

    Raises
    ------
    ConfigError
        If the server refuses, or there is none.
    WorkersLost
        If it does not answer right now.
    """
    EXTRA.require('the "kubernetes" cluster')
    import httpx
    import kr8s

    try:
        yield
    except (kr8s.APITimeoutError, kr8s.ConnectionClosedError, httpx.HTTPError) as error:
        raise WorkersLost(f"the Kubernetes API server does not answer: {type(error).__name__}: {error}") from error
    except (kr8s.NotFoundError, kr8s.ServerError, ValueError) as error:
        raise ConfigError(
            f"the Kubernetes API server refuses: {error}. The Dask operator must be installed, and whoever asks be "
            "allowed to: deploy/kubernetes/access.yaml"
        ) from error


def _connect(address: str, pem: tuple[str, ...], stop: threading.Event | None) -> distributed.Client:
    deadline = time.monotonic() + START_SECONDS
    while True:
        require_no_stop(stop)
        try:
            return distributed.Client(address, security=security_of(*pem) if pem else None, timeout=ATTEMPT_SECONDS)
        except (OSError, ValueError) as error:
            if time.monotonic() < deadline and isinstance(error, OSError):
                time.sleep(0.2)
                continue
            raise WorkersLost(
                f"no scheduler answers at {address}: {error}. The driver must run in the cluster (deploy/kubernetes), "
                "or cluster.address name a forwarded port"
            ) from error


def _wait_for_workers(client: distributed.Client, count: int, names: Names, stop: threading.Event | None) -> None:
    deadline = time.monotonic() + START_SECONDS
    while count_workers(client) < count:
        require_no_stop(stop)
        if time.monotonic() > deadline:
            raise WorkersLost(
                f"only {count_workers(client)} of {count} workers came up in {START_SECONDS:g} s: look at "
                f"`kubectl -n {names.namespace} get pods -l dask.org/cluster-name={names.cluster}`"
            )
        time.sleep(0.2)
