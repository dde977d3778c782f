"""What keeps kernel values between fits: pairs of samples, each known by a digest of its values."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from cntk_pipeline.kernels.program import Array


@dataclass(frozen=True, eq=False)
class Found:
    """Kept values of all pairs of some samples.

    Attributes
    ----------
    values : array, (n, n)
        Zero where a value is not known.
    is_known : bool array, (n, n)
    """

    values: Array
    is_known: npt.NDArray[np.bool_]

    @classmethod
    def nothing(cls, count: int, dtype: str) -> "Found":
        """Return no value of so many samples."""
        return cls(np.zeros((count, count), dtype), np.zeros((count, count), bool))

    def put(self, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp], values: Array) -> None:
        """Enter a rectangle and its mirror image."""
        self.values[np.ix_(rows, columns)] = values
        self.is_known[np.ix_(rows, columns)] = True
        if not np.array_equal(rows, columns):
            self.values[np.ix_(columns, rows)] = values.T
            self.is_known[np.ix_(columns, rows)] = True


class Kept(ABC):
    """Kept kernel values of one network, of both kinds."""

    @abstractmethod
    def load(self, kind: str, samples: Sequence[bytes]) -> Found:
        """Find the kept values of the samples, each by its digest.

        Raises
        ------
        PipelineError
            If a kept value cannot be read.
        """

    def keep(self, rows: Sequence[bytes], columns: Sequence[bytes], values: Mapping[str, Array]) -> None:  # noqa: B027
        """Keep a rectangle of values, by kind; what is only read keeps nothing."""

    def held(self) -> AbstractContextManager[object]:
        """Wait until no other process computes for the same place, and keep them out."""
        return contextlib.nullcontext()


def digests(x: Array, dtype: str) -> list[bytes]:
    """Return 16 bytes for each sample; samples with equal values in ``dtype`` have equal ones."""
    rows = np.ascontiguousarray(x, dtype=dtype).reshape(len(x), -1) + np.dtype(dtype).type(0)  # -0 becomes 0
    return [xxhash.xxh3_128_digest(row) for row in rows]
