import os
import pickle
import struct

import numpy as np
import pytest

from pipeline.datasets.restricted_pickle import load_arrays
from pipeline.errors import DataError

ARRAY = np.arange(6, dtype=np.uint8).reshape(2, 3)


class Malicious:
    """Unpickles to the call of a function, as foreign code would."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.fixture
def store(tmp_path):
    def write(content, protocol=2):
        path = tmp_path / "batch"
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
        return path

    return write


def python_2_pickle(array):
    """Write what Python 2 and NumPy 1 wrote at protocol 2: text as byte strings, the old module path."""

    def text(value):
        return b"T" + struct.pack("<i", len(value)) + value

    data = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    kind = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    shape = b"".join(b"K" + bytes([length]) for length in array.shape) + b"\x86"
    state = b"(K\x01" + shape + kind + b"\x89" + text(array.tobytes()) + b"tb"
    return b"\x80\x02}" + text(b"data") + data + state + b"s."


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_come_back_at_every_protocol(store, protocol):
    loaded = load_arrays(store({b"data": ARRAY, b"labels": [1, 2]}, protocol))
    np.testing.assert_array_equal(loaded[b"data"], ARRAY)
    assert loaded[b"labels"] == [1, 2]


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_arrays_of_both_major_versions_of_numpy_come_back(store, module):
    current = np.empty(0).__reduce__()[0].__module__.encode()
    content = pickle.dumps(ARRAY, protocol=2).replace(b"c" + current, b"c" + module)
    np.testing.assert_array_equal(load_arrays(store(content)), ARRAY)


def test_a_pickle_of_python_2_comes_back_with_bytes_as_keys(store):
    np.testing.assert_array_equal(load_arrays(store(python_2_pickle(ARRAY)))[b"data"], ARRAY)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_runs_a_command_is_refused_and_named(store, tmp_path, protocol):
    path = store({b"data": Malicious(os.system, f"touch {tmp_path}/ran")}, protocol)
    with pytest.raises(DataError, match=r"batch: expected a pickle of plain .* loads posix\.system; do not use"):
        load_arrays(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("function", [eval, getattr, pickle.loads, np.load, np.frombuffer, np.float64])
def test_other_functions_are_refused(store, function):
    with pytest.raises(DataError, match=f"loads .*{function.__name__}"):
        load_arrays(store(Malicious(function, "1")))


def test_codecs_other_than_latin1_are_refused(store):
    content = pickle.dumps(b"\xff", protocol=2).replace(b"latin1", b"rot_13")
    with pytest.raises(DataError, match="bytes spelled in 'rot_13' instead of latin1"):
        load_arrays(store(content))


def test_a_truncated_pickle_is_named_at_every_length(store):
    content = pickle.dumps({b"data": ARRAY, b"labels": [1, 2]}, protocol=2)
    for length in range(len(content)):
        with pytest.raises(DataError, match=r"batch: expected a pickle of NumPy arrays, got .*fetch or make"):
            load_arrays(store(content[:length]))


def test_garbled_pickles_raise_nothing_but_data_errors(store):
    content = bytearray(pickle.dumps({b"labels": [1, 2], b"name": b"x"}, protocol=2))
    random = np.random.default_rng(4)
    for _ in range(500):
        garbled = bytearray(content)
        garbled[random.integers(len(content))] = random.integers(256)
        try:
            load_arrays(store(bytes(garbled)))
        except DataError:
            continue


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="none: expected a pickle of NumPy arrays, got FileNotFoundError"):
        load_arrays(tmp_path / "none")
