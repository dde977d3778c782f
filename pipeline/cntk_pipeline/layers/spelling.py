"""Networks as plain tables: how workflow files and run directories spell them.

A list of tables is a sequence of layers, and so is a field that holds layers, like the branch of a `Residual`.
"""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from cntk_pipeline.errors import LayerError
from cntk_pipeline.inputs import short_repr
from cntk_pipeline.layers.base import WHEN_CHANGED, Layer
from cntk_pipeline.layers.refused import REFUSED, why_not
from cntk_pipeline.layers.sequential import Sequential

Table = dict[str, Any]


def spell(network: Layer) -> list[Table]:
    """Write a network as a list of tables, one a layer: its class under ``layer``, and its fields.

    Nested sequences are unpacked, and tuples become lists: what comes out is what JSON and TOML read back.

    Raises
    ------
    LayerError
        If a field holds a Python function, which no file can.
    """
    layers: Sequence[Any] = network.flattened() if isinstance(network, Sequential) else (network,)
    return [_spell_layer(layer) for layer in layers]


def read(tables: Sequence[Mapping[str, Any]], layers: Mapping[str, type[Layer]]) -> Sequential:
    """Build a network from what `spell` wrote, or a workflow file.

    Parameters
    ----------
    tables : sequence of mapping of str to object
        One a layer; fields that are left out take their defaults. A field that holds layers takes a list of tables, or
        a single one; a list of one table is that layer itself, not a sequence of it.
    layers : mapping of str to subclass of Layer
        Classes by name, the room's table.

    Raises
    ------
    LayerError
        If a layer or a field is unknown, with its place and the nearest known one, or a value does not fit.
    """
    return Sequential(*_read_list(tables, layers, "network.layers"))


def nearest(name: Any, known: Sequence[str]) -> str:
    """End a message about an unknown name with the nearest known one, or with all."""
    near = difflib.get_close_matches(str(name), known, 1, 0.5)
    return f": did you mean {near[0]!r}?" if near else f": known are {', '.join(known) or 'none'}"


def _spell_layer(layer: Any) -> Table:
    table: Table = {"layer": type(layer).__name__}
    for field in dataclasses.fields(layer):
        value = getattr(layer, field.name)
        if field.metadata != WHEN_CHANGED or value != field.default:
            table[field.name] = _spell_value(layer, value)
    return table


def _spell_value(layer: Layer, value: Any) -> Any:
    if isinstance(value, Layer):
        return spell(value)
    if callable(value):
        raise LayerError(
            f"{layer} cannot be written into a file, since it holds a Python function: add the function to "
            "cntk_pipeline.layers.series.FUNCTIONS on all machines and give its name"
        )
    return list(value) if isinstance(value, tuple) else value


def _read_list(tables: Sequence[Any], layers: Mapping[str, type[Layer]], place: str) -> list[Layer]:
    return [_read_layer(table, layers, f"{place}[{position}]") for position, table in enumerate(tables)]


def _read_branch(value: Any, layers: Mapping[str, type[Layer]], place: str) -> Layer:
    if isinstance(value, Mapping):
        return _read_layer(value, layers, place)
    if not isinstance(value, list | tuple):
        raise LayerError(f'{place}: expected layers, like [{{layer = "Relu"}}], got {short_repr(value)}')
    built = _read_list(value, layers, place)
    return built[0] if len(built) == 1 else Sequential(*built)


def _read_layer(table: Any, layers: Mapping[str, type[Layer]], place: str) -> Layer:
    if not isinstance(table, Mapping) or "layer" not in table:
        raise LayerError(f'{place}: name the layer, like {{layer = "Relu"}}, got {short_repr(table)}')
    name = table["layer"]
    if isinstance(name, str) and name in REFUSED and name not in layers:
        raise LayerError(f"{place}: {why_not(name)}")
    if not isinstance(name, str) or name not in layers:
        raise LayerError(f"{place}: unknown layer {name!r}{nearest(name, list(layers))}")
    kind: Any = layers[name]
    fields = {field.name: field for field in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key == "layer":
            continue
        if key not in fields:
            told = f" {kind.spelt_elsewhere}" if kind.spelt_elsewhere else ""
            raise LayerError(f"{place}: {name} has no field {key!r}{nearest(key, list(fields))}{told}")
        if fields[key].type is Layer:
            values[key] = _read_branch(value, layers, f"{place}.{key}")
        else:
            values[key] = tuple(value) if isinstance(value, list) else value
    for key, field in fields.items():
        if field.default is dataclasses.MISSING and key not in values:
            raise LayerError(f"{place}: {name} needs {key}")
    try:
        return kind(**values)
    except LayerError as error:
        raise LayerError(f"{place}: {name}: {error}") from error
