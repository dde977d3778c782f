"""Dual activations: what a pointwise non-linearity does to a covariance, and their derivatives.

For ReLU and a pair of positions with correlation rho (Cho and Saul 2009; Arora et al. 2019, section 3):
``k0 = (pi - arccos rho) / pi`` and ``k1 = (rho (pi - arccos rho) + sqrt(1 - rho^2)) / pi``. The covariance
after ReLU is ``k1 / 2`` times both standard deviations; the derivative's is ``k0 / 2``.

With ``a = |rho|``, ``s = sqrt(1 - a)``, ``A = s P(a) = arccos(a) / pi`` and ``B = s Q(a) = sqrt(1 - a^2) / pi``:
``k0 = 1 - A`` (or A where rho < 0) and ``k1 = rho k0 + B`` for both signs. One square root and two polynomials,
no call into libm, so a loop over them becomes vector code.

The coefficients are the output of ``python -m pipeline.kernels.fit_duals 6 16``; relative errors of P and Q:
1.6e-7 and 2.8e-7 (degree 6, in float32), 8.6e-16 and 1.4e-15 (degree 16, in float64): a rounding or two.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from pipeline.kernels.jit import jit_inline
from pipeline.kernels.lanes import LanesType, absolute, copy_sign, minimum, square_root, where_negative

_ANGLE_32 = (
    np.float32(0.4999999360436614),
    np.float32(-0.0683035685859746),
    np.float32(0.028239845236573892),
    np.float32(-0.015483972110096928),
    np.float32(0.008466341519611436),
    np.float32(-0.0034631065643220154),
    np.float32(0.000702718728678224),
)
_ROOT_32 = (
    np.float32(0.3183099571470001),
    np.float32(0.15914793427214363),
    np.float32(-0.03967208843276511),
    np.float32(0.019137122847504823),
    np.float32(-0.009942961206156127),
    np.float32(0.0039766093598857044),
    np.float32(-0.0007984563899131523),
)
_ANGLE_64 = (
    0.4999999999999996,
    -0.06830988618356072,
    0.028345056885847396,
    -0.01616785415821929,
    0.010721069188999153,
    -0.0077583747931484,
    0.005941811645429866,
    -0.004728267403981951,
    0.0038461573283250375,
    -0.003122525243444376,
    0.0024324321251695583,
    -0.0017202588883030918,
    0.001034531228028487,
    -0.000492158625895493,
    0.00016979958373293115,
    -3.723629068939344e-05,
    3.861680263927316e-06,
)
_ROOT_64 = (
    0.3183098861837911,
    0.15915494309165518,
    -0.03978873574974813,
    0.019894366991465667,
    -0.012433961646395873,
    0.008703557517877889,
    -0.006525938846822151,
    0.0051178868044749895,
    -0.0041196614028680785,
    0.00331925806203849,
    -0.0025718248341553528,
    0.0018121831282137597,
    -0.0010871620993384568,
    0.0005163656699497712,
    -0.00017795948577472968,
    3.899682890144451e-05,
    -4.042134712696733e-06,
)


@jit_inline
def _horner_32(c: Any, a: Any) -> Any:
    """Evaluate a polynomial of degree 6 with the coefficients ``c``, lowest first."""
    return c[0] + a * (c[1] + a * (c[2] + a * (c[3] + a * (c[4] + a * (c[5] + a * c[6])))))


@jit_inline
def _horner_64(c: Any, a: Any) -> Any:
    """Evaluate a polynomial of degree 16: even and odd halves side by side, since one chain of 16 waits on itself."""
    b = a * a
    even = c[0] + b * (
        c[2] + b * (c[4] + b * (c[6] + b * (c[8] + b * (c[10] + b * (c[12] + b * (c[14] + b * c[16]))))))
    )
    odd = c[1] + b * (c[3] + b * (c[5] + b * (c[7] + b * (c[9] + b * (c[11] + b * (c[13] + b * c[15]))))))
    return even + a * odd


def relu_duals(rho: Any) -> tuple[Any, Any]:
    """Evaluate ``(k0, k1)`` of ReLU at a correlation or at lanes of them, which may exceed [-1, 1] by rounding.

    Callable from jitted code only; the precision of ``rho`` picks the polynomial.
    """
    raise TypeError("relu_duals runs inside jitted code only")


@overload(relu_duals, inline="always", jit_options={"fastmath": {"contract", "nsz"}})
def _relu_duals(rho: Any) -> Any:
    if rho in (types.float32, LanesType(types.float32)):

        def relu_duals_32(rho: Any) -> Any:
            one = np.float32(1)
            a = minimum(absolute(rho), one)
            s = square_root(one - a)
            angle = s * _horner_32(_ANGLE_32, a)
            k0 = where_negative(rho, angle, one - angle)
            return k0, copy_sign(a, rho) * k0 + s * _horner_32(_ROOT_32, a)

        return relu_duals_32

    def relu_duals_64(rho: Any) -> Any:
        a = minimum(absolute(rho), 1.0)
        s = square_root(1.0 - a)
        angle = s * _horner_64(_ANGLE_64, a)
        k0 = where_negative(rho, angle, 1.0 - angle)
        return k0, copy_sign(a, rho) * k0 + s * _horner_64(_ROOT_64, a)

    return relu_duals_64
