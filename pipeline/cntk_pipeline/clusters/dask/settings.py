"""Dask's settings on every cluster that the package starts."""

from typing import Any

SETTINGS: dict[str, Any] = {
    # Tiles go to the store, so there is nothing worth spilling, and a spill would hide a leak.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": 0.85,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.scheduler.worker-saturation": 1.0,
    # An innocent tile on the same worker as a tile that kills it must survive the suspicion.
    "distributed.scheduler.allowed-failures": 3,
    "distributed.comm.retry.count": 3,
    "distributed.comm.timeouts.connect": "60s",
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.limit": "1h",
    # Dask's self-checks, 50 a second, cost 6 % of a core in the driver and 2.5 % in each worker; at this interval 1 %.
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.worker.memory.monitor-interval": "250ms",
    # The last messages that Dask keeps for its developers, a thousand a connection, hold 8 kB a tile.
    "distributed.admin.low-level-log-length": 50,
    "distributed.nanny.pre-spawn-environ.NUMBA_NUM_THREADS": 1,
    "distributed.nanny.pre-spawn-environ.OMP_NUM_THREADS": 1,
    "distributed.nanny.pre-spawn-environ.OPENBLAS_NUM_THREADS": 1,
    "distributed.nanny.pre-spawn-environ.MKL_NUM_THREADS": 1,
    # Dask makes workers give memory back at once; the next tile then touches new pages, up to 12 us each on a virtual
    # machine, three seconds a gigabyte. Tiles come and go in the same sizes, so their memory is kept.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 512 * 2**20,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 32 * 2**20,
    "distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX": 1,
}
"""Dask settings of every cluster that the package starts; each avoids a problem that was met."""
