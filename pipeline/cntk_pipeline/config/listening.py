"""Addresses of servers, as people write them."""

import re

_LISTENER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%a-z]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})", re.ASCII)


PROTOCOLS = ("tcp", "tls", "ws", "wss", "ucx")
"""Protocols of Dask's schedulers."""


def read_address(text: str) -> str:
    """Check the address of a scheduler, "tls://HOST:PORT" or "HOST:PORT", and return it.

    Raises
    ------
    ValueError
        If it is invalid.
    """
    protocol, separator, place = text.rpartition("://")
    try:
        read_listener(place)
    except ValueError:
        place = ""
    if not place or (separator and protocol not in PROTOCOLS):
        known = ", ".join(PROTOCOLS)
        raise ValueError(f'expected "tls://HOST:PORT" with one of {known}, or "HOST:PORT", got {text!r}')
    return text


def read_listener(text: str) -> tuple[str, int]:
    """Read "HOST:PORT"; the brackets around an IPv6 address are removed.

    Raises
    ------
    ValueError
        If it is invalid; neither the machine nor the network is asked.
    """
    found = _LISTENER.fullmatch(text)
    if found is None or int(found["port"]) > 65535 or not _is_name(found["host"]):
        raise ValueError(f'expected "HOST:PORT" ("127.0.0.1:9464") with a port of at most 65535, got {text!r}')
    return found["host"].strip("[]"), int(found["port"])


def _is_name(host: str) -> bool:
    """Tell whether a host can be asked for: the network's names have no empty part, nor one of more than 63 letters."""
    if host.startswith("["):
        return True
    return all(0 < len(part) < 64 for part in host.removesuffix(".").split("."))
