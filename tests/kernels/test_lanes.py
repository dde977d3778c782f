"""Each operation on 16 lanes against NumPy, in both dtypes and at addresses that are no multiple of a vector."""

import numpy as np
import pytest
from numba import cfunc, types
from support.tolerances import DTYPES

from cntk_pipeline.kernels import lanes
from cntk_pipeline.kernels.jit import jit
from cntk_pipeline.kernels.lanes import LANES, address, broadcast, call, load, load_repeated, narrow, store, widen

SHIFTS = [0, 1, 3]
ROWS = 21


@jit
def apply_all(x, y, scalar, shift, out):
    """Write the results of every operation, one to a row of ``out``, from ``shift`` on."""
    a, b = load(address(x, shift), 0), load(address(y, 0), shift)
    store(address(out, 0 * out.shape[1]), shift, a + b)
    store(address(out, 1 * out.shape[1]), shift, a - b)
    store(address(out, 2 * out.shape[1]), shift, a * b)
    store(address(out, 3 * out.shape[1]), shift, a / b)
    store(address(out, 4 * out.shape[1]), shift, -a)
    store(address(out, 5 * out.shape[1]), shift, a + scalar)
    store(address(out, 6 * out.shape[1]), shift, scalar - a)
    store(address(out, 7 * out.shape[1]), shift, scalar * a)
    store(address(out, 8 * out.shape[1]), shift, scalar / a)
    store(address(out, 9 * out.shape[1]), shift, a / scalar)
    store(address(out, 10 * out.shape[1]), shift, lanes.absolute(a))
    store(address(out, 11 * out.shape[1]), shift, lanes.square_root(lanes.absolute(a)))
    store(address(out, 12 * out.shape[1]), shift, lanes.minimum(a, scalar))
    store(address(out, 13 * out.shape[1]), shift, lanes.minimum(a, b))
    store(address(out, 14 * out.shape[1]), shift, lanes.copy_sign(a, b))
    store(address(out, 15 * out.shape[1]), shift, lanes.where_negative(a, b, scalar))
    store(address(out, 16 * out.shape[1]), shift, lanes.where_positive(a, b, scalar))
    store(address(out, 17 * out.shape[1]), shift, lanes.nearest(3 * a))
    store(address(out, 18 * out.shape[1]), shift, lanes.power_of_two(lanes.nearest(b)))
    store(address(out, 19 * out.shape[1]), shift, broadcast(0.1, out))
    store(address(out, 20 * out.shape[1]), shift, 0.1 * a)


def draw(dtype, shape=24):
    return np.random.default_rng(5).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("scalar_dtype", DTYPES)
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_operations_are_those_of_numpy_in_every_lane(dtype, shift, scalar_dtype):
    # Scalars of either dtype, and literals, count as lanes of one value in the dtype of the lanes.
    x, y = draw(dtype, (2, 24))
    x[shift : shift + 3] = [0.0, -0.0, np.nan]
    scalar = np.dtype(scalar_dtype).type(0.3)
    out = np.full((ROWS, 24), 99, dtype)
    apply_all(x, y, scalar, shift, out)
    a, b = x[shift : shift + LANES], y[shift : shift + LANES]
    scalar = a.dtype.type(scalar)
    with np.errstate(divide="ignore"):
        expected = [
            a + b,
            a - b,
            a * b,
            a / b,
            -a,
            a + scalar,
            scalar - a,
            scalar * a,
            scalar / np.abs(a) * np.where(a == 0, np.nan, np.sign(a)),
            a / scalar,
            np.abs(a),
            np.sqrt(np.abs(a)),
            np.minimum(a, scalar),
            np.minimum(a, b),
            np.copysign(a, b),
            np.where(a < 0, b, scalar),
            np.where(a > 0, b, scalar),
            np.rint(3 * a),
            2 ** np.rint(b),
            np.full(LANES, 0.1, dtype),
            a.dtype.type(0.1) * a,
        ]
    found = out[:, shift : shift + LANES]
    # Zeros have no sign by the flags, so neither have the infinities of a division by them.
    assert np.all(np.isinf(found[8, :2]))
    found[8, :2] = np.nan
    np.testing.assert_array_equal(found, expected)
    assert np.all(out[:, :shift] == 99)
    assert np.all(out[:, shift + LANES :] == 99)


@jit
def choose_and_round(x, out):
    a = load(address(x, 0), 0)
    store(address(out, 0), 0, lanes.where_negative(a, 1.0, 0.0))
    store(address(out, LANES), 0, lanes.where_positive(a, 1.0, 0.0))
    store(address(out, 2 * LANES), 0, lanes.nearest(a))
    store(address(out, 3 * LANES), 0, lanes.minimum(a, 1.0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_of_both_signs_and_not_a_number_are_neither_positive_nor_negative(dtype):
    x, out = (
        np.resize(np.array([0.0, -0.0, np.nan, 1e-30, -1e-30, np.inf, -np.inf, 1], dtype), LANES),
        np.zeros(64, dtype),
    )
    choose_and_round(x, out)
    negative, positive, _, bounded = out.reshape(4, LANES)[:, :8]
    np.testing.assert_array_equal(negative, [0, 0, 0, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(positive, [0, 0, 0, 1, 0, 1, 0, 1])
    np.testing.assert_array_equal(bounded, np.array([0, 0, np.nan, 1e-30, -1e-30, 1, -np.inf, 1], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_halves_are_rounded_to_the_even_number(dtype):
    x, out = np.arange(-8, 8, dtype=dtype) + np.dtype(dtype).type(0.5), np.zeros(64, dtype)
    choose_and_round(x, out)
    np.testing.assert_array_equal(out[2 * LANES : 3 * LANES], np.repeat([-8, -6, -4, -2, 0, 2, 4, 6, 8], 2)[1:-1])


@jit
def raise_two(n, out):
    for m in range(0, len(n), LANES):
        store(address(out, 0), m, lanes.power_of_two(load(address(n, 0), m)))


@pytest.mark.parametrize(("dtype", "least", "most"), [("float32", -126, 127), ("float64", -1022, 1023)])
def test_powers_of_two_are_exact_over_all_normal_exponents(dtype, least, most):
    n = np.resize(np.arange(least, most + 1), -(-(most + 1 - least) // LANES) * LANES).astype(dtype)
    out = np.zeros_like(n)
    raise_two(n, out)
    np.testing.assert_array_equal(out, np.ldexp(np.ones_like(n), n.astype(int)))


@jit
def add_wide(x, sums_out):
    store(address(sums_out, 0), 0, load(address(sums_out, 0), 0) + widen(load(address(x, 0), 0)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_widened_lanes_add_up_in_float64(dtype):
    x, sums = draw(dtype, LANES), np.full(LANES, 1e9)
    add_wide(x, sums)
    np.testing.assert_array_equal(sums, 1e9 + x.astype(np.float64))


@jit
def convert(x, out):
    store(address(out, 0), 0, narrow(load(address(x, 0), 0), address(out, 0)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_narrowed_lanes_are_rounded_to_the_dtype_of_the_pointer(dtype):
    x, out = draw("float64", LANES), np.zeros(LANES, dtype)
    convert(x, out)
    np.testing.assert_array_equal(out, x.astype(dtype))


@jit
def read_repeated(x, index, out):
    store(address(out, 0), 0, load_repeated(address(x, index), 1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_number_can_be_read_into_all_lanes(dtype):
    x, out = draw(dtype, 24), np.zeros(LANES, dtype)
    read_repeated(x, 6, out)
    np.testing.assert_array_equal(out, np.full(LANES, x[7]))


@jit
def step_twice(x, out):
    store(address(address(out, 2), 3), 1, load(address(address(x, 1), 2), 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_pointers_can_be_moved(dtype):
    x, out = draw(dtype), np.zeros(24, dtype)
    step_twice(x, out)
    np.testing.assert_array_equal(out[6:22], x[6:22])


def double_and_count(values, count):
    store(values, 1, 2.0 * load(values, 1))
    count[0] += 1


@jit
def call_each(functions, values, count):
    for k in range(len(functions)):
        call(functions[k], (address(values, 0), address(count, 0)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_compiled_function_is_called_by_its_address(dtype):
    number = types.float32 if dtype == "float32" else types.float64
    function = cfunc(types.void(types.CPointer(number), types.CPointer(types.int64)))(double_and_count)
    x, count = draw(dtype), np.zeros(1, np.int64)
    values = x.copy()
    call_each(np.array([function.address] * 3), values, count)
    np.testing.assert_array_equal(values[1:17], 8 * x[1:17])
    np.testing.assert_array_equal(np.delete(values, range(1, 17)), np.delete(x, range(1, 17)))
    assert count[0] == 3


@jit
def add_two(x, y, out):
    store(address(out, 0), 0, load(address(x, 0), 0) + load(address(y, 0), 0))


def test_lanes_of_two_dtypes_do_not_mix():
    with pytest.raises(Exception, match=r"(?s)float32.*float64"):
        add_two(draw("float32"), draw("float64"), np.zeros(LANES, "float32"))
    # Nor is a result rounded on the way to memory, or widened, unless the code says so.
    with pytest.raises(Exception, match=r"(?s)float64.*float32|float32.*float64"):
        add_two(draw("float64"), draw("float64"), np.zeros(LANES, "float32"))
