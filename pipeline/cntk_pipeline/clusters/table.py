"""Reading of a ``[cluster]`` table: its kind, the owners of its keys, and the extras that it needs."""

from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.clusters.cluster import Cluster
from cntk_pipeline.clusters.dask.scaling import bounds
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


def cluster_of_new(config: ClusterConfig) -> Cluster:
    """Return the kind of a table that no run has yet; check also what would not keep an existing run from going on.

    Raises
    ------
    ConfigError
        As in `cluster_of`, or if the numbers of workers contradict each other.
    """
    cluster = cluster_of(config)
    if config.workers is not None:
        bounds(config, config.workers)
    return cluster


def idle_options(config: ClusterConfig) -> list[str]:
    """List the keys of a table that its kind of cluster does not use."""
    cluster = CLUSTERS[config.kind]
    idle = [key for key in config.options if key not in cluster.options.model_fields]
    if config.gpus_per_node is not None and not cluster.gives_devices:
        idle.append("gpus_per_node")
    return sorted(idle)


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


def require_devices(config: ClusterConfig, engine: str, *, uses_devices: bool) -> None:
    """Refuse a table whose workers would share graphics cards, or hold cards without use.

    Parameters
    ----------
    engine : str
        Name of the engine that computes the kernel.
    uses_devices : bool
        Whether it computes on cards.

    Raises
    ------
    ConfigError
        With the key to change.
    """
    cluster, count = cluster_of(config), config.gpus_per_node
    if not cluster.gives_devices:
        return
    named = f'kernel.engine = "{engine}"'
    if not uses_devices:
        if count is not None:
            raise ConfigError(
                f"cluster.gpus_per_node = {count}, and {named} computes on no card: leave gpus_per_node out, or take "
                'kernel.engine = "cuda"'
            )
        return
    if count is None:
        raise ConfigError(
            f"{named} needs a card for each worker: set cluster.gpus_per_node to the number of cards of a machine"
        )
    if config.threads_per_worker != 1:
        raise ConfigError(
            f"cluster.threads_per_worker = {config.threads_per_worker}, and {named} has one card for each worker: its "
            "threads would wait for one another there. Leave threads_per_worker at 1"
        )
    machines = cluster.machines(config)
    cards = None if machines is None else machines * count
    if cards is not None and config.workers is not None and config.workers > cards:
        raise ConfigError(
            f"cluster.workers = {config.workers}, and with cluster.gpus_per_node = {count} there are {cards} cards: a "
            "worker has a card of its own. Lower cluster.workers, or leave it out for one worker a card"
        )


def current_job() -> BatchJob | None:
    """Return the batch job that this process belongs to, from the first kind of cluster that knows one."""
    jobs = (cluster.submitter.current_job() for cluster in CLUSTERS.values())
    return next((job for job in jobs if job is not None), None)


def _keys_of_kinds() -> list[str]:
    return [key for cluster in CLUSTERS.values() for key in cluster.options.model_fields]
