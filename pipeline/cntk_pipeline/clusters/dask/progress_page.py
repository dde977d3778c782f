"""A page of a run's progress in the HTTP server of Dask's scheduler.

Dask's own pages count only the few tiles that the driver has handed over, "0 / 4". This page has the driver's numbers.
Dask's server takes further pages by its public means, so nothing of Dask is changed. The page needs no bokeh.
"""

import socket
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import distributed
from distributed.diagnostics.plugin import SchedulerPlugin
from tornado.web import RequestHandler

from cntk_pipeline.config.loopback import is_loopback
from cntk_pipeline.telemetry.progress import RunProgress
from cntk_pipeline.telemetry.redaction import redact

PATH, NAME = "cntk", "cntk-progress"

LATE_SECONDS = 30.0
"""Time without news after which the page says so; a driver sends news every second."""

HEADERS = {
    # Nothing is loaded from elsewhere, no script runs, and no other page shows this one.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Row:
    """A run on the page: its progress, and the time since its driver sent it."""

    progress: RunProgress
    age_seconds: float

    @property
    def is_late(self) -> bool:
        """Whether the driver has been silent for long."""
        return self.age_seconds > LATE_SECONDS


class ProgressPage(SchedulerPlugin):  # type: ignore[misc]
    """The page, as a plugin of the scheduler; several drivers share it, each with a run of its own."""

    name = NAME
    idempotent = True

    def __init__(self) -> None:
        self._shown: dict[str, tuple[float, RunProgress]] = {}

    async def start(self, scheduler: Any) -> None:
        """Add the page to the scheduler's HTTP server."""
        scheduler.http_application.add_handlers(".*", [(f"/{PATH}", _Handler, {"page": self, "scheduler": scheduler})])

    def show(self, client: str, progress: RunProgress) -> None:
        """Show the progress of the run of a client, a driver."""
        self._shown[client] = time.monotonic(), progress

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Forget the run of a driver that has left, or was killed."""
        self._shown.pop(client, None)

    def rows(self) -> list[Row]:
        """List the runs, in the order in which their drivers came."""
        now = time.monotonic()
        return [Row(progress, now - moment) for moment, progress in self._shown.values()]


class _Handler(RequestHandler):  # type: ignore[misc]
    """The answer to a request for the page."""

    def initialize(self, page: ProgressPage, scheduler: Any) -> None:
        self._page, self._scheduler = page, scheduler

    def set_default_headers(self) -> None:
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def get(self) -> None:
        workers = self._scheduler.workers.values()
        self.write(
            _template().render(
                rows=self._page.rows(),
                workers=len(workers),
                threads=sum(worker.nthreads for worker in workers),
                has_dask_pages=bool(self._scheduler.http_application.applications),
                moment=time.strftime("%H:%M:%S"),
            )
        )


@lru_cache(maxsize=1)
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["redact"] = redact
    return environment.get_template("progress_page.html.j2")


def add_page(client: distributed.Client) -> str:
    """Add the page to the scheduler of a client; return its address, with the host where that is needed.

    Raises
    ------
    ImportError, AttributeError
        If the scheduler has another version of this package.
    ValueError
        If the scheduler takes no plugins.
    """
    client.register_plugin(ProgressPage())
    host, address, port, is_encrypted = client.sync(client._run_on_scheduler, _place)
    return address_in_words(host, address, port, is_encrypted, socket.gethostname())


def address_in_words(host: str, address: str, port: int, is_encrypted: bool, here: str) -> str:
    """Write the address of the page on a host, for people on the host ``here``."""
    named = host if address in ("0.0.0.0", "::") else f"[{address}]" if ":" in address else address
    shown = f"{'https' if is_encrypted else 'http'}://{named}:{port}/{PATH}"
    return f"{shown} on {host}" if is_loopback(address) and host != here else shown


def page_beside(dashboard: str) -> str:
    """Return the address of the page for the address of Dask's dashboard, which may be behind a proxy of the user's."""
    return f"{dashboard.removesuffix('/status')}/{PATH}"


def _place(dask_scheduler: Any) -> tuple[str, str, int, bool]:
    """Return where the scheduler's HTTP server listens: host, address, port, and whether it is encrypted."""
    server = dask_scheduler.http_server
    return socket.gethostname(), server.address, server.port, server.ssl_options is not None
