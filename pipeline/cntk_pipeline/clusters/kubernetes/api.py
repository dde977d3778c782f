"""Questions to the API server of Kubernetes, from the executor and from a submission."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cntk_pipeline.clusters.dask.scaling import bounds
from cntk_pipeline.clusters.kubernetes.manifests import Names, cluster_manifest
from cntk_pipeline.clusters.kubernetes.options import EXTRA
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.errors import ConfigError, WorkersLost


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


def dask_class(kind: str) -> Any:
    """Return the class of one of the operator's kinds of objects."""
    import kr8s

    return kr8s.objects.new_class(kind, "kubernetes.dask.org/v1", namespaced=True)


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
            f"the Kubernetes API server refuses: {error}. The Dask operator must be installed, and the user be "
            "allowed to: deploy/kubernetes/access.yaml"
        ) from error
