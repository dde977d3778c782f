"""Workflow and cluster files: TOML in, a frozen and validated `RunConfig` out."""

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError, model_validator

from pipeline.config.cluster import ClusterConfig
from pipeline.config.problem import (
    EXACT_FACTOR,
    DataConfig,
    InferenceConfig,
    KernelConfig,
    NetworkConfig,
    ReadoutsConfig,
    SolveConfig,
)
from pipeline.config.section import Section
from pipeline.errors import ConfigError

_Parsed = TypeVar("_Parsed", bound=Section)

_TRIED = ("int", "bool", "float", "literal['auto']", "literal['inf']", "list", "list[int]", "list[float]", "dict")
"""What pydantic puts into a path for the type that it tried there."""

_MESSAGES = {
    "dict_type": "Input should be a table",
    "invalid-json-value": "Input should be a number, a string, a truth value, or a list or table of such",
}
"""Ours in place of pydantic's, by its type of the problem."""


class StoreConfig(Section):
    """``[store]``: where the run lies.

    Attributes
    ----------
    path : the run directory; None is ``runs/NAME``.
    grow_from : an older run directory; whatever is the same in both is taken over instead of computed.
    """

    path: str | None = None
    grow_from: str | None = None


class RunConfig(Section):
    """A whole workflow file."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    data: DataConfig = DataConfig()
    network: NetworkConfig
    readouts: ReadoutsConfig = ReadoutsConfig()
    kernel: KernelConfig = KernelConfig()
    solve: SolveConfig = SolveConfig()
    inference: InferenceConfig = InferenceConfig()
    cluster: ClusterConfig = ClusterConfig()
    store: StoreConfig = StoreConfig()

    @model_validator(mode="after")
    def _factors_are_there(self) -> "RunConfig":
        wanted = [f"inference.{name}" for name in self.inference.options_of_the_factor]
        if wanted and not self.solve.has_exact_factor:
            verb = "needs" if len(wanted) == 1 else "need"
            raise ValueError(f"{' and '.join(wanted)} {verb} the factor of the solve: {EXACT_FACTOR}")
        return self


def load_config(path: str | Path, overrides: Sequence[str] = (), cluster_file: str | Path | None = None) -> RunConfig:
    """Read a workflow file and apply ``section.key=value`` overrides.

    Parameters
    ----------
    path : of a TOML file.
    overrides : values are TOML; what is no TOML value is taken as a string. They come last.
    cluster_file : a file whose ``[cluster]`` table takes the place of the workflow's.

    Raises
    ------
    ConfigError
        If the file is missing or no TOML, or a key or value means nothing, with the place and the nearest known key.
    """
    table = _read_toml(path, "workflow file")
    if cluster_file is not None:
        load_cluster(cluster_file)  # whatever is wrong with it is said by its own name
        table["cluster"] = _read_toml(cluster_file, "cluster file")["cluster"]
    for override in overrides:
        _apply(table, override)
    return parse_config(table, str(path))


def load_cluster(path: str | Path) -> ClusterConfig:
    """Read a cluster file: a ``[cluster]`` table and nothing else.

    Raises
    ------
    ConfigError
        As of `load_config`.
    """
    table = _read_toml(path, "cluster file")
    if set(table) != {"cluster"}:
        raise ConfigError(f"{path} must hold a [cluster] table and nothing else, got {', '.join(table) or 'nothing'}")
    return _parse(_ClusterFile, table, str(path)).cluster


class _ClusterFile(Section):
    cluster: ClusterConfig


def _read_toml(path: str | Path, what: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror}") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def parse_config(table: dict[str, Any], origin: str) -> RunConfig:
    """Validate a workflow given as nested tables; ``origin`` names it in errors."""
    return _parse(RunConfig, table, origin)


def _parse(model: type[_Parsed], table: dict[str, Any], origin: str) -> _Parsed:
    try:
        return model.model_validate(table)
    except ValidationError as error:
        lines = [_explain(dict(problem)) for problem in error.errors()]
        raise ConfigError(f"{origin}:\n" + "\n".join(f"  {line}" for line in lines)) from None


def _apply(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set takes section.key=value, got {override!r}")
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override}: {part} is a value, not a section")
    try:
        table[parts[-1]] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        table[parts[-1]] = text.strip()


def _explain(problem: dict[str, Any]) -> str:
    """Turn one of pydantic's findings into a line with the place and the next step."""
    where = _place(problem["loc"])
    if problem["type"] != "extra_forbidden":
        message = _MESSAGES.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        got = problem.get("input")
        shown = "" if isinstance(got, dict) or got is None else f" (got {got!r})"
        return f"{where or 'the file'}: {message}{shown}"
    known = _known_keys(problem["loc"][:-1])
    name = str(problem["loc"][-1])
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f"unknown key {where}: " + (f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}")


def _place(location: tuple[Any, ...]) -> str:
    """Write pydantic's path as users do: ``network.layers[0].branch[1]``, without the types it tried on the way."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location if part not in _TRIED)
    return "".join(parts).removeprefix(".")


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    model: Any = RunConfig
    for part in location:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
