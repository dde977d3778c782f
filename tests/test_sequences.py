"""Arrays of sequences of unequal lengths: what goes in comes out, and bad ones are refused by their numbers."""

import numpy as np
import pytest

from cntk_pipeline.errors import DataError
from cntk_pipeline.sequences import fill_steps, has_absent_steps, lengths, pad

GIVEN = [np.arange(6.0).reshape(3, 2), np.ones((1, 2)), 7 + np.zeros((2, 2))]


def test_sequences_are_padded_behind_their_ends_and_counted():
    padded = pad(GIVEN)
    assert padded.shape == (3, 3, 2)
    assert padded.dtype == np.float32
    for row, each in zip(padded, GIVEN, strict=True):
        np.testing.assert_array_equal(row[: len(each)], each)
        assert np.isnan(row[len(each) :]).all()
    assert lengths(padded).tolist() == lengths(pad(GIVEN, 8)).tolist() == [3, 1, 2]
    assert lengths(padded[..., 0]).tolist() == [3, 1, 2]
    assert pad([[0.1], [1.0]]).dtype == np.float64  # what float32 does not hold


def test_one_absent_step_makes_an_array_one_of_unequal_lengths():
    images = pad(GIVEN)[:, None]
    assert has_absent_steps(images)
    assert not has_absent_steps(images[:1])
    assert not has_absent_steps(images.transpose(0, 2, 1, 3))  # of three rows
    assert fill_steps(images, 3) is images
    assert lengths(fill_steps(np.ones((2, 1, 2, 1), np.uint8), 4)[:, 0]).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "expected at least one, got none"),
        ([[1.0], []], "sequence 1 has no steps: leave it out"),
        ([GIVEN[0], np.ones(3)], "sequence 1: expected 2 channels, as of sequence 0, got 1"),
        ([[1.0, np.nan]], "sequence 0: expected finite numbers, got others at step 1"),
        ([["a"]], r"sequence 0: expected numbers of shape \(T, C\) or \(T,\), got <U1"),
        ([np.ones((1, 2, 3))], r"sequence 0: expected numbers of shape \(T, C\) or \(T,\), got float64 of shape"),
    ],
)
def test_sequences_that_fit_no_array_are_refused_by_their_numbers(given, said):
    with pytest.raises(DataError, match=said):
        pad(given)


def test_too_few_steps_and_other_arrays_are_refused():
    with pytest.raises(DataError, match="the longest one has 3 steps, got steps=2"):
        pad(GIVEN, 2)
    with pytest.raises(
        DataError, match=r"expected numbers of shape \(n, T, C\) or \(n, T\), got float64 of shape \(3,\)"
    ):
        lengths(np.ones(3))
    hole = pad(GIVEN)
    hole[0, 1] = np.nan
    with pytest.raises(DataError, match="sequences: sequence 0: step 1 is absent, and a later one is there"):
        lengths(hole)


@pytest.mark.parametrize("given", [([1.0] for _ in range(2)), "abc", {0: [1.0]}, 3])
def test_what_is_no_list_of_sequences_is_refused(given):
    with pytest.raises(DataError, match=r"expected a list of arrays \(T, C\), got .*: of a generator give list"):
        pad(given)


def test_steps_that_are_no_whole_number_are_refused():
    with pytest.raises(DataError, match=r"sequences: steps must be a whole number, got 3\.5"):
        pad([[1.0, 2.0, 3.0]], steps=3.5)
