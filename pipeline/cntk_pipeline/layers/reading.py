"""Inputs of networks in memory, as users give them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cntk_pipeline.errors import DataError, LayerError
from cntk_pipeline.graphs import fill_rows, is_graph
from cntk_pipeline.inputs import as_array, require_channels_last
from cntk_pipeline.layers.absent import NEEDS_MASKED, NEEDS_PADDED, takes_gaps, takes_padding
from cntk_pipeline.layers.base import Layer
from cntk_pipeline.layers.recurrent import read_sequences, takes_sequences
from cntk_pipeline.sequences import fill_steps, has_absent_pixels, has_absent_steps, read_presence


def require_inputs(name: str, inputs: Any, networks: Sequence[Layer]) -> npt.NDArray[Any]:
    """Check inputs of networks, and lay sequences ``(n, T, C)`` as images of one row.

    Parameters
    ----------
    name : of the argument, for messages.
    inputs : ``(n, H, W, C)``, ``(n, features)``, graphs, or sequences where the networks take these.
    networks : all of which get the inputs.

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
            several = "; kernel_matrices takes a list of several" if isinstance(network, list | tuple) else ""
            raise LayerError(
                "a network is a layer of cntk_pipeline.layers, like Sequential(Dense(), Relu(), Dense()) or "
                f"presets.cntk(3), got {network!r}{several}"
            )
        array = read_sequences(network, array)
    if array.dtype.kind not in "uif":
        raise DataError(f"{name} must hold real numbers, got dtype {array.dtype}")
    if array.ndim not in (2, 4) and not is_graph(array.shape[1:]):
        raise DataError(
            f"{name} must be of shape (n, H, W, C) or (n, features), got {array.shape}: add missing axes. Sequences "
            f"(n, T, C) are images of one row, {name}[:, None]"
        )
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
