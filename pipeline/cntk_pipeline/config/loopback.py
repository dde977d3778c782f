"""Names of hosts that stand for this machine only."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Tell whether only processes of this machine reach a host by this name."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
