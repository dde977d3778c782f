"""Where something listens, as people write it."""

import re

_LISTENER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%a-z]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})", re.ASCII)


PROTOCOLS = ("tcp", "tls", "ws", "wss", "ucx")
"""What Dask's schedulers speak to other processes."""


def read_address(text: str) -> str:
    """Return the address of a scheduler, "tls://HOST:PORT" or "HOST:PORT", once it is one.

    Raises
    ------
    ValueError
        If it is none.
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
    """Read "HOST:PORT"; an IPv6 address stands in brackets, which are taken off.

    Raises
    ------
    ValueError
        If it is none; nothing is asked of the machine or the network.
    """
    found = _LISTENER.fullmatch(text)
    if found is None or int(found["port"]) > 65535:
        raise ValueError(f'expected "HOST:PORT" ("127.0.0.1:9464") with a port of at most 65535, got {text!r}')
    return found["host"].strip("[]"), int(found["port"])
