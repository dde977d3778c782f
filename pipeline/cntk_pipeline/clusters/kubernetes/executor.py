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

import dask.config
import distributed

from cntk_pipeline.clusters.base import Executor, require_no_stop
from cntk_pipeline.clusters.dask.certificates import security_of
from cntk_pipeline.clusters.dask.executor import ExecutorTraits, count_workers, prepared
from cntk_pipeline.clusters.dask.scaling import Scalable, Scaling
from cntk_pipeline.clusters.dask.settings import SETTINGS
from cntk_pipeline.clusters.dask.signing import make_pem
from cntk_pipeline.clusters.kubernetes.api import dask_class, explained, require_described
from cntk_pipeline.clusters.kubernetes.manifests import INSTANCE, Names, Owner, cluster_manifest, secret_manifest
from cntk_pipeline.clusters.kubernetes.options import KubernetesOptions
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
    config: ClusterConfig, prepare: Callable[[], None], stop: threading.Event | None
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
