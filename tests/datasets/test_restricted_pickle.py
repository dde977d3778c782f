import contextlib
import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from cntk_pipeline.datasets.restricted_pickle import load_dictionary
from cntk_pipeline.errors import DataError

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
    loaded = load_dictionary(store({b"data": ARRAY, b"labels": [1, 2]}, protocol))
    np.testing.assert_array_equal(loaded[b"data"], ARRAY)
    assert loaded[b"labels"] == [1, 2]


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_arrays_of_both_major_versions_of_numpy_come_back(store, module):
    current = np.empty(0).__reduce__()[0].__module__.encode()
    content = pickle.dumps({b"data": ARRAY}, protocol=2).replace(b"c" + current, b"c" + module)
    np.testing.assert_array_equal(load_dictionary(store(content))[b"data"], ARRAY)


def test_a_pickle_of_python_2_comes_back_with_bytes_as_keys(store):
    np.testing.assert_array_equal(load_dictionary(store(python_2_pickle(ARRAY)))[b"data"], ARRAY)


@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_by_columns_come_back(store, protocol):
    loaded = load_dictionary(store({b"data": np.asfortranarray(ARRAY)}, protocol))
    np.testing.assert_array_equal(loaded[b"data"], ARRAY)


@pytest.mark.parametrize(("dtype", "code"), [(np.float32, "f4"), (np.int8, "i1"), (object, "O8")])
def test_arrays_of_another_type_are_refused(store, dtype, code):
    with pytest.raises(DataError, match=f"batch: expected arrays of uint8, got one of type '{code}'; fetch"):
        load_dictionary(store({b"data": ARRAY.astype(dtype)}))


def test_something_else_than_a_dictionary_is_refused(store):
    with pytest.raises(DataError, match="batch: expected a pickled dictionary, got list; fetch"):
        load_dictionary(store([b"data", b"labels"]))


def test_an_array_shorter_than_its_shape_says_is_refused(store):
    content = pickle.dumps({b"data": ARRAY}, protocol=2).replace(b"K\x02K\x03\x86", b"K\x02K\x63\x86")
    with pytest.raises(DataError, match=r"cannot reshape array of size 6 into shape \(2,99\)"):
        load_dictionary(store(content))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"A", "ValueError"),
        (b"I1x\n.", "ValueError"),
        (b"]K\x05K\x01s.", "IndexError"),
        (b"K\x01K\x01K\x01s.", "TypeError"),
        (b"cnumpy\ndtype\nK\x01a.", "AttributeError"),
        (b"}", "ValueError"),
        (b"\x8d" + b"\xff" * 8, "ValueError"),
        (b"\x8e" + b"\xff" * 7 + b"\x3f", "ValueError"),
    ],
)
def test_each_way_to_be_broken_is_a_data_error(store, content, error):
    with pytest.raises(DataError, match=f"batch: expected a pickle of NumPy arrays, got {error}"):
        load_dictionary(store(content))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_runs_a_command_is_refused_and_named(store, tmp_path, protocol):
    path = store({b"data": Malicious(os.system, f"touch {tmp_path}/ran")}, protocol)
    with pytest.raises(DataError, match=r"batch: expected a pickle of plain .* loads posix\.system; do not use"):
        load_dictionary(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("function", [eval, getattr, pickle.loads, np.load, np.frombuffer, np.float64])
def test_other_functions_are_refused(store, function):
    with pytest.raises(DataError, match=f"loads .*{function.__name__}"):
        load_dictionary(store(Malicious(function, "1")))


def test_codecs_other_than_latin1_are_refused(store):
    content = pickle.dumps(b"\xff", protocol=2).replace(b"latin1", b"rot_13")
    with pytest.raises(DataError, match="bytes spelled in 'rot_13' instead of latin1"):
        load_dictionary(store(content))


def test_a_truncated_pickle_is_named_at_every_length(store):
    content = pickle.dumps({b"data": ARRAY, b"labels": [1, 2]}, protocol=2)
    for length in range(len(content)):
        with pytest.raises(DataError, match=r"batch: expected a pickle of NumPy arrays, got .*fetch or make"):
            load_dictionary(store(content[:length]))


def test_garbled_arrays_raise_nothing_but_data_errors(store):
    # NumPy's own constructors, in place of the stand-ins, end the process here.
    content = pickle.dumps({b"data": ARRAY}, protocol=2)
    random = np.random.default_rng(4)
    for _ in range(2000):
        garbled = bytearray(content)
        garbled[random.integers(len(content))] = random.integers(256)
        with contextlib.suppress(DataError):
            load_dictionary(store(bytes(garbled)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="none: expected a pickle of NumPy arrays, got FileNotFoundError"):
        load_dictionary(tmp_path / "none")


def nested(depth):
    key = ()
    for _ in range(depth):
        key = (key,)
    return {key: 1}


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(nested(100), protocol=2),
        b"\x80\x02" + b")" + b"\x85" * 100_000 + b".",
        b"\x80\x02}r" + (2**29).to_bytes(4, "little") + b".",
        b"\x80\x02}p536870912\n.",
        b"\x80\x02]" + b"c_codecs\nencode\nX\x10\x00\x00\x00" + b"a" * 16 + b"\x86R" * 70 + b".",
        b"\x80\x04\x8e" + (6 * 10**9).to_bytes(8, "little") + b".",
        b"\x80\x04\x95" + (6 * 10**9).to_bytes(8, "little") + b"N.",
    ],
    ids=["deep key", "deep tuple", "far memo", "far memo in text", "many calls", "bytes to come", "a frame to come"],
)
def test_a_pickle_takes_no_more_memory_than_a_few_times_its_size(store, content):
    path = store(content)
    tracemalloc.start()
    with pytest.raises(DataError, match="batch: expected a pickle"):
        load_dictionary(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**20 + 10 * len(content)


def test_the_published_batches_have_far_fewer_parts_than_are_allowed(store, monkeypatch):
    monkeypatch.setattr("cntk_pipeline.datasets.restricted_pickle._MOST_PARTS", 20)
    content = python_2_pickle(ARRAY)[:-1] + b"T\x06\x00\x00\x00labels](" + b"K\x01" * 10_000 + b"es."
    assert len(load_dictionary(store(content))[b"labels"]) == 10_000
