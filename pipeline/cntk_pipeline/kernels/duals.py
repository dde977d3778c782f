"""Compiled code for the functions that dual activations are written in (`layers.elementary`).

With ``a = |rho|``, ``s = sqrt(1 - a)``, ``A = s P(a) = arccos(a) / 2 pi`` and ``B = s Q(a) = sqrt(1 - a^2) / 2 pi``,
half the arc-cosine kernels are ``k0 / 2 = 1/2 - A`` (or A where rho < 0) and ``k1 / 2 = rho k0 / 2 + B`` for both
signs. One square root and two polynomials, no call into libm, so a loop over them becomes vector code; and no bit
depends on the libm of a machine; those of the exponential, of the arc sine and of roots do not either.

The coefficients are the output of ``python -m cntk_pipeline.kernels.fit_duals``; the relative errors of the polynomials
are a rounding or two.
"""

import math
from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import overload

from cntk_pipeline.kernels import lanes
from cntk_pipeline.kernels.jit import OPTIONS
from cntk_pipeline.kernels.lanes import LanesType, multiply_add, polynomial
from cntk_pipeline.layers import elementary

_ANGLE_32 = (
    0.2499999680218307,
    -0.0341517842929873,
    0.014119922618286946,
    -0.007741986055048464,
    0.004233170759805718,
    -0.0017315532821610077,
    0.000351359364339112,
)
_ROOT_32 = (
    0.15915497857350006,
    0.07957396713607182,
    -0.019836044216382555,
    0.009568561423752411,
    -0.0049714806030780635,
    0.0019883046799428522,
    -0.00039922819495657617,
)
_SINE_32 = (
    0.16666672414795305,
    0.0749885507260082,
    0.0450013800699104,
    0.026554542206159854,
    0.038085023561095575,
)
_ANGLE_64 = (
    0.2499999999999998,
    -0.03415494309178036,
    0.014172528442923698,
    -0.008083927079109645,
    0.0053605345944995764,
    -0.0038791873965742,
    0.002970905822714933,
    -0.0023641337019909754,
    0.0019230786641625188,
    -0.001561262621722188,
    0.0012162160625847792,
    -0.0008601294441515459,
    0.0005172656140142435,
    -0.0002460793129477465,
    8.489979186646558e-05,
    -1.861814534469672e-05,
    1.930840131963658e-06,
)
_ROOT_64 = (
    0.15915494309189554,
    0.07957747154582759,
    -0.019894367874874065,
    0.009947183495732833,
    -0.0062169808231979365,
    0.004351778758938944,
    -0.0032629694234110754,
    0.0025589434022374948,
    -0.0020598307014340392,
    0.001659629031019245,
    -0.0012859124170776764,
    0.0009060915641068798,
    -0.0005435810496692284,
    0.0002581828349748856,
    -8.897974288736484e-05,
    1.9498414450722255e-05,
    -2.0210673563483666e-06,
)
_SINE_64 = (
    0.1666666666666665,
    0.07500000000020765,
    0.0446428571034208,
    0.030381947367238666,
    0.022372047629268976,
    0.017355259968636627,
    0.01392965305058643,
    0.011875491689352202,
    0.007802967495081248,
    0.016035451311230037,
    -0.010748935863375664,
    0.02816913276910782,
)

_LOG2_E = 1.4426950408889634
# ln 2 in two parts: whole numbers below 2^10 times the first are exact, in float32 and in float64.
_LN_2_HIGH_32, _LN_2_LOW_32 = 0.693359375, -2.12194440054690583e-4
_LN_2_HIGH_64, _LN_2_LOW_64 = 0.693147180369123816490, 1.90821492927058770002e-10
_HALF_PI = 1.5707963267948966


CODE: dict[Callable[..., Any], Callable[[bool], Callable[..., Any]]] = {}
"""The code of each elementary function: given whether the dtype is float32, Python over lanes. Engines print it."""


def _define(function: Callable[..., Any]) -> Callable[[Callable[..., Any]], None]:
    """Give an elementary function its code for lanes: ``choose`` returns that for float32 or float64."""

    def register(choose: Callable[..., Any]) -> None:
        CODE[function] = choose

        @overload(function, inline="always", jit_options={"fastmath": OPTIONS["fastmath"]})
        def typed(x: Any) -> Any:
            return choose(x.dtype == types.float32) if isinstance(x, LanesType) else None

    return register


def _define_of_two(function: Callable[..., Any]) -> Callable[[Callable[..., Any]], None]:
    """Do the same for a function of two numbers."""

    def register(choose: Callable[..., Any]) -> None:
        CODE[function] = choose

        @overload(function, inline="always", jit_options={"fastmath": OPTIONS["fastmath"]})
        def typed(x: Any, y: Any) -> Any:
            return choose(x.dtype == types.float32) if isinstance(x, LanesType) else None

    return register


@_define(elementary.absolute)
def _absolute(single: bool) -> Any:
    def absolute(x: Any) -> Any:
        return lanes.absolute(x)

    return absolute


@_define_of_two(elementary.with_sign)
def _with_sign(single: bool) -> Any:
    def with_sign(x: Any, y: Any) -> Any:
        return lanes.copy_sign(x, y)

    return with_sign


@_define(elementary.square_root)
def _square_root(single: bool) -> Any:
    def square_root(x: Any) -> Any:
        return lanes.square_root(x)

    return square_root


@_define(elementary.inverse_root)
def _inverse_root(single: bool) -> Any:
    def inverse_root(x: Any) -> Any:
        return lanes.where_positive(x, 1.0 / lanes.square_root(x), 0.0)

    return inverse_root


@_define(elementary.clip_correlation)
def _clip_correlation(single: bool) -> Any:
    def clip_correlation(x: Any) -> Any:
        return lanes.copy_sign(lanes.minimum(lanes.absolute(x), 1.0), x)

    return clip_correlation


@_define(elementary.arc_cosine_halves)
def _arc_cosine_halves(single: bool) -> Any:
    angle_coefficients, root_coefficients = (_ANGLE_32, _ROOT_32) if single else (_ANGLE_64, _ROOT_64)

    def arc_cosine_halves(x: Any) -> Any:
        a = lanes.minimum(lanes.absolute(x), 1.0)
        s = lanes.square_root(1.0 - a)
        angle = s * polynomial(angle_coefficients, a)
        half_k0 = lanes.where_negative(x, angle, 0.5 - angle)
        root = s * polynomial(root_coefficients, a)
        return half_k0, multiply_add(lanes.copy_sign(a, x), half_k0, root)

    return arc_cosine_halves


@_define_of_two(elementary.arc_sine)
def _arc_sine(single: bool) -> Any:
    coefficients = _SINE_32 if single else _SINE_64

    def arc_sine(x: Any, y: Any) -> Any:
        # Beyond 1/2, arcsin(a) = pi / 2 - 2 arcsin(sqrt((1 - a) / 2)), and 1 - a = (1 - a^2) / (1 + a).
        a = lanes.minimum(lanes.absolute(x), 1.0)
        t = lanes.where_positive(a - 0.5, 0.5 * y / (1.0 + a), a * a)
        s = lanes.where_positive(a - 0.5, lanes.square_root(t), a)
        angle = multiply_add(s, t * polynomial(coefficients, t), s)
        return lanes.copy_sign(lanes.where_positive(a - 0.5, _HALF_PI - 2.0 * angle, angle), x)

    return arc_sine


@_define(elementary.exponential)
def _exponential(single: bool) -> Any:
    high, low = (_LN_2_HIGH_32, _LN_2_LOW_32) if single else (_LN_2_HIGH_64, _LN_2_LOW_64)
    # Beyond these the result is 2^128 or 2^1024, infinity, and next to nothing.
    most, least = (89.0, -87.0) if single else (709.8, -708.0)
    # Taylor's series on |r| <= ln(2) / 2 is exact to a rounding.
    coefficients = tuple(1.0 / math.factorial(k) for k in range(8 if single else 14))

    def exponential(x: Any) -> Any:
        x = -lanes.minimum(-lanes.minimum(x, most), -least)
        n = lanes.nearest(x * _LOG2_E)
        value = polynomial(coefficients, multiply_add(-n, low, multiply_add(-n, high, x)))
        # In two steps, since 2^n alone may overflow where the product does not.
        half = lanes.nearest(0.5 * n)
        return (value * lanes.power_of_two(half)) * lanes.power_of_two(n - half)

    return exponential


@_define(elementary.exponential_less_one)
def _exponential_less_one(single: bool) -> Any:
    high, low = (_LN_2_HIGH_32, _LN_2_LOW_32) if single else (_LN_2_HIGH_64, _LN_2_LOW_64)
    # Beyond these 2^n is no number of the dtype; below, the result is -1 long before.
    most, least = (87.9, -87.0) if single else (709.0, -708.0)
    coefficients = tuple(1.0 / math.factorial(k + 1) for k in range(8 if single else 14))

    def exponential_less_one(x: Any) -> Any:
        x = -lanes.minimum(-lanes.minimum(x, most), -least)
        n = lanes.nearest(x * _LOG2_E)
        r = multiply_add(-n, low, multiply_add(-n, high, x))
        power = lanes.power_of_two(n)
        return multiply_add(power, r * polynomial(coefficients, r), power - 1.0)

    return exponential_less_one
