"""What is installed only where it is asked for, by the names that pip knows."""

import importlib.util

from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.errors import ConfigError

EXTRAS = {"ssh": ("asyncssh",), "kubernetes": ("kr8s", "httpx"), "metrics": ("prometheus_client",)}
"""The modules of each extra that a workflow may ask for."""


def require_extras(cluster: ClusterConfig) -> None:
    """Refuse a ``[cluster]`` table that asks for an extra that is not installed.

    Raises
    ------
    ConfigError
        As of `require_extra`.
    """
    if cluster.kind in EXTRAS:
        require_extra(f'the "{cluster.kind}" cluster', cluster.kind)
    if cluster.metrics is not None:
        require_extra("cluster.metrics", "metrics")


def require_extra(what: str, extra: str) -> None:
    """Refuse what needs an extra that is not installed.

    Raises
    ------
    ConfigError
        With the command that installs it.
    """
    absent = [module for module in EXTRAS[extra] if importlib.util.find_spec(module) is None]
    if absent:
        names = " and ".join(module.replace("_", "-") for module in absent)
        raise ConfigError(f"{what} needs {names}: pip install 'cntk-pipeline[{extra}]'")
