"""Events as Prometheus metrics, where prometheus-client is installed; without it nothing is counted.

Dask serves the registry of each process at ``/metrics`` of its HTTP server. The scheduler's registry has the driver's
numbers where the two share a process; elsewhere, `served` serves them.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cntk_pipeline.config import read_listener
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.telemetry.events import Event, attach, listeners

if TYPE_CHECKING:
    import prometheus_client


class Metrics(logging.Handler):
    """A handler that counts events.

    Parameters
    ----------
    registry : CollectorRegistry
        Of prometheus-client, where the metrics are registered.
    """

    def __init__(self, registry: "prometheus_client.CollectorRegistry") -> None:
        import prometheus_client

        super().__init__(logging.INFO)

        def counter(name: str, text: str, *labels: str) -> "prometheus_client.Counter":
            return prometheus_client.Counter(f"cntk_{name}", text, labels, registry=registry)

        # Of a worker.
        self._done = counter("tiles_done_total", "Tiles that this process finished.", "stage")
        self._failed = counter("tiles_failed_total", "Attempts at a tile that ended with an error.", "stage")
        self._timing = {
            "bytes": counter("written_bytes_total", "Bytes of tiles written to the store.", "stage"),
            "read_seconds": counter("read_seconds_total", "Seconds that tiles waited for the store to read.", "stage"),
            "compute_seconds": counter("compute_seconds_total", "Seconds that tiles were computed.", "stage"),
            "write_seconds": counter("write_seconds_total", "Seconds that tiles were written.", "stage"),
        }
        # Of the driver.
        self._told = {
            "retry": counter("tile_retries_total", "Tiles tried again after an error of reading or writing."),
            "backup": counter("tile_backups_total", "Second copies of tiles that took too long."),
            "gave_up": counter("tiles_given_up_total", "Tiles that could not be computed."),
            "quarantined": counter("tiles_quarantined_total", "Tiles set aside because they end their workers."),
            "worker_lost": counter("workers_lost_total", "Workers that left unexpectedly."),
        }
        self._tiles = prometheus_client.Gauge(
            "cntk_stage_tiles", "Tiles of the stage at work, by state.", ["stage", "state"], registry=registry
        )
        self._slots = prometheus_client.Gauge("cntk_slots", "Tiles that are computed at once.", registry=registry)

    def emit(self, record: logging.LogRecord) -> None:
        """Count an event; other log records do not count."""
        event: Event | None = getattr(record, "cntk", None)
        if event is None:
            return
        if event.name in self._told:
            self._told[event.name].inc()
        elif event.name == "failed" and event.task is not None:
            self._failed.labels(event.task.stage.kind).inc()
        elif event.name == "finished" and event.task is not None:
            stage = event.task.stage.kind
            self._done.labels(stage).inc()
            for name, metric in self._timing.items():
                metric.labels(stage).inc(float(event.details.get(name, 0)))

    def show(self, stage: str, done: int, total: int, slots: int) -> None:
        """Set the progress of a run's stage."""
        self._tiles.labels(stage, "done").set(done)
        self._tiles.labels(stage, "left").set(total - done)
        self._slots.set(slots)


def install() -> Metrics | None:
    """Count the events of this process from now on; None where prometheus-client is not installed."""
    for handler in listeners():
        if isinstance(handler, Metrics):
            return handler
    library = _library()
    if library is None:
        return None
    metrics = Metrics(library.REGISTRY)
    attach(metrics)
    return metrics


@contextlib.contextmanager
def served(address: str | None) -> Iterator[str | None]:
    """Serve this process's metrics over HTTP for the length of a ``with`` block, and yield their address.

    Parameters
    ----------
    address : str or None
        "HOST:PORT"; port 0 takes a free one. None serves nothing.

    Raises
    ------
    ConfigError
        If prometheus-client is missing, or a server cannot listen there.
    """
    if address is None:
        yield None
        return
    try:
        host, port = read_listener(address)
    except ValueError as error:
        raise ConfigError(f"cluster.metrics: {error}") from None
    library = _library()
    if library is None:
        raise ConfigError("cluster.metrics needs prometheus-client: pip install 'cntk-pipeline[metrics]'")
    try:
        server, thread = library.start_http_server(port, host)
    except OSError as error:
        raise ConfigError(f"cluster.metrics: nothing can listen at {address}: {error}; take another port") from error
    try:
        yield f"http://{host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _library() -> Any | None:
    """Import prometheus-client where it is installed, and only in processes that compute: it has a server of HTTP."""
    try:
        import prometheus_client
    except ImportError:
        return None
    return prometheus_client
