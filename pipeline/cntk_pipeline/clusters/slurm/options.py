"""The keys of SLURM."""

from pydantic import Field

from cntk_pipeline.clusters.options import ClusterOptions
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.config.section import Place

HAND_OVER_SECONDS = 60.0
"""Time that a batch job needs behind its last tile: workers are given back, the cluster is closed, the job requeued."""


class SlurmOptions(ClusterOptions):
    """The keys of ``kind = "slurm"``.

    Attributes
    ----------
    partition : str, optional
        The partition of a job.
    account : str, optional
        The account that a job is charged to.
    time_limit : str, optional
        The time limit of a job, as SLURM writes it ("1-00:00:00").
    batch_options : list of str
        Further lines of the batch job, each an option as sbatch takes it ("--constraint=avx512").
    setup : list of str
        Shell lines that run first in the batch job ("module load python").
    drain_seconds : float
        Time before the time limit in which tiles in flight finish and no further tile is begun; its last minute, or its
        last half, is for what follows: workers are given back, and the next job is asked for.
    resubmit : bool
        Continue a job that met its time limit in a next job, until the run is complete.
    interface : str, optional
        The network interface by which nodes reach one another ("ib0").
    python : str, optional
        The Python on the nodes that has this package; by default the path of this one. ``~`` is the home of this user
        on this machine.
    """

    partition: str | None = None
    account: str | None = None
    time_limit: str | None = None
    batch_options: list[str] = Field(default=[])
    setup: list[str] = Field(default=[])
    drain_seconds: float = Field(default=120.0, ge=0)
    resubmit: bool = False
    interface: str | None = None
    python: Place | None = None


def drain_seconds(config: ClusterConfig) -> float:
    """Return how long a driver that is to stop waits for tiles: what `HAND_OVER_SECONDS` leave of the time to drain."""
    asked = SlurmOptions.of(config).drain_seconds
    return max(asked - HAND_OVER_SECONDS, asked / 2)
