"""Workflow and cluster files: TOML in, a frozen and validated `RunConfig` out."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, time
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import Field, PrivateAttr, ValidationError

from cntk_pipeline.config.cluster import ClusterConfig
from cntk_pipeline.config.problem import (
    DataConfig,
    InferenceConfig,
    KernelConfig,
    NetworkConfig,
    ReadoutsConfig,
    SolveConfig,
)
from cntk_pipeline.config.reading import parse_toml, read_toml
from cntk_pipeline.config.section import OpenSection, Place, Section
from cntk_pipeline.errors import ConfigError

_Parsed = TypeVar("_Parsed", bound=Section)

_TRIED = ("int", "bool", "str", "float", "literal", "list", "dict")
"""Names of types that pydantic adds to a path after trying them, besides names with brackets (``list[int]``)."""

LONGEST_VALUE = 200
"""Largest number of characters of a wrong value that a message shows."""

_MESSAGES = {
    "dict_type": "Input should be a table",
    "model_type": "Input should be a table",
    "string_type": "Input should be a text, in quotes",
    "invalid-json-value": "Input should be a number, a string, a truth value, or a list or table of such",
}
"""This package's messages instead of pydantic's, by pydantic's type of the problem."""


class StoreConfig(Section):
    """``[store]``: the place of the run.

    Attributes
    ----------
    path : str, optional
        The run directory; by default ``runs/NAME``. It is relative to the folder in which the command is typed.
    grow_from : str, optional
        An older run directory; tiles that are the same in both are taken over instead of computed.
    """

    path: Place | None = None
    grow_from: Place | None = None


@dataclass(frozen=True)
class _Origin:
    """Where a workflow was written. Workflows of one content are equal, wherever they were written."""

    name: str = field(default="", compare=False)
    mend: str = field(default="", compare=False)

    def say(self, problems: Sequence[str]) -> str:
        """Write a message about values: the place, each problem, and what to do."""
        return "\n  ".join([f"{self.name}:", *problems, *([self.mend] if self.mend else [])])


class RunConfig(Section):
    """A whole workflow file.

    Attributes
    ----------
    name : str
        A name for the run, its folder and its jobs: letters, digits, dots, hyphens and underscores.
    """

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    data: DataConfig = Field(default_factory=DataConfig)
    network: NetworkConfig
    readouts: ReadoutsConfig = Field(default_factory=ReadoutsConfig)
    kernel: KernelConfig = Field(default_factory=KernelConfig)
    solve: SolveConfig = Field(default_factory=SolveConfig)
    inference: InferenceConfig = Field(default_factory=InferenceConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    store: StoreConfig = Field(default_factory=StoreConfig)
    _origin: _Origin = PrivateAttr(default_factory=_Origin)

    def model_post_init(self, context: Any) -> None:
        """Keep where the workflow was written: keys that belong to a kind are read later."""
        if isinstance(context, _Origin):
            self._origin = context

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Add to each `ConfigError` where the workflow was written, and what to do, as `parse_config` does."""
        try:
            yield
        except ConfigError as error:
            if type(error) is not ConfigError or not self._origin.name:
                raise
            raise ConfigError(self._origin.say(str(error).splitlines())) from None


def load_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    cluster_file: str | Path | None = None,
    given: Mapping[str, str] | None = None,
) -> RunConfig:
    """Read a workflow file and apply ``section.key=value`` overrides.

    Parameters
    ----------
    path : str or Path
        Of a TOML file.
    overrides : sequence of str
        ``section.key=value``, applied after the file. Values are TOML; a text that does not begin like a TOML value is
        taken as a string.
    cluster_file : str or Path, optional
        A file whose ``[cluster]`` table replaces the workflow's.
    given : mapping of str to str, optional
        Texts by "section.key", taken as they are, after the overrides.

    Raises
    ------
    ConfigError
        If the file cannot be read or is no TOML, a key is unknown, or a value is invalid; with the place and the
        nearest known key.
    """
    table = read_toml(path, "workflow file")
    if cluster_file is not None:
        load_cluster(cluster_file)  # its errors name this file
        table["cluster"] = read_toml(cluster_file, "cluster file")["cluster"]
    for override in overrides:
        key, value = _read_override(override)
        _put(table, key, value, f"--set {override}")
    for key, text in (given or {}).items():
        _put(table, key, text, key)
    return parse_config(table, str(path))


def read_overrides(overrides: Sequence[str], section: str) -> dict[str, Any]:
    """Read ``section.key=value`` overrides of one section.

    Raises
    ------
    ConfigError
        If one is of another section, or is no TOML.
    """
    found = {}
    for override in overrides:
        key, value = _read_override(override)
        if not key.startswith(f"{section}."):
            raise ConfigError(f"--set takes {section}.key=value here, got {override!r}")
        found[key.removeprefix(f"{section}.")] = value
    return found


def make_config(workflow: "str | Path | Mapping[str, Any] | RunConfig", given: Mapping[str, Any]) -> RunConfig:
    """Make a workflow from what a Python program has, and replace some of its values.

    Parameters
    ----------
    workflow : str, Path, mapping of str to object, or RunConfig
        A TOML file, nested tables, or a workflow.
    given : mapping of str to object
        Values by "section.key", put in the place of the workflow's.

    Raises
    ------
    ConfigError
        As in `load_config`; or if the workflow is none of these.
    """
    if isinstance(workflow, str | Path):
        table, origin = read_toml(workflow, "workflow file"), str(workflow)
    elif isinstance(workflow, RunConfig):
        table, origin = workflow.model_dump(mode="json"), "the workflow"
    elif isinstance(workflow, Mapping):
        table, origin = _plain(workflow), "the workflow"
    else:
        raise ConfigError(
            "a workflow is the name of a TOML file, a dictionary of tables or a RunConfig, got "
            f"{type(workflow).__name__}"
        )
    for key, value in given.items():
        _put(table, key, str(value) if isinstance(value, Path) else _plain(value), key)
    return parse_config(table, origin)


def _plain(value: Any) -> Any:
    """Copy tables and lists, with numbers and arrays of NumPy as files spell them."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def load_cluster(path: str | Path) -> ClusterConfig:
    """Read a cluster file: a ``[cluster]`` table and nothing else.

    Raises
    ------
    ConfigError
        As in `load_config`.
    """
    table = read_toml(path, "cluster file")
    if set(table) != {"cluster"}:
        raise ConfigError(f"{path} must hold a [cluster] table and nothing else, got {', '.join(table) or 'nothing'}")
    return _parse(_ClusterFile, table, _Origin(str(path))).cluster


class _ClusterFile(Section):
    cluster: ClusterConfig


def parse_config(table: dict[str, Any], origin: str, mend: str = "") -> RunConfig:
    """Validate a workflow given as nested tables; ``origin`` names it in errors, and ``mend`` says what to do then."""
    return _parse(RunConfig, table, _Origin(origin, mend))


def read_options(model: type[_Parsed], section: OpenSection, name: str) -> _Parsed:
    """Read the keys of a table that belong to one of its kinds.

    Parameters
    ----------
    model : subclass of Section
        Of the kind's keys.
    section : OpenSection
        The table.
    name : str
        Of the table, for messages.

    Raises
    ------
    ConfigError
        If a key is unknown or a value invalid, with the place and the nearest known key.
    """
    try:
        return model.model_validate(section.options)
    except ValidationError as error:
        known = [*type(section).model_fields, *model.model_fields]
        raise ConfigError("\n  ".join(_explain(dict(each), known, name) for each in error.errors())) from None


def unknown_key(where: str, known: Sequence[str], listed: Sequence[str]) -> str:
    """Write the message for an unknown key, with the nearest known key, or else with a list of keys."""
    near = difflib.get_close_matches(where.rpartition(".")[2], known, 1, 0.5)
    return f"unknown key {where}: " + (f"did you mean {near[0]!r}?" if near else f"known are {', '.join(listed)}")


def _parse(model: type[_Parsed], table: dict[str, Any], origin: _Origin) -> _Parsed:
    try:
        return model.model_validate(table, context=origin)
    except ValidationError as error:
        problems = [_explain(dict(problem), _known_keys(problem["loc"][:-1])) for problem in error.errors()]
        raise ConfigError(origin.say(problems)) from None


def _read_override(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    key, text = key.strip(), text.strip()
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set takes section.key=value, got {override!r}")
    if not _is_text(override):
        raise ConfigError(f"--set takes text in UTF-8, got {override!r}")
    try:
        parsed = parse_toml(f"value = {text}", f"--set {override}: the value is not valid TOML")
    except ConfigError:
        if text[:1] in _BEGIN_VALUES:
            raise
        return key, text  # words like cholesky and 4GiB go without quotes
    if list(parsed) != ["value"]:
        raise ConfigError(f"--set takes one value, got {override!r}")
    return key, text if isinstance(parsed["value"], date | time) else parsed["value"]


_BEGIN_VALUES = ("'", '"', "[", "{")
"""First characters of TOML values; without this check, a broken TOML string would become a text with its quotes."""


def _is_text(text: str) -> bool:
    """Tell whether a text can be written as UTF-8; an argument of other bytes cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _put(table: dict[str, Any], key: str, value: Any, origin: str) -> None:
    *sections, name = key.split(".")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{origin}: {section} is a value, not a section")
    table[name] = value


def _explain(problem: dict[str, Any], known: Sequence[str], table: str = "") -> str:
    """Turn one of pydantic's findings into a line with the place and the next step."""
    where = _place((table, *problem["loc"]) if table else problem["loc"])
    if problem["type"] != "extra_forbidden":
        message = _MESSAGES.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        got = problem.get("input")
        shown = "" if isinstance(got, dict) or got is None or message.endswith(repr(got)) else f" (got {_short(got)})"
        return f"{where or 'the file'}: {message}{shown}"
    return unknown_key(where, known, known)


def _short(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _place(location: tuple[Any, ...]) -> str:
    """Write pydantic's path as users do: ``network.layers[0].branch[1]``, without the types it tried on the way."""
    parts = (
        f"[{part}]" if isinstance(part, int) else f".{part}"
        for part in location
        if isinstance(part, int) or part.partition("[")[0] not in _TRIED
    )
    return "".join(parts).removeprefix(".")


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    model: Any = RunConfig
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:  # a place inside a value
            return []
        model = field.annotation
    return list(getattr(model, "model_fields", {}))
