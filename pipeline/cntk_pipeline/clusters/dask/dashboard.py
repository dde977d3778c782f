"""Warnings about the access to Dask's dashboard."""

from urllib.parse import urlsplit

from cntk_pipeline.config.loopback import is_loopback


def dashboard_warnings(dashboard: str, link: str | None = None) -> tuple[str, ...]:
    """Warn if Dask's dashboard answers other machines: it has no log-in and no encryption.

    With the ``link`` to it, warn also if another process has its port.
    """
    host, _, port = dashboard.rpartition(":")
    moved = link is not None and int(port) != 0 and urlsplit(link).port != int(port)
    elsewhere = (f'cluster.dashboard = "{dashboard}": another process listens there; it is at {link}',) if moved else ()
    if is_loopback(host):
        return elsewhere
    return (
        *elsewhere,
        f'cluster.dashboard = "{dashboard}": anybody who reaches {host or "any address of this machine"} sees the '
        "dashboard, which asks for no password. Leave it on 127.0.0.1 and tunnel to it: docs/security.md",
    )
