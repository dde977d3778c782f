import numpy as np
import pytest

from cntk_pipeline.datasets import Dataset, as_split, select, shuffle
from cntk_pipeline.errors import ConfigError


def numbered(count, first=0):
    """Make images whose one pixel is their own number."""
    numbers = np.arange(first, first + count)
    return as_split(numbers.reshape(-1, 1, 1, 1).astype(np.float32), numbers % 10)


WITH_TEST = Dataset("toy", tuple("0123456789"), numbered(20), numbered(6, first=100))
WITHOUT_TEST = Dataset("toy", tuple("0123456789"), numbered(20))


def rows(split):
    np.testing.assert_array_equal(split.images.ravel() % 10, split.labels)
    return split.images.ravel().astype(int).tolist()


def test_all_rows_are_taken_by_default():
    chosen = select(WITH_TEST)
    assert (len(chosen.train), len(chosen.test)) == (20, 6)


def test_the_first_rows_are_taken():
    chosen = select(WITH_TEST, train=3, test=2)
    assert rows(chosen.train) == [0, 1, 2]
    assert rows(chosen.test) == [100, 101]


def test_the_first_rows_of_each_block_are_taken():
    assert rows(select(WITH_TEST, train=8, train_blocks=4).train) == [0, 1, 5, 6, 10, 11, 15, 16]


def test_all_rows_of_all_blocks_are_all_rows():
    assert rows(select(WITH_TEST, train_blocks=5).train) == list(range(20))


@pytest.mark.parametrize(("train", "blocks"), [(9, 3), (None, 3), (7, 4)])
def test_blocks_must_come_out_even(train, blocks):
    with pytest.raises(
        ConfigError, match=rf"toy: expected data.train_blocks to divide both the 20 .* data.train = .*, got {blocks}"
    ):
        select(WITH_TEST, train=train, train_blocks=blocks)


@pytest.mark.parametrize("data", [WITH_TEST, WITHOUT_TEST])
def test_there_is_at_least_one_block(data):
    with pytest.raises(ConfigError, match=r"toy: expected at least 1 for data.train_blocks, got 0"):
        select(data, train=3, train_blocks=0)


@pytest.mark.parametrize("train", [0, -1, 21, True, 2.5])
def test_training_rows_that_are_not_there_are_refused(train):
    with pytest.raises(ConfigError, match=f"toy: expected data.train from 1 to the 20 rows there are, got {train}"):
        select(WITH_TEST, train=train)


@pytest.mark.parametrize("test", [0, 7])
def test_test_rows_that_are_not_there_are_refused(test):
    with pytest.raises(ConfigError, match=f"toy: expected data.test from 1 to the 6 rows there are, got {test}"):
        select(WITH_TEST, test=test)


def test_without_a_test_part_the_next_rows_are_tested_on():
    chosen = select(WITHOUT_TEST, train=15, test=3)
    assert rows(chosen.train) == list(range(15))
    assert rows(chosen.test) == [15, 16, 17]


def test_without_a_test_part_all_other_rows_are_tested_on_by_default():
    assert rows(select(WITHOUT_TEST, train=15).test) == [15, 16, 17, 18, 19]


def test_without_a_test_part_the_division_must_be_given():
    with pytest.raises(
        ConfigError,
        match=r"toy: has no test part, so its 20 rows must be divided; set data.test = 0.2 .*",
    ):
        select(WITHOUT_TEST)


def test_without_a_test_part_rows_must_be_left():
    with pytest.raises(ConfigError, match=r"data.train = 20 of 20 rows leaves none to test on"):
        select(WITHOUT_TEST, train=20)


@pytest.mark.parametrize(("train", "test", "available"), [(15, 6, 5), (15, 0, 5), (21, 1, 20)])
def test_without_a_test_part_both_numbers_are_checked(train, test, available):
    with pytest.raises(ConfigError, match=f"from 1 to the {available} rows there are"):
        select(WITHOUT_TEST, train=train, test=test)


def test_without_a_test_part_there_is_one_block():
    with pytest.raises(ConfigError, match=r"toy: expected data.train_blocks = 1 .* without a test part, got 5"):
        select(WITHOUT_TEST, train=15, train_blocks=5)


def test_shuffling_keeps_every_row_with_its_label_in_the_order_that_a_seed_stands_for():
    mixed = shuffle(WITH_TEST, 0)
    assert sorted(rows(mixed.train)) == list(range(20))
    assert sorted(rows(mixed.test)) == list(range(100, 106))
    # Those of numpy.random.RandomState(0), which NumPy keeps for ever (NEP 19).
    assert rows(mixed.train) == [18, 1, 19, 8, 10, 17, 6, 13, 4, 2, 5, 14, 9, 7, 16, 11, 3, 0, 15, 12]
    assert rows(mixed.test) == [105, 102, 101, 103, 100, 104]


def test_other_seeds_are_other_orders():
    assert rows(shuffle(WITH_TEST, 1).train) != rows(shuffle(WITH_TEST, 2).train)


def test_more_rows_of_a_shuffled_data_set_begin_with_the_same_rows():
    few, more = (select(shuffle(WITH_TEST, 5), train=train, test=3) for train in (7, 12))
    assert rows(more.train)[:7] == rows(few.train)
    assert rows(more.test) == rows(few.test)


def test_without_a_test_part_a_number_of_test_rows_are_the_last_ones():
    chosen = select(WITHOUT_TEST, test=6)
    assert chosen.train.images.ravel().tolist() == list(range(14))
    assert chosen.test.images.ravel().tolist() == list(range(14, 20))


@pytest.mark.parametrize(("share", "count"), [(0.25, 5), (0.2, 4)])
def test_a_share_of_the_rows_is_tested_on(share, count):
    assert len(select(WITHOUT_TEST, test=share).test) == count
    assert len(select(WITH_TEST, test=share * 2).test) == round(share * 12)


@pytest.mark.parametrize(("share", "count"), [(0.99, 20), (0.001, 0)])
def test_a_share_leaves_rows_for_both_parts(share, count):
    with pytest.raises(ConfigError, match=f"expected data.test from 1 to the 19 rows there are, got {count}"):
        select(WITHOUT_TEST, test=share)


@pytest.mark.parametrize("seed", [None, True, 1.0, -1, 2**32, [1, 2]])
def test_the_seed_of_an_order_is_a_whole_number(seed):
    with pytest.raises(ConfigError, match=r"expected a seed from 0 to 2\*\*32 - 1, a whole number, got"):
        shuffle(WITH_TEST, seed)
