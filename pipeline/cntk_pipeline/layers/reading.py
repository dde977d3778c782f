"""Inputs of networks in memory, as users give them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cntk_pipeline.errors import DataError, LayerError
from cntk_pipeline.graphs import fill_rows, is_graph
from cntk_pipeline.inputs import (
    as_array,
    instead_of_numbers,
    is_whole_number,
    require_channels_last,
    short_repr,
)
from cntk_pipeline.layers.absent import NEEDS_MASKED, NEEDS_PADDED, takes_gaps, takes_padding
from cntk_pipeline.layers.base import Layer, instead_of_layer
from cntk_pipeline.layers.recurrent import read_sequences, takes_sequences
from cntk_pipeline.sequences import fill_steps, has_absent_pixels, has_absent_steps, read_presence


def require_inputs(name: str, inputs: Any, networks: Sequence[Layer]) -> npt.NDArray[Any]:
    """Check inputs of networks, and lay sequences ``(n, T, C)`` as images of one row.

    Parameters
    ----------
    name : str
        Of the argument, for messages.
    inputs : object
        ``(n, H, W, C)``, ``(n, features)``, graphs, or sequences where the networks take these.
    networks : sequence of Layer
        All of which get the inputs.

    Raises
    ------
    DataError
        If they are not finite real numbers, but for absent positions, or of another shape.
    LayerError
        If a network is none, or positions are absent and a network does not take that, with the remedy.
    """
    array = given = as_array(name, inputs)
    for network in networks:
        if not isinstance(network, Layer):
            is_list = isinstance(network, list | tuple)
            several = "; kernel_matrices takes a list of several" if is_list else instead_of_layer(network)
            raise LayerError(
                "a network is a layer of cntk_pipeline.layers, like Sequential(Dense(), Relu(), Dense()) or "
                f"presets.cntk(3), got {short_repr(network)}{several}"
            )
        array = read_sequences(network, array)
    if array.dtype.kind not in "uif":
        raise DataError(f"{name} must hold real numbers, {instead_of_numbers(name, array)}")
    if array.ndim not in (2, 4) and not is_graph(array.shape[1:]):
        remedy = {
            0: "put it in an array",
            1: f"one sample is {name}[None]",
            3: f"grey images are {name}[..., None], sequences (n, T, C) are images of one row, {name}[:, None]",
        }.get(array.ndim, "leave out axes, or join them by reshape")
        raise DataError(f"{name} must be of shape (n, H, W, C) or (n, features), got {array.shape}: {remedy}")
    if array.size == 0:
        least = "one number in each input" if len(array) else "one input"
        raise DataError(f"{name} must hold at least {least}, got shape {given.shape}")
    if not any(map(takes_sequences, networks)):  # of sequences of T steps and T channels, no axis can be mistaken
        require_channels_last(name, given.shape)
    is_wrong = ~np.isfinite(array)
    gaps = all(map(takes_gaps, networks))
    if has_absent_steps(array) or (gaps and has_absent_pixels(array)):
        if not all(map(takes_padding, networks)):
            raise LayerError(f"{name}: {NEEDS_PADDED}")
        is_wrong &= read_presence(name, array, gaps)[..., None]
    bad = np.argwhere(is_wrong)
    if len(bad):
        place = tuple(map(int, bad[0]))
        absent = array.ndim == 4 and bool(np.isnan(array[place[:3]]).all())
        remedy = f". Or it is an absent pixel: {NEEDS_MASKED}" if absent else ""
        raise DataError(f"{name} holds {array[place]} at index {place}: inputs must be finite{remedy}")
    return array


def read_shape(network: Layer, given: object) -> tuple[int, ...]:
    """Return the shape of one input of a network, that of a sequence ``(T, C)`` as an image of one row.

    Raises
    ------
    LayerError
        If there is no network, or it is no shape of one input, with the remedy.
    """
    if not isinstance(network, Layer):
        raise LayerError(
            f"network must be a layer of cntk_pipeline.layers, such as presets.cntk(3), got {short_repr(network)}"
            f"{instead_of_layer(network)}"
        )
    if not isinstance(given, tuple | list) or not all(is_whole_number(size) and size > 0 for size in given):
        raise LayerError(f"input_shape is that of one input, such as x.shape[1:], got {short_repr(given)}")
    shape = tuple(map(int, given))
    if len(shape) == 2 and takes_sequences(network):
        return (1, *shape)
    if len(shape) in (1, 3) or is_graph(shape):
        return shape
    remedy = {
        2: f": grey images are ({', '.join(map(str, shape))}, 1), features {shape[1:]}",
        4: f": leave out the number of inputs, {shape[1:]}",
    }.get(len(shape), "")
    raise LayerError(f"input_shape is that of one input, (H, W, C) or (features,), got {shape}{remedy}")


def takes_unequal_steps(networks: Sequence[Layer]) -> bool:
    """Tell whether the inputs of networks are sequences of unequal lengths."""
    return all(takes_padding(network) and not takes_gaps(network) for network in networks)


def fill_up(
    networks: Sequence[Layer], left: npt.NDArray[Any], right: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Give graphs of two arrays as many rows each, and sequences of unequal lengths as many steps; others stay."""
    if is_graph(left.shape[1:]) and is_graph(right.shape[1:]):
        rows = max(left.shape[3], right.shape[3])
        return fill_rows(left, rows), fill_rows(right, rows)
    if left.ndim == right.ndim == 4 and takes_unequal_steps(networks):
        steps = max(left.shape[2], right.shape[2])
        return fill_steps(left, steps), fill_steps(right, steps)
    return left, right
