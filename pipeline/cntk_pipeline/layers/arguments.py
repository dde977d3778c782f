"""What layers and presets are made with: arguments that do not fit are refused with what fits."""

import inspect
import reprlib
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import wraps
from numbers import Integral
from typing import Any, ParamSpec, TypeVar

import numpy as np

from cntk_pipeline.errors import LayerError
from cntk_pipeline.inputs import is_number, is_whole_number, short_repr

_Arguments = ParamSpec("_Arguments")
_Built = TypeVar("_Built")


def require_arguments(
    name: str, function: Callable[..., Any], values: Sequence[object], named: Mapping[str, object], elsewhere: str = ""
) -> None:
    """Refuse what a function, or the constructor of a layer, cannot take.

    Python would refuse it too, but who comes from a library where a dense layer begins with its width is to be told
    what to write instead.

    Parameters
    ----------
    name : str
        Of what is made, for the message.
    function : callable
        Whose arguments they are; a ``self`` is left out.
    values, named
        Arguments by position and by name.
    elsewhere : str
        What calls of other libraries become here; ends the message.

    Raises
    ------
    LayerError
        If they do not fit, with the nearest name where one is unknown.
    """
    parameters = [p for key, p in inspect.signature(function).parameters.items() if key != "self"]
    expected = inspect.Signature([p.replace(annotation=inspect.Parameter.empty) for p in parameters])
    try:
        expected.bind(*values, **named)
    except TypeError as error:
        known = [p.name for p in parameters]
        nearest = [near for key in named if key not in known for near in get_close_matches(key.lower(), known, 1)]
        meant = f", did you mean {nearest[0]!r}?" if nearest else "."
        got = ", ".join([*map(reprlib.repr, values), *(f"{key}={reprlib.repr(value)}" for key, value in named.items())])
        told = f" {elsewhere}" if elsewhere else ""
        raise LayerError(f"expected {name}{expected}, got {name}({got}): {error}{meant}{told}") from None


def told_what_fits(elsewhere: str) -> Callable[[Callable[_Arguments, _Built]], Callable[_Arguments, _Built]]:
    """Let a function refuse arguments as `require_arguments` does."""

    def decorate(function: Callable[_Arguments, _Built]) -> Callable[_Arguments, _Built]:
        @wraps(function)
        def told(*values: _Arguments.args, **named: _Arguments.kwargs) -> _Built:
            require_arguments(function.__name__, function, values, named, elsewhere)
            return function(*values, **named)

        return told

    return decorate


def as_plain(value: Any) -> Any:
    """Return a number as Python's int, float or bool, a list as a tuple, and all else as it is.

    `np.float32` would be squared in float32, and no file can hold it.
    """
    if isinstance(value, tuple | list):
        return tuple(as_plain(each) for each in value)
    if isinstance(value, np.bool_ | np.str_):
        return value.item()
    if not is_number(value):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def require_truth(name: str, value: object) -> None:
    """Refuse what is neither True nor False.

    Raises
    ------
    LayerError
        With ``name``.
    """
    if not isinstance(value, bool):
        raise LayerError(f"{name} must be True or False, got {short_repr(value)}")


def require_count(name: str, value: object, least: int = 1) -> int:
    """Return a whole number; refuse what is none.

    Raises
    ------
    LayerError
        With ``name``.
    """
    if not is_whole_number(value) or value < least:
        raise LayerError(f"{name} must be a whole number of at least {least}, got {short_repr(value)}")
    return int(value)
