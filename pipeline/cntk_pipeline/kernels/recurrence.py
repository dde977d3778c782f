"""The loops of recurrent layers: a scan along a plane of one row, in which each step carries its result to the next.

Steps of one plane wait for each other, so that a step takes as long as a dual from its first instruction to its last.
"""

from functools import cache
from typing import Any

from numba import types

from cntk_pipeline.kernels.jit import jit_pointers
from cntk_pipeline.kernels.lanes import LANES, address, broadcast, load, multiply_add, store
from cntk_pipeline.kernels.weighing import CONSTANTS, Place, find_dual, get_by_lane, get_repeated, number_type
from cntk_pipeline.layers import ClosedForm, Pointwise

_TANGENT, _WIDTH, _LEFT_STATISTIC, _RIGHT_STATISTIC, _TERMS = (
    int(entry) for entry in (Place.TANGENT, Place.WIDTH, Place.LEFT_STATISTIC, Place.RIGHT_STATISTIC, Place.TERMS)
)
_RECURRENCE = 4 + CONSTANTS


@cache
def recurrence_function(
    function: type[Pointwise],
    tangent: bool,
    begins: bool,
    backward: bool,
    by_lane: bool,
    dtype: str,
    padded: bool,
) -> Any:
    """Compile the scan of one kind of recurrent layer, or load it from disk; called as `weighing.plane_function` is.

    Parameters
    ----------
    function : subclass of Pointwise
        The activation.
    tangent : bool
        Carry T as well.
    begins : bool
        T of the source is zero, whatever its register holds.
    backward : bool
        From the last position to the first.
    by_lane : bool
        The left image differs by lane.
    dtype : str
        Of planes and statistics.
    padded : bool
        States are 0 at steps that either sequence does not have; the last statistic is 1 where a step is present.
    """
    dual, take_left, take_right = find_dual(function, by_lane)
    carried = tangent and not begins
    get_left = get_by_lane if by_lane else get_repeated
    own_statistics = function.statistic_count if issubclass(function, ClosedForm) else 2

    def scan(source: Any, target_out: Any, ring: Any, left: Any, right: Any, place: Any, factors: Any) -> None:
        """Scan a register of one row; ``H = recurrence S'_before + scale S + bias``, and T likewise; see `Code`."""
        width, terms = place[_WIDTH], place[_TERMS]
        left_step, right_step = place[_LEFT_STATISTIC], place[_RIGHT_STATISTIC]
        scale, bias, own, recurrence = factors[0], factors[1], factors[2], factors[_RECURRENCE]
        constants = factors[3], factors[4], factors[5]
        present = own_statistics + terms  # closed forms have no terms
        source_t, target_t = address(source, place[_TANGENT]), address(target_out, place[_TANGENT])
        state, t = broadcast(0.0, source), broadcast(0.0, source)
        for step in range(width):
            j = width - 1 - step if backward else step
            m = j * LANES
            covariance = multiply_add(recurrence, state, multiply_add(scale, load(source, m), bias))
            x = take_left(left, j, left_step, terms)
            z = take_right(right, j, right_step, terms)
            state, slope = dual(covariance, x, z, constants)
            if padded:
                here = get_left(left, j + present * left_step) * get_by_lane(right, j + present * right_step)
                state, slope = here * state, here * slope
            if tangent:
                t = multiply_add(recurrence, t, own * covariance)
                if carried:
                    t = multiply_add(scale, load(source_t, m), t)
                t = t * slope
                store(target_t, m, t)
            store(target_out, m, state)

    numbers = types.CPointer(number_type(dtype))
    signature = types.void(numbers, numbers, numbers, numbers, numbers, types.CPointer(types.int64), numbers)
    return jit_pointers(signature, scan)
