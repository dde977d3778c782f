"""Each operation on 16 lanes against NumPy, in both dtypes and at addresses that are no multiple of a vector."""

import numpy as np
import pytest
from numba import njit

from pipeline.kernels import lanes
from pipeline.kernels.lanes import LANES, address, broadcast, left_address, load, load_left, store, widen
from tests.tolerances import DTYPES

SHIFTS = [0, 1, 3]


@njit
def apply_all(x, y, scalar, shift, out):
    """Write the results of every operation, one to a row of ``out``, from ``shift`` on."""
    a, b = load(address(x, shift), 0), load(address(y, 0), shift)
    store(address(out, 0 * out.shape[1]), shift, a + b)
    store(address(out, 1 * out.shape[1]), shift, a - b)
    store(address(out, 2 * out.shape[1]), shift, a * b)
    store(address(out, 3 * out.shape[1]), shift, a + scalar)
    store(address(out, 4 * out.shape[1]), shift, scalar - a)
    store(address(out, 5 * out.shape[1]), shift, scalar * a)
    store(address(out, 6 * out.shape[1]), shift, lanes.absolute(a))
    store(address(out, 7 * out.shape[1]), shift, lanes.square_root(lanes.absolute(a)))
    store(address(out, 8 * out.shape[1]), shift, lanes.minimum(a, scalar))
    store(address(out, 9 * out.shape[1]), shift, lanes.minimum(a, b))
    store(address(out, 10 * out.shape[1]), shift, lanes.copy_sign(a, b))
    store(address(out, 11 * out.shape[1]), shift, lanes.where_negative(a, b, scalar))
    store(address(out, 12 * out.shape[1]), shift, broadcast(0.1, out))


def draw(dtype, shape=24):
    return np.random.default_rng(5).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_operations_are_those_of_numpy_in_every_lane(dtype, shift):
    x, y = draw(dtype, (2, 24))
    x[shift : shift + 3] = [0.0, -0.0, np.nan]
    scalar = x.dtype.type(0.3)
    out = np.full((13, 24), 99, dtype)
    apply_all(x, y, scalar, shift, out)
    a, b = x[shift : shift + LANES], y[shift : shift + LANES]
    expected = [
        a + b,
        a - b,
        a * b,
        a + scalar,
        scalar - a,
        scalar * a,
        np.abs(a),
        np.sqrt(np.abs(a)),
        np.minimum(a, scalar),
        np.minimum(a, b),
        np.copysign(a, b),
        np.where(a < 0, b, scalar),
        np.full(LANES, 0.1, dtype),
    ]
    np.testing.assert_array_equal(out[:, shift : shift + LANES], expected)
    assert np.all(out[:, :shift] == 99)
    assert np.all(out[:, shift + LANES :] == 99)


@njit
def apply_to_scalars(x, out):
    out[0], out[1] = lanes.absolute(x[0]), lanes.square_root(x[1])
    out[2], out[3] = lanes.minimum(x[0], x[1]), lanes.copy_sign(x[1], x[0])
    out[4] = lanes.where_negative(x[0], x[1], x[2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_functions_take_scalars_too(dtype):
    x, out = np.array([-2, 9, 4], dtype), np.zeros(5, dtype)
    apply_to_scalars(x, out)
    np.testing.assert_array_equal(out, [2, 3, -2, -9, 9])


@njit
def add_wide(x, sums_out):
    store(address(sums_out, 0), 0, load(address(sums_out, 0), 0) + widen(load(address(x, 0), 0)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_widened_lanes_add_up_in_float64(dtype):
    x, sums = draw(dtype, LANES), np.full(LANES, 1e9)
    add_wide(x, sums)
    np.testing.assert_array_equal(sums, 1e9 + x.astype(np.float64))


@njit
def read_left(left, index, out):
    store(address(out, 0), 0, load_left(left_address(left, index), 1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_left_pixel_is_one_number_for_all_lanes_or_one_a_lane(dtype):
    one, each, out = draw(dtype, (2, 3, 4)), draw(dtype, (2, 3, 4, LANES)), np.zeros(LANES, dtype)
    read_left(one, 6, out)
    np.testing.assert_array_equal(out, np.full(LANES, one[0, 1, 3]))
    read_left(each, 6, out)
    np.testing.assert_array_equal(out, each[0, 1, 3])


@njit
def step_twice(x, out):
    store(address(address(out, 2), 3), 1, load(address(address(x, 1), 2), 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_pointers_can_be_moved(dtype):
    x, out = draw(dtype), np.zeros(24, dtype)
    step_twice(x, out)
    np.testing.assert_array_equal(out[6:22], x[6:22])


def test_dtypes_do_not_mix():
    with pytest.raises(Exception, match=r"(?s)float32.*float64"):
        apply_all(draw("float32"), draw("float32"), np.float64(1), 0, np.zeros((13, 24), "float32"))
