"""How functions are compiled."""

import ctypes
import os
import re
import subprocess
import sys

import numpy as np
from numba import njit, types

from cntk_pipeline.kernels import interpreter, planes, variances
from cntk_pipeline.kernels.jit import FOLDER, OPTIONS, jit, jit_pointers, pasted
from cntk_pipeline.kernels.lanes import address, load, store
from cntk_pipeline.kernels.weighing import plane_function, statistics_function
from cntk_pipeline.layers import Relu
from cntk_pipeline.layers.elementary import exponential


def run_python(code, **environment):
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, check=True, text=True, env={**os.environ, "PYTHONPATH": path, **environment}
    )
    return done.stdout.strip()


def test_a_user_s_choice_of_processor_features_is_left_alone():
    code = "import numba, cntk_pipeline.kernels.jit; print(numba.config.CPU_FEATURES)"
    assert run_python(code, NUMBA_CPU_FEATURES="+sse2") == "+sse2"


def test_compiled_functions_release_the_interpreter_and_reorder_no_sum():
    @jit
    def anything(x):
        return x

    compiled = (interpreter.run_group, interpreter.transpose_lanes, planes.sum_windows, variances.run_variances)
    for function in (anything, *compiled):
        options = function.targetoptions
        assert options["nogil"]
        assert options["fastmath"] == {"nsz"}
        assert options["error_model"] == "numpy"


def test_neither_lanes_nor_what_is_pasted_may_be_reordered_or_fused():
    @njit(**OPTIONS)
    def add_up(x):
        total, scalars = load(address(x, 0), 0), 0.0
        for m in range(len(x)):
            scalars += square(x[m])
            total = total + exponential(load(address(x, 0), m))
        store(address(x, 0), 0, total)
        return scalars

    add_up.compile(types.float64(types.float64[::1]))
    (code,) = add_up.inspect_llvm().values()
    sums = set(re.findall(r"fadd ([a-z ]*)(?:<|double)", code))
    assert sums
    assert {frozenset(flags.split()) for flags in sums} == {frozenset({"nsz"})}
    assert "contract" not in code


@pasted
def square(x):
    return x * x


def test_compiled_functions_are_kept_on_disk():
    assert interpreter.run_group._cache.cache_path == str(FOLDER)
    assert plane_function(None, False, True, False, False, "float64")._cache.cache_path == str(FOLDER)


def test_loops_are_compiled_once_and_only_when_asked_for():
    before = plane_function.cache_info().currsize, statistics_function.cache_info().currsize
    first = plane_function(Relu, False, True, False, False, "float64")
    assert plane_function(Relu, False, True, False, False, "float64") is first
    assert statistics_function(Relu, "float64") is statistics_function(Relu, "float64")
    after = plane_function.cache_info().currsize, statistics_function.cache_info().currsize
    assert all(a <= b + 1 for a, b in zip(after, before, strict=True))


def test_functions_of_pointers_run_when_called_by_their_address():
    def add_one(x):
        x[1] += 1

    function = jit_pointers(types.void(types.CPointer(types.float64)), add_one)
    values = np.zeros(3)
    function.ctypes(values.ctypes.data_as(ctypes.POINTER(ctypes.c_double)))
    np.testing.assert_array_equal(values, [0, 1, 0])


def test_a_pasted_function_stays_a_plain_one():
    def half_and_double(x, y=3.0):
        return 0.5 * x, 2.0 * y

    assert pasted(half_and_double) is half_and_double
    assert half_and_double(4.0) == (2, 6)

    @njit
    def total(x, y):
        first, second = half_and_double(x, y)
        return first + second

    assert total(4.0, 5.0) == 12
