"""The table of engines by their names in a workflow; docs/extending.md shows how to add one."""

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.inputs import short_repr
from cntk_pipeline.kernels.base import Engine
from cntk_pipeline.kernels.cpu import CpuEngine
from cntk_pipeline.kernels.cuda.engine import CudaEngine
from cntk_pipeline.kernels.empirical import EmpiricalEngine
from cntk_pipeline.kernels.plugin import PluginEngine
from cntk_pipeline.layers import spelling

ENGINES: dict[str, type[Engine]] = {
    "cpu": CpuEngine,
    "cuda": CudaEngine,
    "empirical": EmpiricalEngine,
    "plugin": PluginEngine,
}


def find_engine(name: str, what: str = "engine") -> type[Engine]:
    """Look up an engine.

    Parameters
    ----------
    name : str
        In the table.
    what : str
        Names it, for messages.

    Raises
    ------
    ConfigError
        If there is none, with those that there are.
    """
    if not isinstance(name, str):
        raise ConfigError(f"{what} is the name of one, {', '.join(ENGINES)}, got {short_repr(name)}")
    if name not in ENGINES:
        near = spelling.nearest(name, list(ENGINES))
        known = "" if "known are" in near else f" (known are {', '.join(ENGINES)})"
        raise ConfigError(f"unknown {what} {name!r}{near}{known}")
    return ENGINES[name]
