"""The in-memory door: several kernels in one pass, told of, and stopped."""

import logging
import os
import re
import signal
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tolerances import DTYPES

from cntk_pipeline import kernel_diagonal, kernel_matrices, kernel_matrix
from cntk_pipeline.errors import ConfigError, DataError, LayerError, NotAccurate, NotFinite
from cntk_pipeline.kernels import pieces
from cntk_pipeline.kernels.lanes import LANES
from cntk_pipeline.kernels.pieces import BAND, CostSoFar, Cutter
from cntk_pipeline.layers import Conv, Dense, Dropout, Flatten, Relu, Sequential, presets

X = np.random.default_rng(0).standard_normal((37, 6, 5, 2))
MASKED = Sequential(Conv(3), Relu(), Dropout(0.8), Conv(3), Relu(), Flatten(), Dense())


def cut(row_count, col_count, sizes):
    cutter, found = Cutter(row_count, col_count), []
    while (piece := cutter.take(sizes[len(found) % len(sizes)])) is not None:
        found.append(piece)
    assert cutter.pairs_left == 0
    return found


sizes = st.lists(st.floats(0.5, 5000), min_size=1, max_size=5)


@given(st.integers(1, 150), st.integers(1, 150), sizes)
def test_pieces_of_a_rectangle_are_each_of_its_pairs_once(row_count, col_count, sizes):
    covered = np.zeros((row_count, col_count), int)
    for piece in cut(row_count, col_count, sizes):
        covered[slice(*piece.rows), slice(*piece.cols)] += 1
        assert piece.rows[1] - piece.rows[0] <= BAND
    assert np.all(covered == 1)


@given(st.integers(1, 150), sizes)
def test_pieces_of_a_symmetric_kernel_are_the_lower_triangle_once_in_whole_lanes(row_count, sizes):
    covered, lanes = np.zeros((row_count, row_count), int), 0
    for piece in cut(row_count, None, sizes):
        (top, bottom), (first, last) = piece.rows, piece.cols
        block = np.ones((bottom - top, last - first), int)
        assert piece.symmetric == (last == bottom)
        covered[top:bottom, first:last] += np.tril(block, top - first) if piece.symmetric else block
        assert piece.pairs == (np.tril(block, top - first) if piece.symmetric else block).sum()
        lanes += sum(-(-(min(row + 1, last) - first) // LANES) for row in range(top, bottom) if row >= first)
    assert np.array_equal(covered, np.tril(np.ones_like(covered)))
    assert lanes == sum(-(-(row + 1) // LANES) for row in range(row_count))  # as few as one piece would have


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("network", [MASKED, presets.cntk(3, "gap")], ids=["masked", "pooled"])
def test_pieces_of_single_rows_have_the_bits_of_the_whole(network, flips, monkeypatch):
    images = X.copy()
    images[20] = images[3]
    monkeypatch.setattr(pieces, "PIECE_SECONDS", 60.0)
    monkeypatch.setattr(pieces, "SHORTEST_SECONDS", 60.0)
    whole = kernel_matrix(network, images, flips=flips)
    assert np.array_equal(whole, whole.T)
    monkeypatch.setattr(pieces, "PIECE_SECONDS", 1e-12)
    monkeypatch.setattr(pieces, "SHORTEST_SECONDS", 1e-12)
    assert np.array_equal(kernel_matrix(network, images, flips=flips), whole)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("right", [None, X[:9] + 1])
def test_kernels_of_one_pass_have_the_bits_of_each_alone(right, dtype):
    networks = [presets.cntk(2), presets.cntk(4, "gap"), MASKED]
    found = kernel_matrices(networks, X, right, kinds=("nngp", "ntk"), dtype=dtype)
    assert found.shape == (3, 2, 37, 37 if right is None else 9)
    for network, kernels in zip(networks, found, strict=True):
        for kind, kernel in zip(("nngp", "ntk"), kernels, strict=True):
            assert np.array_equal(kernel, kernel_matrix(network, X, right, kind=kind, dtype=dtype))


def test_kernels_beside_one_that_needs_float64_within_are_no_less_exact_though_their_bits_are_others():
    biased = Sequential(Conv(3, w_std=0.01, b_std=1.0, parameterization="standard", fan_in=512), Flatten())
    usual = presets.cntk(4, "gap")
    beside, alone = kernel_matrices([biased, usual], X[:5])[1, 0], kernel_matrix(usual, X[:5])
    exact = kernel_matrix(usual, X[:5], dtype="float64")
    assert not np.array_equal(beside, alone)
    assert np.array_equal(beside, exact.astype(np.float32))
    np.testing.assert_allclose(beside, alone, rtol=0, atol=1e-6 * exact.max())


@pytest.mark.parametrize(
    ("networks", "kinds", "message"),
    [
        (presets.cntk(2), ("ntk",), r"takes a list of networks, got one Sequential: put it in \[\]"),
        ("cntk", ("ntk",), r"a network is a layer of cntk_pipeline\.layers, like .*, got 'c'"),
        ([presets.cntk(2)], "ntk", r'kinds is a list, got \'ntk\': write kinds=\("ntk",\)'),
        ([presets.cntk(2)], ("cntk",), "got kind='cntk'"),
        ([], ("ntk",), "at least one read-out"),
        ([presets.cntk(2)], (), "at least one read-out"),
    ],
)
def test_what_is_no_list_of_kernels_is_refused(networks, kinds, message):
    with pytest.raises(LayerError, match=message):
        kernel_matrices(networks, X, kinds=kinds)


@pytest.mark.parametrize("progress", ["no", [], 0.5, np.zeros(99)])
def test_what_is_no_progress_is_refused(progress):
    with pytest.raises(ConfigError, match=r"progress must be True, False, or a function of two numbers, got "):
        kernel_matrix(presets.fully_connected(1), np.eye(2), progress=progress)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.eye(2) > 0, r"got dtype bool: give x1\.astype\(float\)$"),
        (np.array([[1, None]], object), r"got dtype object, Python objects, such as None at number 1: give x1\.astype"),
        (np.eye(2).astype(str), r"got dtype <U32: give x1\.astype\(float\) where texts are numbers"),
        (np.eye(2) + 1j, r"got dtype complex128: give x1\.real, or"),
        (np.eye(2).astype("M8[s]"), r"got dtype datetime64\[s\]: give numbers, such as days"),
    ],
)
def test_what_is_no_number_is_refused_with_the_remedy(values, told):
    with pytest.raises(DataError, match=f"^x1 must hold real numbers, {told}"):
        kernel_matrix(presets.fully_connected(1), values)


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((5,), r"one sample is x1\[None\]"),
        ((5, 4, 4), r"grey images are x1\[\.\.\., None\], sequences \(n, T, C\) are .*, x1\[:, None\]"),
        ((2, 5, 4, 4, 1), "leave out axes, or join them"),
    ],
)
def test_arrays_of_other_axes_are_refused_with_the_remedy(shape, told):
    with pytest.raises(DataError, match=rf"^x1 must be of shape .*, got {re.escape(str(shape))}: {told}"):
        kernel_matrix(presets.cntk(2), np.zeros(shape))


def test_an_array_in_the_place_of_a_network_is_not_written_out():
    with pytest.raises(LayerError, match=r"got <ndarray of shape \(90, 90\)>$"):
        kernel_matrix(np.zeros((90, 90)), presets.cntk(2))
    with pytest.raises(LayerError, match=r", which is a function: call it, cntk\(\.\.\.\)$"):
        kernel_matrix(presets.cntk, X)


@pytest.mark.parametrize(
    ("network", "got"),
    [(None, "got None$"), ("cntk", "got 'cntk'$"), ([presets.cntk(2)], "kernel_matrices takes a list of several$")],
)
@pytest.mark.parametrize("kernel", [kernel_matrix, kernel_diagonal])
def test_what_is_no_network_is_refused(kernel, network, got):
    with pytest.raises(LayerError, match=rf"a network is a layer of cntk_pipeline\.layers, .* {got}"):
        kernel(network, X)


@pytest.mark.parametrize(("right", "total"), [(None, 37 * 38 // 2), (X[:9], 37 * 9)])
def test_progress_counts_pairs_from_none_to_all(right, total, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_SECONDS", 1e-6)
    monkeypatch.setattr(pieces, "SHORTEST_SECONDS", 1e-6)
    told, callers = [], set()

    def tell(done, in_all):
        told.append((done, in_all))
        callers.add(threading.current_thread())

    kernel_matrix(presets.cntk(3), X, right, progress=tell)
    assert (told[0], told[-1]) == ((0, total), (total, total))
    assert told == sorted(told)
    assert len(told) > 5
    assert callers == {threading.current_thread()}


def test_a_bar_is_shown_on_stderr_where_it_is_asked_for(capfd):
    kernel_matrix(presets.cntk(2), X)
    assert capfd.readouterr() == ("", "")
    kernel_matrix(presets.cntk(2), X, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "703/703 pairs" in err


def computing():
    return [thread for thread in threading.enumerate() if thread.name.startswith("kernel-")]


def test_what_a_callback_raises_stops_the_threads():
    def refuse(done, total):
        if done:
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        kernel_matrix(presets.cntk(11, "gap"), np.ones((64, 24, 24, 1)), progress=refuse)
    assert not computing()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="sends a signal of POSIX")
def test_ctrl_c_stops_a_large_kernel_within_a_second_and_leaves_no_thread():
    # One band of 64 rows that would take half a minute, as one call into compiled code.
    images = np.random.default_rng(1).standard_normal((64, 32, 32, 3))
    kernel_matrix(presets.cntk(11, "gap"), images[:1])  # compiles
    timers, sent = [], []

    def send():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    def interrupt(done, total):
        if done and not timers:
            assert done < total / 4
            timers.append(threading.Timer(0.05, send))
            timers[0].start()

    with pytest.raises(KeyboardInterrupt):
        kernel_matrix(presets.cntk(11, "gap"), images, progress=interrupt)
    assert time.monotonic() - sent[0] < 1
    assert not computing()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="sends a signal of POSIX")
def test_ctrl_c_stops_sixteen_pairs_that_are_computed_at_once():
    # One call into compiled code, of some seconds: no piece is smaller.
    images = np.random.default_rng(1).standard_normal((2, 112, 112, 1))
    sent = []

    def send():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.5, send)
    with pytest.raises(KeyboardInterrupt):
        kernel_matrix(presets.cntk(11, "gap"), images, progress=lambda done, total: None if done else timer.start())
    assert time.monotonic() - sent[0] < 1
    assert not computing()


def test_an_error_in_a_thread_reaches_the_caller():
    with pytest.raises(ArithmeticError, match="image 0 has a variance above"):
        kernel_matrix(presets.cntk(2), np.full((20, 4, 4, 2), 1e20))
    assert not computing()


@pytest.mark.parametrize("other", [False, True])
def test_an_error_names_images_by_their_places_in_what_was_given(other, monkeypatch):
    monkeypatch.setattr(pieces, "_height", lambda pairs: 8)
    x = np.random.default_rng(0).standard_normal((60, 4, 4, 2))
    x[43] *= 1e20
    with pytest.raises(NotFinite, match=r"^image 43 has a variance above"):
        kernel_matrix(presets.cntk(2), x, x.copy() if other else None)
    x[43] *= 1e-45
    with pytest.raises(NotAccurate, match=r"^image 43 holds no number"):
        kernel_matrix(presets.cntk(2), x, x[:1] if other else None)


class Heard(logging.Handler):
    """Stops what says something, as a user would who does not want to wait."""

    def emit(self, record):
        raise InterruptedError(record.getMessage())


def test_a_kernel_that_takes_long_is_announced_before_it_does():
    logger, handler = logging.getLogger("cntk_pipeline.kernels.matrix"), Heard()
    logger.addHandler(handler)
    message = "20,100 of 20,100 pairs left, about .*progress=True shows a bar"
    try:  # a tenth of a second a pair: the first 16 would take longer than it takes to say so
        with pytest.raises(InterruptedError, match=message):
            kernel_matrix(presets.cntk(11, "gap"), np.ones((200, 64, 64, 1), np.float32))
    finally:
        logger.removeHandler(handler)


def test_a_kernel_of_many_quick_pairs_is_announced_as_well(monkeypatch, caplog):
    monkeypatch.setattr("cntk_pipeline.kernels.matrix.ESTIMATE_ABOVE_SECONDS", 1e-9)
    monkeypatch.setattr(pieces, "SHORTEST_SECONDS", 1e-6)
    monkeypatch.setattr(pieces, "PIECE_SECONDS", 1e-6)
    kernel_matrix(presets.cntk(3), X)
    (message,) = caplog.messages
    assert "of 703 pairs left" in message


def test_a_quick_kernel_is_not_announced(caplog):
    kernel_matrix(presets.cntk(3), X)
    assert not caplog.messages


def test_a_cost_is_known_from_the_least_of_some_pieces():
    # The first pieces wait for the compiler: nothing is foretold from them.
    cost = CostSoFar(1.0, is_known=False)
    assert cost.seconds_left(10) is None
    for seconds in (90.0, *[2.0] * (pieces.PIECES_TO_KNOW - 1)):
        assert cost.seconds_left(10) is None
        cost.learn(10, seconds)
    assert cost.seconds_left(10) == 2
    assert CostSoFar(1.0, is_known=True).seconds_left(10) == 10


@pytest.mark.parametrize("flips", ["False", 2, None, 1.0])
def test_flips_are_true_or_false(flips):
    with pytest.raises(LayerError, match=f"flips must be True or False, got {flips!r}"):
        kernel_matrix(presets.cntk(3), np.ones((2, 4, 4, 1)), flips=flips)


def test_flips_of_vectors_are_refused():
    for kernel in (kernel_matrix, kernel_diagonal):
        with pytest.raises(LayerError, match=r"flips average over images flipped .* these inputs are vectors: leave"):
            kernel(presets.fully_connected(2), np.eye(3), flips=True)
    assert kernel_matrix(presets.cntk(3), np.ones((2, 4, 4, 1)), flips=np.bool_(True)).shape == (2, 2)
