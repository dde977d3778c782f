"""Which pairs of images are nearly the same up to a factor."""

import math
from functools import cache

import numpy as np

from cntk_pipeline.kernels.jit import jit
from cntk_pipeline.kernels.lanes import LANES, address, broadcast, load, load_repeated, multiply_add, store
from cntk_pipeline.kernels.program import Array

_CHUNK = 64
"""Numbers of an image between two looks at whether all pairs are far apart already."""


def directions(images: Array) -> Array:
    """Divide images ``(n, ...)`` by their norms and put their numbers in an order that jumps about.

    Neighbours are alike, and borders often empty: in this order, the first numbers already tell far images apart.

    Returns
    -------
    float32 array, (n, numbers)
        That of an image does not depend on the others.
    """
    flat = np.ascontiguousarray(images.reshape(len(images), -1))
    found = np.empty(flat.shape, np.float32)
    _fill_directions(flat, _order(flat.shape[1]), found)
    return found


def find_near_to_themselves(images: Array, limits: Array) -> Array:
    """Find the images ``(n, C, H, W)`` that a shift by a third hardly changes, (n,) bool: by ``1 - |cos| < limit``.

    Their positions are as near to each other as those of two images that are nearly the same.
    """
    shifted = shift(images)
    found = np.zeros(len(images), np.bool_)
    for start in range(0, len(images), LANES):
        chosen = slice(start, start + LANES)
        sides = directions(images[chosen]), directions(shifted[chosen])
        found[chosen] = np.diagonal(find_near(*sides, limits[chosen], np.zeros(len(sides[0]))))
    return found


def shift(images: Array) -> Array:
    """Move images ``(n, C, H, W)`` by a third, around their edges."""
    height, width = images.shape[2:]
    return np.roll(images, (height // 3, max(width // 3, int(height < 3))), (2, 3))


def sizes_differ(x: Array, z: Array) -> bool:
    """Tell whether the norms of two images differ by more than a thousandth."""
    first, second = (float(np.linalg.norm(image.astype(np.float64))) for image in (x, z))
    return abs(first - second) > 1e-3 * max(first, second)


@cache
def _order(size: int) -> Array:
    step = max(1, int(size * (math.sqrt(5) - 1) / 2))
    while math.gcd(step, size) > 1:
        step += 1
    return np.arange(size) * step % size


@jit
def _fill_directions(images: Array, order: Array, directions_out: Array) -> None:
    """Sum in one order, whatever the alignment; the largest number is taken out, so that no square underflows."""
    for n in range(images.shape[0]):
        largest = 0.0
        for p in range(images.shape[1]):
            largest = max(largest, abs(float(images[n, p])))
        inverse = 1.0 / largest if largest > 0 else 0.0
        even, odd = 0.0, 0.0
        for p in range(0, images.shape[1] - 1, 2):
            even += (images[n, p] * inverse) ** 2
            odd += (images[n, p + 1] * inverse) ** 2
        if images.shape[1] % 2 == 1:
            even += (images[n, -1] * inverse) ** 2
        if largest > 0:
            inverse /= math.sqrt(even + odd)
        for p in range(images.shape[1]):
            directions_out[n, p] = images[n, order[p]] * inverse


def find_near(left: Array, right: Array, left_limits: Array, right_limits: Array) -> Array:
    """Find the pairs with ``1 - |cos| < limit``, the larger one of both images' limits.

    Parameters
    ----------
    left, right : array
        `directions` of n images and of up to 16.
    left_limits : float64 array, (n,)
    right_limits : float64 array, (right,)

    Returns
    -------
    bool array, (n, right)
        A pair's answer does not depend on the others.
    """
    count = len(right)
    lanes, limits = np.zeros((left.shape[1], LANES), np.float32), np.full(LANES, -1.0)
    lanes[:, :count], limits[:count] = right.T, right_limits
    found = np.zeros((len(left), LANES), np.bool_)
    _find_near(np.ascontiguousarray(left), lanes, left_limits, limits, np.zeros((2, LANES), np.float32), found)
    return found[:, :count]


@jit
def _find_near(
    left: Array, right: Array, left_limits: Array, right_limits: Array, scratch: Array, found_out: Array
) -> None:
    """Sum squares of differences, and of sums, until none of 16 pairs can be near; see `find_near`."""
    size = left.shape[1]
    for n in range(left.shape[0]):
        x, z = address(left, n * size), address(right, 0)
        apart = broadcast(0.0, z)
        opposite = broadcast(0.0, z)
        begin = 0
        is_any = True
        while begin < size and is_any:
            end = min(begin + _CHUNK, size)
            for p in range(begin, end):
                difference = load_repeated(x, p) - load(z, p * LANES)
                total = load_repeated(x, p) + load(z, p * LANES)
                apart = multiply_add(difference, difference, apart)
                opposite = multiply_add(total, total, opposite)
            store(address(scratch, 0), 0, apart)
            store(address(scratch, LANES), 0, opposite)
            begin = end
            is_any = False
            for lane in range(LANES):
                limit = 2 * max(left_limits[n], right_limits[lane])
                near = right_limits[lane] >= 0 and min(scratch[0, lane], scratch[1, lane]) < limit
                found_out[n, lane] = near
                is_any = is_any or near
