"""Poolings of planes and weights of pairs against dense matrices, ``P C P^T``, by brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cntk_pipeline.kernels.pooling import axis_offsets, pair_weights, pool_terms
from cntk_pipeline.layers import Windows

LAW = settings(max_examples=300, deadline=None, derandomize=True)


def planes(matrix, circular):
    """Cut a matrix into the planes of its offsets: entry p of plane d is that of p and p + d."""
    size = len(matrix)
    if circular:
        return [matrix[np.arange(size), (np.arange(size) + d) % size] for d in axis_offsets(size, True)]
    return [np.diagonal(matrix, d) for d in axis_offsets(size, False)]


def brute_windows(windows, normalize_edges):
    """Write windows as a matrix, position by position."""
    matrix = np.zeros((windows.count, windows.size))
    for q in range(windows.count):
        inside = [
            p
            for p in range(q * windows.stride - windows.before, q * windows.stride - windows.before + windows.window)
            if 0 <= p < windows.size
        ]
        matrix[q, inside] = 1 / len(inside) if normalize_edges else 1
    return matrix


def pool_by_terms(matrix, windows, normalize_edges, circular, pooled_circular):
    """Add planes up as the interpreter does."""
    found = pool_terms(windows, normalize_edges, circular, pooled_circular)
    pooled = [np.zeros(len(plane)) for plane in planes(np.zeros((windows.count,) * 2), pooled_circular)]
    for offset, plane in enumerate(planes(matrix, circular)):
        for k in range(found.bounds[offset], found.bounds[offset + 1]):
            index, place, first, last = found.terms[k]
            assert 0 <= first < last <= len(plane)
            assert 0 <= index < len(pooled)
            pooled[index][place] += found.weights[k] * plane[first:last].sum()
    return pooled, found


@st.composite
def poolings(draw, size=None):
    size = draw(st.integers(1, 7)) if size is None else size
    padding = draw(st.sampled_from(["SAME", "VALID"]))
    window = draw(st.integers(1, size if padding == "VALID" else size + 3))
    return Windows.place(size, window, draw(st.integers(1, 4)), padding)


@LAW
@given(windows=poolings(), normalize_edges=st.booleans(), circular=st.booleans(), pooled_circular=st.booleans())
def test_pooled_planes_are_those_of_the_pooled_matrix(windows, normalize_edges, circular, pooled_circular):
    matrix = np.random.default_rng(0).standard_normal((windows.size,) * 2)
    pool = brute_windows(windows, normalize_edges)
    pooled, found = pool_by_terms(matrix, windows, normalize_edges, circular, pooled_circular)
    expected = planes(pool @ matrix @ pool.T, pooled_circular)
    assert found.pooled_count == len(expected)
    for actual, plane in zip(pooled, expected, strict=True):
        np.testing.assert_allclose(actual, plane, rtol=0, atol=1e-12)


@LAW
@given(windows=poolings(), normalize_edges=st.booleans(), circular=st.booleans(), pooled_circular=st.booleans())
def test_couples_are_the_pairs_of_offsets_that_share_a_term(windows, normalize_edges, circular, pooled_circular):
    couples = pool_terms(windows, normalize_edges, circular, pooled_circular).couples
    pool = brute_windows(windows, normalize_edges)
    for offset in range(len(couples)):
        # The pooled offsets that change when one plane does.
        only = np.zeros((windows.size,) * 2)
        p = np.arange(windows.size)
        moved = (p + axis_offsets(windows.size, circular)[offset]) if not circular else (p + offset) % windows.size
        inside = (moved >= 0) & (moved < windows.size)
        only[p[inside], moved[inside]] = 1
        changed = [np.any(plane != 0) for plane in planes(pool @ only @ pool.T, pooled_circular)]
        np.testing.assert_array_equal(couples[offset], changed)


@st.composite
def chains(draw):
    """Draw poolings one after the other, of an axis; the size behind them too."""
    size = first = draw(st.integers(1, 7))
    chain = []
    for _ in range(draw(st.integers(0, 3))):
        windows = draw(poolings(size))
        chain.append((windows, draw(st.booleans())))
        size = windows.count
    return first, chain, size


@LAW
@given(drawn=chains(), circular=st.booleans(), traced=st.booleans())
def test_weights_of_pairs_are_those_of_poolings_one_after_the_other(drawn, circular, traced):
    size, chain, end = drawn
    if not traced:
        chain = [*chain, (Windows.whole(end), False)]
    matrix = np.random.default_rng(1).standard_normal((size, size))
    weights = pair_weights(chain, size, traced, circular)
    pooled = matrix
    for windows, normalize_edges in chain:
        pool = brute_windows(windows, normalize_edges)
        pooled = pool @ pooled @ pool.T
    assert weights.shape == (len(axis_offsets(size, circular)), size)
    total = sum(row[: len(plane)] @ plane for row, plane in zip(weights, planes(matrix, circular), strict=True))
    assert total == pytest.approx(np.trace(pooled), abs=1e-11)
    for row, plane in zip(weights, planes(matrix, circular), strict=True):
        assert not row[len(plane) :].any()


def test_flattening_weighs_offset_zero_alone_and_a_global_sum_weighs_all_pairs_alike():
    np.testing.assert_array_equal(pair_weights([], 3, True, False), [[0] * 3, [0] * 3, [1] * 3, [0] * 3, [0] * 3])
    whole = [(Windows.whole(3), False)]
    expected = [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0], [1, 0, 0]]
    np.testing.assert_array_equal(pair_weights(whole, 3, False, False), expected)
    np.testing.assert_array_equal(pair_weights(whole, 3, False, True), np.ones((3, 3)))


def test_edges_are_weighed_by_hand():
    # Two windows of 3 on 4 positions, stride 2, one outside at the end: sums over {0, 1, 2} and {2, 3}.
    windows = Windows.place(4, 3, 2, "SAME")
    assert [windows.bounds(q) for q in range(windows.count)] == [(0, 3), (2, 4)]
    plain, divided = (pair_weights([(windows, edges)], 4, True, False)[3] for edges in (False, True))
    np.testing.assert_array_equal(plain, [1, 1, 2, 1])
    np.testing.assert_allclose(divided, [1 / 9, 1 / 9, 1 / 9 + 1 / 4, 1 / 4])


def test_offsets_of_a_circle_are_those_of_one_turn():
    assert list(axis_offsets(3, False)) == [-2, -1, 0, 1, 2]
    assert list(axis_offsets(3, True)) == [0, 1, 2]
