"""The selection of a data set's rows for a run."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from cntk_pipeline.datasets.base import Dataset, Split
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.inputs import is_whole_number


def select(
    dataset: Dataset, train: int | None = None, test: int | float | None = None, train_blocks: int = 1
) -> Dataset:
    """Keep the first rows of each part.

    Parameters
    ----------
    dataset : Dataset
        Without a test part, the test rows are the rows of the training part after the chosen ones.
    train : int, optional
        Rows to keep, at least 1; all by default.
    test : int or float, optional
        Rows to keep, at least 1, or their share, below 1; all by default. Where there is no test part, `test` alone
        takes the last rows. One of `train` and `test` is needed then.
    train_blocks : int
        Cut the training part into this many equal consecutive blocks and keep the first ``train / train_blocks`` rows
        of each, in order. 5 takes equally many from each of CIFAR-10's five batch files.

    Raises
    ------
    ConfigError
        If fewer than one row or more rows than exist are wanted, blocks are uneven, or no rows are left to test on.
    """
    if train_blocks < 1:
        raise ConfigError(f"{dataset.name}: expected at least 1 for data.train_blocks, got {train_blocks}")
    if dataset.test is None:
        return _select_and_hold_out(dataset, train, test, train_blocks)
    train = row_count(train, len(dataset.train), "train", dataset.name)
    test = row_count(_count(test, len(dataset.test)), len(dataset.test), "test", dataset.name)
    rows = _rows_of_blocks(len(dataset.train), train, train_blocks, dataset.name)
    return replace(dataset, train=_take(dataset.train, rows), test=_take(dataset.test, slice(test)))


def _count(wanted: int | float | None, available: int) -> int | None:
    """Turn a share into a number of rows."""
    return round(wanted * available) if isinstance(wanted, float) else wanted


def _select_and_hold_out(
    dataset: Dataset, train: int | None, wanted_test: int | float | None, train_blocks: int
) -> Dataset:
    """Keep the first `train` rows and test on the rows after them."""
    total = len(dataset.train)
    test = _count(wanted_test, total)
    if train is None:
        if test is None:
            raise ConfigError(
                f"{dataset.name}: has no test part, so its {total} rows must be divided; set data.test = 0.2 to test "
                f"on the last fifth, or data.train below {total}. Rows that are sorted need data.shuffle = 0 too"
            )
        train = total - row_count(test, total - 1, "test", dataset.name)
    if train_blocks != 1:
        raise ConfigError(
            f"{dataset.name}: expected data.train_blocks = 1 for a data set without a test part, got {train_blocks}"
        )
    train = row_count(train, total, "train", dataset.name)
    if train == total:
        raise ConfigError(
            f"{dataset.name}: has no test part, and data.train = {train} of {total} rows leaves none to test on"
        )
    test = row_count(test, total - train, "test", dataset.name)
    held_out = _take(dataset.train, slice(train, train + test))
    return replace(dataset, train=_take(dataset.train, slice(train)), test=held_out)


def shuffle(dataset: Dataset, seed: int) -> Dataset:
    """Bring the rows of each part into a random order, the same for the same seed and number of rows of that part.

    Parameters
    ----------
    dataset : Dataset
    seed : int
        From 0 to 2**32 - 1.

    Raises
    ------
    ConfigError
        If the seed is another one.
    """
    if not is_whole_number(seed) or not 0 <= seed < 2**32:
        raise ConfigError(f"{dataset.name}: expected a seed from 0 to 2**32 - 1, a whole number, got {seed!r}")

    def mixed(part: Split) -> Split:
        # RandomState, since NumPy promises the same numbers in all future versions. A Generator's numbers may change,
        # and with them the run of a specification.
        return _take(part, np.random.RandomState(seed).permutation(len(part)))

    return replace(dataset, train=mixed(dataset.train), test=None if dataset.test is None else mixed(dataset.test))


def draw(total: int, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Draw some of the rows of a part, all different; the same for the same seed and number of rows."""
    return np.random.RandomState(seed).permutation(total)[:count].astype(np.int64)  # RandomState as in `shuffle`


def bring_first(dataset: Dataset, rows: npt.NDArray[np.int64]) -> Dataset:
    """Bring some training rows to the front, in their order; the others follow in the order that they have."""
    others = np.setdiff1d(np.arange(len(dataset.train), dtype=np.int64), rows)
    return replace(dataset, train=_take(dataset.train, np.concatenate([rows, others])))


def row_count(wanted: int | None, available: int, key: str, name: str) -> int:
    """Resolve a number of rows, all by default.

    Parameters
    ----------
    wanted : int or None
        As the user gave it.
    available : int
        Number of existing rows.
    key : str
        Of the section ``data`` in a workflow file; for the message, like `name`, the data set's.

    Raises
    ------
    ConfigError
        If fewer than one row, or more than exist, are wanted, or that is no whole number.
    """
    if wanted is None:
        return available
    if not is_whole_number(wanted) or not 1 <= wanted <= available:
        raise ConfigError(f"{name}: expected data.{key} from 1 to the {available} rows there are, got {wanted}")
    return wanted


def _rows_of_blocks(total: int, wanted: int, block_count: int, name: str) -> slice | npt.NDArray[np.int64]:
    """List the first rows of equal consecutive blocks."""
    if block_count == 1:
        return slice(wanted)
    if total % block_count or wanted % block_count:
        raise ConfigError(
            f"{name}: expected data.train_blocks to divide both the {total} training rows and data.train = {wanted}, "
            f"got {block_count}"
        )
    starts = np.arange(block_count, dtype=np.int64) * (total // block_count)
    return (starts[:, np.newaxis] + np.arange(wanted // block_count)).ravel()


def _take(split: Split, rows: slice | npt.NDArray[np.int64]) -> Split:
    return Split(split.images[rows], None if split.labels is None else split.labels[rows])
