"""The functions that dual activations are written in.

Here they take numbers and NumPy arrays; `kernels.duals` gives each of them compiled code for 16 numbers at
once. A dual activation is plain Python over these and ``+ - * /``.
"""

import numpy as np

Array = np.ndarray


def square_root(x: Array) -> Array:
    """Take the square root of x >= 0."""
    return np.sqrt(x)


def inverse_root(x: Array) -> Array:
    """Evaluate ``1 / sqrt(x)``, and 0 where ``x <= 0``: a covariance with what is always zero stays zero."""
    x = np.asarray(x)
    return np.where(x > 0, 1 / np.sqrt(np.where(x > 0, x, 1)), 0)


def exponential(x: Array) -> Array:
    """Evaluate ``exp(x)``."""
    return np.exp(x)


def exponential_less_one(x: Array) -> Array:
    """Evaluate ``exp(x) - 1`` without losing the digits of a small x."""
    return np.expm1(x)


def absolute(x: Array) -> Array:
    """Drop the sign."""
    return np.abs(x)


def with_sign(size: Array, sign: Array) -> Array:
    """Give ``size`` the sign of ``sign``."""
    return np.copysign(size, sign)


def arc_sine(q: Array, rest: Array) -> Array:
    """Evaluate ``arcsin(q)``, given ``rest = 1 - q^2`` besides, of which q alone keeps few digits near 1."""
    return np.arctan2(q, np.sqrt(rest))


def clip_correlation(rho: Array) -> Array:
    """Cut to [-1, 1] what exceeds it by rounding."""
    return np.clip(rho, -1, 1)


def arc_cosine_halves(rho: Array) -> tuple[Array, Array]:
    """Evaluate half the arc-cosine kernels of order 0 and 1 (Cho and Saul 2009, equations 3 to 6), rho cut to [-1, 1].

    ``k0 / 2 = (pi - arccos rho) / 2 pi`` and ``k1 / 2 = (rho (pi - arccos rho) + sqrt(1 - rho^2)) / 2 pi``.
    """
    rho = clip_correlation(rho)
    angle = np.pi - np.arccos(rho)
    return angle / (2 * np.pi), (rho * angle + np.sqrt(1 - rho * rho)) / (2 * np.pi)
