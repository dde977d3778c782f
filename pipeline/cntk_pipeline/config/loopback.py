"""Which names of hosts lead to nobody but this machine."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Tell whether only processes of this machine reach a host by this name."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
