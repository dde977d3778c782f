"""Networks as plain tables: how workflow files and run directories spell them."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import LayerError
from pipeline.layers.base import Layer
from pipeline.layers.sequential import Sequential

Table = dict[str, Any]


def spell(network: Sequential) -> list[Table]:
    """Write a network as a list of tables, one a layer: its class under ``layer``, and its fields."""
    layers: Sequence[Any] = network.flattened()
    return [{"layer": type(layer).__name__} | dataclasses.asdict(layer) for layer in layers]


def read(tables: Sequence[Mapping[str, Any]], layers: Mapping[str, type[Layer]]) -> Sequential:
    """Build a network from what `spell` wrote, or a workflow file.

    Parameters
    ----------
    tables : one a layer; fields that are left out take their defaults.
    layers : classes by name, the room's table.

    Raises
    ------
    LayerError
        If a layer or a field is unknown, with the nearest known one, or a value does not fit.
    """
    built = []
    for position, table in enumerate(tables):
        fields = dict(table)
        name = fields.pop("layer", None)
        if name is None:
            raise LayerError(f'network.layers[{position}]: name the layer, like layer = "Relu"')
        if name not in layers:
            raise LayerError(f"network.layers[{position}]: unknown layer {name!r}{nearest(name, list(layers))}")
        kind: Any = layers[name]
        known = [field.name for field in dataclasses.fields(kind)]
        for key in fields:
            if key not in known:
                raise LayerError(f"network.layers[{position}]: {name} has no field {key!r}{nearest(key, known)}")
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        try:
            built.append(kind(**values))
        except (TypeError, LayerError) as error:
            raise LayerError(f"network.layers[{position}]: {name}: {error}") from error
    return Sequential(*built)


def nearest(name: Any, known: Sequence[str]) -> str:
    """End a message about an unknown name with the nearest known one, or with all."""
    near = difflib.get_close_matches(str(name), known, 1, 0.5)
    return f": did you mean {near[0]!r}?" if near else f": known are {', '.join(known) or 'none'}"
