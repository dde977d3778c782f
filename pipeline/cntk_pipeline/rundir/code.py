"""Code of users that a run is computed by, and the places that a workflow names."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cntk_pipeline.config import RunConfig, expand_place
from cntk_pipeline.config.section import OpenSection
from cntk_pipeline.rundir.directory import RunDirectory

_Section = TypeVar("_Section", bound=OpenSection)


@dataclass(frozen=True)
class UserCode:
    """A function of a user's own; given to a process, the word that it may be imported there.

    Attributes
    ----------
    name : str
        "module:function".
    digest : str
        Sha256 of its source.
    folder : str or None
        The absolute folder that holds its file; None for installed code.
    """

    name: str
    digest: str
    folder: str | None

    def __str__(self) -> str:
        where = "installed" if self.folder is None else f"in {json.dumps(self.folder)}"
        return f"{json.dumps(self.name)}, {where}, sha256 {json.dumps(self.digest)}"


def in_absolute_places(config: RunConfig) -> RunConfig:
    """Write the files of a workflow's data and the folder of its code from the root on: a run is resumed from anywhere.

    No specification knows these places.
    """
    from cntk_pipeline.datasets import DATASETS

    kernel = _absolute(config.kernel, ["plugin_folder"])
    data = _absolute(config.data, DATASETS[config.data.source].PLACES)
    return config.model_copy(update={"kernel": kernel, "data": data})


def _absolute(section: _Section, keys: Iterable[str]) -> _Section:
    """Write the given keys among some from the root on; a ``~`` is the home folder, as in a shell."""
    given = {key: value for key, value in section.model_dump(include=set(keys)).items() if value is not None}
    return section.model_copy(
        update={key: str(Path(expand_place(str(value))).absolute()) for key, value in given.items()}
    )


def code_of(run: RunDirectory, config: RunConfig) -> UserCode | None:
    """Read which code a run is computed by, and where a workflow of it says that it lies; nothing is imported.

    Returns
    -------
    UserCode or None
        None where this package computes.
    """
    engine, folder = run.specification.engine, config.kernel.options.get("plugin_folder")
    if engine.code is None:
        return None
    digest = str(engine.options.get("plugin_digest"))
    return UserCode(engine.code, digest, None if folder is None else str(folder))
