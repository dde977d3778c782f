"""Reading of a ``[cluster]`` table: its kind, the owners of its keys, and the extras that it needs."""

from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.clusters.cluster import Cluster
from cntk_pipeline.clusters.extras import METRICS
from cntk_pipeline.config import ClusterConfig, unknown_key
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.resources import BatchJob


def cluster_of(config: ClusterConfig) -> Cluster:
    """Return the kind of cluster that a table names; check that all its keys are known and the kind's values valid.

    The table may have keys of other kinds, since one table serves several kinds (``--set cluster.kind=serial``).

    Raises
    ------
    ConfigError
        If there is no such kind, if no kind has a key, or if a value is invalid; with the place.
    """
    cluster = CLUSTERS.get(config.kind)
    if cluster is None:
        raise ConfigError(f"unknown cluster.kind {config.kind!r}: known are {', '.join(CLUSTERS)}")
    mine = [*ClusterConfig.model_fields, *cluster.options.model_fields]
    known = [*mine, *_keys_of_kinds()]
    unknown = [unknown_key(f"cluster.{key}", known, mine) for key in config.options if key not in known]
    if unknown:
        raise ConfigError("\n  ".join(unknown))
    cluster.options.of(config)
    return cluster


def idle_options(config: ClusterConfig) -> list[str]:
    """List the keys of a table that its kind of cluster does not use."""
    own = CLUSTERS[config.kind].options.model_fields
    return sorted(key for key in config.options if key not in own)


def require_extras(config: ClusterConfig) -> None:
    """Refuse a table that asks for an extra that is not installed.

    Raises
    ------
    ConfigError
        As in `Extra.require`.
    """
    extra = cluster_of(config).extra
    if extra is not None:
        extra.require(f'the "{config.kind}" cluster')
    if config.metrics is not None:
        METRICS.require("cluster.metrics")


def current_job() -> BatchJob | None:
    """Return the batch job that this process belongs to, from the first kind of cluster that knows one."""
    jobs = (cluster.submitter.current_job() for cluster in CLUSTERS.values())
    return next((job for job in jobs if job is not None), None)


def _keys_of_kinds() -> list[str]:
    return [key for cluster in CLUSTERS.values() for key in cluster.options.model_fields]
