"""Where something listens, as people write it."""

import re

_LISTENER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%a-z]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})", re.ASCII)


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
