"""Optional dependencies of the package, by their names for pip."""

import importlib.util
from dataclasses import dataclass

from cntk_pipeline.errors import ConfigError


@dataclass(frozen=True)
class Extra:
    """An extra of the package.

    Attributes
    ----------
    name : str
        For pip.
    modules : tuple of str
        The modules that it installs.
    """

    name: str
    modules: tuple[str, ...]

    def require(self, what: str) -> None:
        """Refuse a feature, ``what``, if the extra is not installed.

        Raises
        ------
        ConfigError
            If it is not installed, with the command that installs it.
        """
        absent = [module for module in self.modules if importlib.util.find_spec(module) is None]
        if absent:
            names = " and ".join(module.replace("_", "-") for module in absent)
            raise ConfigError(f"{what} needs {names}: pip install 'cntk-pipeline[{self.name}]'")


METRICS = Extra("metrics", ("prometheus_client",))
