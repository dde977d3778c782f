"""What a workflow may say of networks: values of the types that layers and presets declare, and no more than is usable.

The layers check what a value means; here nothing is turned into another type on the way to them.
"""

import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.layers import Layer, Repeat
from cntk_pipeline.layers.presets import Preset

MOST_LAYERS = 50_000
"""Of all read-outs together. Lowering takes 0.13 ms and 5 kB a layer, in every process, measured on chains of up to
40,000; networks of 1,000 layers are the deepest that anybody has used."""

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes"}


def require_types(tables: Sequence[Any], layers: Mapping[str, type[Layer]], place: str = "network.layers") -> None:
    """Refuse a field of a layer whose value is not of its type; what is no layer is left to `spelling.read`.

    Parameters
    ----------
    tables : sequence
        As of `layers.spelling.read`.
    layers : mapping of str to subclass of Layer
        Classes by name.

    Raises
    ------
    ConfigError
        With the place, the type and the value.
    """
    for position, table in enumerate(tables):
        name = table.get("layer") if isinstance(table, Mapping) else None
        if not isinstance(name, str) or name not in layers:
            continue
        hints = get_type_hints(layers[name])
        for key, value in table.items():
            where = f"{place}[{position}]"
            if hints.get(key) is Layer:
                inner = [value] if isinstance(value, Mapping) else value
                require_types(inner if isinstance(inner, list) else [], layers, f"{where}.{key}")
            elif key in hints:
                as_read = tuple(value) if isinstance(value, list) else value
                _require_type(hints[key], as_read, value, f"{where}: {name}: {key}")


def require_option_types(preset: Preset, options: Mapping[str, Any]) -> None:
    """Refuse an option of a preset whose value is not of its type; one that it does not know is left to the caller.

    Raises
    ------
    ConfigError
        As of `require_types`.
    """
    hints = get_type_hints(preset.build)
    for option, value in options.items():
        if option in preset.options:
            _require_type(hints[option], value, value, f"network.options.{option}")


def require_depth(depth: int) -> None:
    """Refuse a depth that no preset should even begin to build.

    Raises
    ------
    ConfigError
        If it is larger than `MOST_LAYERS`.
    """
    if depth > MOST_LAYERS:
        raise ConfigError(
            f"readouts.depths: a network of depth {depth} has that many layers at least, and at most {MOST_LAYERS} can "
            "be handled: take a smaller depth"
        )


def require_size(layers: int, whose: str) -> None:
    """Refuse networks whose program would be too large to be made, with its size.

    Raises
    ------
    ConfigError
        If they have more than `MOST_LAYERS` layers.
    """
    if layers > MOST_LAYERS:
        raise ConfigError(
            f"{whose} have {layers} layers together, and at most {MOST_LAYERS} can be handled: take smaller depths "
            "(readouts.depths), fewer read-outs, or fewer layers"
        )


def layer_count(layer: Layer) -> int:
    """Count a layer and all that it is made of; without recursion, which has a limit of its own."""
    waiting, count = [(layer, 1)], 0
    while waiting:
        inner, times = waiting.pop()
        count += times
        again = inner.times if isinstance(inner, Repeat) else 1
        waiting += [(part, times * again) for part in inner.inner]
    return count


def _require_type(annotation: Any, value: Any, shown: Any, where: str) -> None:
    try:
        _adapter(annotation).validate_python(value)
    except ValidationError:
        raise ConfigError(f"{where} must be {_words(annotation)}, got {shown!r}") from None


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation, config=ConfigDict(strict=True))


def _words(annotation: Any) -> str:
    """Say in words what a type takes in a workflow file."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        words = [_words(argument) for argument in arguments if argument in _WORDS or get_origin(argument) is tuple]
        return " or ".join(words)
    if origin is tuple:
        return f"a list of {_words(arguments[0]).removeprefix('a ')}s"
    return _WORDS.get(annotation, str(annotation))
