"""All keys of a workflow file: type, default and meaning, from the models that read them and their docstrings."""

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from pydantic import BaseModel, TypeAdapter

from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.config import RunConfig
from cntk_pipeline.datasets import DATASETS, Loader
from cntk_pipeline.inference import RESULTS
from cntk_pipeline.kernels import ENGINES
from cntk_pipeline.layers.presets import PRESETS
from cntk_pipeline.solvers import SOLVERS

_HEADER = re.compile(r"(\w+(?:, \w+)*)(?: : .*)?")
_TYPES = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "string": "text",
    "object": "table",
}
_BOUNDS = {
    "minimum": "from",
    "exclusiveMinimum": "above",
    "maximum": "to",
    "exclusiveMaximum": "below",
}


@dataclass(frozen=True)
class Key:
    """One key of a workflow file.

    Attributes
    ----------
    name : str
        Of the key.
    type : str
        Of its value, in words.
    default : str
        As TOML writes it; "required", or "" where it is not given by default.
    meaning : str
        In words.
    """

    name: str
    type: str
    default: str
    meaning: str


@dataclass(frozen=True)
class KeyTable:
    """The keys of one table of a workflow file, or the keys that belong to one of its kinds.

    Attributes
    ----------
    section : str
        Name of the table; "" is the top of the file.
    kind : str
        What the keys belong to, as a workflow says it (``source = "npz"``); "" where they are common to all.
    about : str
        The first sentences of the model's docstring.
    keys : tuple of Key
        In the order of the model.
    """

    section: str
    kind: str
    about: str
    keys: tuple[Key, ...]


def workflow_keys() -> list[KeyTable]:
    """List all tables of a workflow file with their keys, the keys of each source, solver, kind and engine included."""
    top = _of_model("", "", RunConfig)
    tables = [KeyTable("", "", top.about, tuple(key for key in top.keys if key.name == "name"))]
    for section, field in RunConfig.model_fields.items():
        if section == "name":
            continue
        model: Any = field.annotation
        if section == "inference":
            tables.append(_of_results(model))
        else:
            tables.append(_of_model(section, "", model))
        tables += _OF_KINDS.get(section, list)()
    return tables


def _of_sources() -> list[KeyTable]:
    return [_of_loader(name, loader) for name, loader in DATASETS.items()]


def _of_presets() -> list[KeyTable]:
    tables = []
    for name, preset in PRESETS.items():
        described = _described(preset.build)
        defaults = {key: parameter.default for key, parameter in inspect.signature(preset.build).parameters.items()}
        keys = [
            Key(f"options.{key}", _type_of(defaults[key]), _toml(defaults[key]), described[key])
            for key in preset.options
        ]
        poolings = f"``readouts.poolings``: {', '.join(preset.poolings)}." if preset.poolings else ""
        about = f"{_about(preset.build)} ``readouts.depths``: {described['depth']} {poolings}".strip()
        tables.append(KeyTable("network", f'preset = "{name}"', about, tuple(keys)))
    return tables


def _of_engines() -> list[KeyTable]:
    found = ((name, engine.options_type) for name, engine in ENGINES.items())
    return [_of_model("kernel", f'engine = "{name}"', model) for name, model in found if model is not None]


def _of_solvers() -> list[KeyTable]:
    return [_of_model("solve", f'solver = "{name}"', solver.options) for name, solver in SOLVERS.items()]


def _of_clusters() -> list[KeyTable]:
    found = ((name, cluster.options) for name, cluster in CLUSTERS.items() if cluster.options.model_fields)
    return [_of_model("cluster", f'kind = "{name}"', model) for name, model in found]


_OF_KINDS = {
    "data": _of_sources,
    "network": _of_presets,
    "kernel": _of_engines,
    "solve": _of_solvers,
    "cluster": _of_clusters,
}
"""The keys of the kinds, by the table that they are in."""

_NAMED: dict[tuple[str, str], Mapping[str, object]] = {
    ("data", "source"): DATASETS,
    ("network", "preset"): PRESETS,
    ("kernel", "engine"): ENGINES,
    ("solve", "solver"): SOLVERS,
    ("cluster", "kind"): CLUSTERS,
}
"""The keys whose value is a name in a table of the package."""


def _of_model(section: str, kind: str, model: type[BaseModel]) -> KeyTable:
    """List the keys of a pydantic model."""
    described, schema = _described(model), model.model_json_schema()
    keys = [
        Key(
            name,
            _words({"enum": list(_NAMED[section, name])}, {})
            if (section, name) in _NAMED
            else _words(schema["properties"][name], schema.get("$defs", {})),
            "required" if field.is_required() else _toml(field.get_default(call_default_factory=True)),
            described.get(name, ""),
        )
        for name, field in model.model_fields.items()
    ]
    return KeyTable(section, kind, _about(model), tuple(keys))


def _of_loader(name: str, loader: type[Loader]) -> KeyTable:
    """List the keys of a source beside those of all sources; its path is among them, since its meaning is its own."""
    described, schema = _described(loader), TypeAdapter(loader).json_schema()["properties"]
    keys = [
        Key(field.name, _words(schema[field.name], {}), _toml(field.default), described.get(field.name, ""))
        for field in fields(loader)
        if field.name != "task"
    ]
    return KeyTable("data", f'source = "{name}"', _about(loader), tuple(keys))


def _of_results(model: type[BaseModel]) -> KeyTable:
    """List the results that ``[inference]`` may ask for."""
    keys = []
    for name, result in RESULTS.items():
        kind = _words(TypeAdapter(result.option).json_schema(), {})
        meaning = " ".join(inspect.cleandoc(result.__doc__ or "").split())
        keys.append(Key(name, kind, "false" if "true or false" in kind else "", meaning))
    return KeyTable("inference", "", _about(model), tuple(keys))


def _about(thing: Any) -> str:
    """Return the paragraphs of a docstring before its sections, as one line, without the name of its table."""
    text = inspect.cleandoc(thing.__doc__ or "")
    before = re.split(r"\n\n\w+\n-+\n", text, maxsplit=1)[0]
    return _sentence(re.sub(r"^``\[\w+\]``: ", "", before))


def _described(thing: Any) -> Mapping[str, str]:
    """Read meanings from the docstrings of a function, or of a class and its bases."""
    found: dict[str, str] = {}
    for each in inspect.getmro(thing) if inspect.isclass(thing) else (thing,):
        doc = inspect.cleandoc(each.__doc__ or "")
        for section in re.findall(r"\n\n(?:Attributes|Parameters)\n-+\n(.*?)(?:\n\n|\Z)", doc, re.DOTALL):
            for name, meaning in _entries(section):
                found.setdefault(name, meaning)
    return found


def _entries(section: str) -> list[tuple[str, str]]:
    """Split a section of a docstring into names and meanings, which stand below the names, indented."""
    entries: list[tuple[list[str], list[str]]] = []
    for line in section.splitlines():
        header = _HEADER.fullmatch(line)
        if header:
            entries.append((header[1].split(", "), []))
        elif entries:
            entries[-1][1].append(line.strip())
    return [(name, _sentence(" ".join(lines))) for names, lines in entries for name in names]


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text[:1].upper() + text[1:]


def _words(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Write a JSON schema in words."""
    if "$ref" in schema:
        return _words(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        parts = [_words(each, definitions) for each in schema["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(part for part in parts if part)) or "any"
    if "enum" in schema or "const" in schema:
        return " or ".join(_toml(value) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return f"list of {len(schema['prefixItems'])}: {_words(schema['prefixItems'][0], definitions)}"
        return f"list of {_words(schema.get('items', {}), definitions)}"
    name = _TYPES.get(schema.get("type", ""), "any")
    bounds = [f"{word} {schema[key]:.15g}" for key, word in _BOUNDS.items() if key in schema]
    return " ".join([name, *bounds])


def _type_of(default: Any) -> str:
    """Write the type of an option of a preset, from its default."""
    if default is None or isinstance(default, bool):
        return "true or false"
    if isinstance(default, str):
        return _TYPES["string"]
    return _TYPES["integer" if isinstance(default, int) else "number"]


def _toml(value: Any) -> str:
    """Write a default as TOML does; a table and None are not given."""
    if value is None or isinstance(value, BaseModel | dict):
        return ""
    return f"{value:.15g}" if isinstance(value, float) else json.dumps(value)
