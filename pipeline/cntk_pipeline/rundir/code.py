"""Code of users that a run is computed by."""

import json
from dataclasses import dataclass
from pathlib import Path

from cntk_pipeline.config import KernelConfig, RunConfig, expand_place
from cntk_pipeline.rundir.directory import RunDirectory


@dataclass(frozen=True)
class UserCode:
    """A function of a user's own; given to a process, the word that it may be imported there.

    Attributes
    ----------
    name : "module:function".
    digest : sha256 of its source.
    folder : the absolute folder that holds its file; None for installed code.
    """

    name: str
    digest: str
    folder: str | None

    def __str__(self) -> str:
        where = "installed" if self.folder is None else f"in {json.dumps(self.folder)}"
        return f"{json.dumps(self.name)}, {where}, sha256 {json.dumps(self.digest)}"


def in_absolute_folder(config: RunConfig) -> RunConfig:
    """Write the folder of a workflow's code from the root on: a run is resumed from anywhere."""
    folder = config.kernel.options.get("plugin_folder")
    if folder is None:
        return config
    keys = config.kernel.model_dump() | {"plugin_folder": str(Path(expand_place(str(folder))).absolute())}
    return config.model_copy(update={"kernel": KernelConfig.model_validate(keys)})


def code_of(run: RunDirectory, config: RunConfig) -> UserCode | None:
    """Read which code a run is computed by, and where a workflow of it says that it lies; nothing is imported.

    Returns
    -------
    None where this package computes.
    """
    engine, folder = run.specification.engine, config.kernel.options.get("plugin_folder")
    if engine.code is None:
        return None
    digest = str(engine.options.get("plugin_digest"))
    return UserCode(engine.code, digest, None if folder is None else str(folder))
