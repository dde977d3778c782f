"""How functions are compiled."""

import ctypes
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from numba import njit, types

from pipeline.kernels import interpreter, planes, variances
from pipeline.kernels.jit import OPTIONS, forget_stale_code, jit, jit_pointers, pasted
from pipeline.kernels.lanes import address, load, store
from pipeline.kernels.weighing import plane_function, statistics_function
from pipeline.layers import Relu
from pipeline.layers.elementary import arc_sine


def run_python(code, **environment):
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, check=True, text=True, env={**os.environ, "PYTHONPATH": path, **environment}
    )
    return done.stdout.strip()


def test_a_user_s_choice_of_processor_features_is_left_alone():
    code = "import numba, pipeline.kernels.jit; print(numba.config.CPU_FEATURES)"
    assert run_python(code, NUMBA_CPU_FEATURES="+sse2") == "+sse2"


def test_compiled_functions_release_the_interpreter_and_reorder_no_sum():
    @jit
    def anything(x):
        return x

    compiled = (interpreter.run_group, interpreter.transpose_lanes, planes.sum_windows, variances.run_variances)
    for function in (anything, *compiled):
        options = function.targetoptions
        assert options["nogil"]
        assert options["fastmath"] == {"contract", "nsz"}
        assert options["error_model"] == "numpy"


def test_neither_lanes_nor_what_is_pasted_may_be_reordered():
    @njit(**OPTIONS)
    def add_up(x):
        total, scalars = load(address(x, 0), 0), 0.0
        for m in range(len(x)):
            scalars += square(x[m])
            total = total + arc_sine(load(address(x, 0), m))
        store(address(x, 0), 0, total)
        return scalars

    add_up.compile(types.float64(types.float64[::1]))
    (code,) = add_up.inspect_llvm().values()
    sums = set(re.findall(r"fadd ([a-z ]*)(?:<|double)", code))
    assert sums
    assert {frozenset(flags.split()) for flags in sums} <= {frozenset({"nsz", "contract"})}


@pasted
def square(x):
    return x * x


def test_compiled_functions_are_kept_on_disk():
    assert type(interpreter.run_group._cache).__name__ == "FunctionCache"
    assert type(plane_function(None, False, True, False, False, "float64")._cache).__name__ == "FunctionCache"


def test_loops_are_compiled_once_and_only_when_asked_for():
    before = plane_function.cache_info().currsize, statistics_function.cache_info().currsize
    first = plane_function(Relu, False, True, False, False, "float64")
    assert plane_function(Relu, False, True, False, False, "float64") is first
    assert statistics_function(Relu, "float64") is statistics_function(Relu, "float64")
    after = plane_function.cache_info().currsize, statistics_function.cache_info().currsize
    assert all(a <= b + 1 for a, b in zip(after, before, strict=True))


POINTERS = """
import sys
sys.path.insert(0, {folder!r})
import loops
print(loops.double.address != 0, loops.double.cache_hits)
"""
LOOPS = """
from numba import types
from pipeline.kernels.jit import jit_pointers

def twice(x):
    x[0] *= 2

double = jit_pointers(types.void(types.CPointer(types.float64)), twice)
"""


def test_a_second_process_loads_the_machine_code_of_the_first(tmp_path):
    (tmp_path / "loops.py").write_text(LOOPS)
    code = POINTERS.format(folder=str(tmp_path))
    assert [run_python(code) for _ in range(2)] == ["True 0", "True 1"]
    assert len(list((tmp_path / "__pycache__").glob("loops.twice-*.nbi"))) == 1


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


def touch(folder, text, name="planes.py"):
    path = folder / name
    path.write_text(text)
    return path


def test_machine_code_of_changed_sources_is_deleted(tmp_path):
    cache = tmp_path / "cache"
    sources = [touch(tmp_path, "one"), touch(tmp_path, "other", "lanes.py")]
    forget_stale_code(cache, sources)
    files = [cache / "engine.run-1.py311.nbi", cache / "engine.run-1.py311.1.nbc"]
    python = cache / "planes.cpython-311.pyc"
    for path in (*files, python):
        path.write_text("machine code")
    forget_stale_code(cache, reversed(sources))
    assert all(path.exists() for path in files)
    touch(tmp_path, "two")
    forget_stale_code(cache, sources)
    assert not any(path.exists() for path in files)
    assert python.exists()


@pytest.mark.parametrize("change", ["another source", "one source less"])
def test_machine_code_is_deleted_when_the_set_of_sources_changes(tmp_path, change):
    cache = tmp_path / "cache"
    sources = [touch(tmp_path, "one"), touch(tmp_path, "two", "lanes.py")]
    forget_stale_code(cache, sources)
    old = cache / "old.nbi"
    old.write_text("machine code")
    forget_stale_code(cache, sources[:1] if change == "one source less" else [*sources, touch(tmp_path, "x", "z.py")])
    assert not old.exists()


def test_machine_code_of_unknown_sources_is_deleted(tmp_path):
    (tmp_path / "old.nbc").write_text("machine code")
    forget_stale_code(tmp_path, [touch(tmp_path, "one")])
    assert not (tmp_path / "old.nbc").exists()


def test_a_folder_that_cannot_be_written_is_left_alone(tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    forget_stale_code(tmp_path / "cache", [touch(tmp_path, "one")])
    assert (tmp_path / "cache").read_text() == "a file, not a folder"
