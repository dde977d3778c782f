"""Where an estimator's kernel comes from: a network, a memory, or matrices that the user gives."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_array, validate_data

from cntk_pipeline.estimators.memory import remembered_matrix
from cntk_pipeline.estimators.question import KernelQuestion, image_shape_of, memory_of, require_options
from cntk_pipeline.graphs import is_graph
from cntk_pipeline.kernels.program import Array
from cntk_pipeline.layers.absent import takes_padding
from cntk_pipeline.layers.reading import fill_up, takes_unequal_steps

PRECOMPUTED = "precomputed"
"""In the place of a network: X is a kernel matrix."""

BLOCK_ROWS = 4096
"""New samples whose kernel is in memory at once."""


@dataclass(frozen=True)
class KernelSource:
    """Kernel matrices for an estimator.

    Attributes
    ----------
    question : KernelQuestion or None
        The kernel; None where X is a kernel matrix.
    memory : str or Path, optional
        A folder or a run directory with kept values, or None.
    """

    question: KernelQuestion | None
    memory: str | Path | None = None

    @classmethod
    def of(cls, estimator: Any) -> "KernelSource":
        """Read an estimator's parameters.

        Raises
        ------
        TypeError, ValueError
            If one of them is invalid.
        """
        memory, shape = memory_of(estimator.memory), image_shape_of(estimator.image_shape)
        if is_precomputed(estimator.network):
            require_options(estimator)
            for name, value in (("memory", memory), ("image_shape", shape), ("flips", estimator.flips or None)):
                if value is not None:
                    raise ValueError(
                        f"{name}={value!r} is about the kernel of a network, and with network={PRECOMPUTED!r} its "
                        "values are there: leave one out"
                    )
            return cls(None)
        question = KernelQuestion(
            estimator.network, estimator.kind, estimator.dtype, estimator.flips, shape, estimator.n_jobs
        )
        return cls(question, memory)

    @classmethod
    def of_fit(cls, estimator: Any) -> "KernelSource":
        """Return the source of an estimator's last fit, with the ``n_jobs`` and the ``memory`` that it has now.

        A kernel that was set after the fit is one of the next fit: its values do not go with these coefficients.

        Raises
        ------
        TypeError, ValueError
            If one of the two is invalid.
        """
        fitted = vars(estimator).get("_source")
        if fitted is None:  # an earlier version has pickled it
            return cls.of(estimator)
        if fitted.question is None:
            return cls(None)
        return cls(replace(fitted.question, n_jobs=estimator.n_jobs), memory_of(estimator.memory))

    @property
    def needed_numbers(self) -> bool | str:
        """Which numbers samples may hold, as scikit-learn's checks name it: finite ones, or NaN at absent steps too."""
        return "allow-nan" if self.question is not None and takes_padding(self.question.network) else True

    @property
    def takes_unequal_steps(self) -> bool:
        """Whether samples are sequences of unequal lengths."""
        return self.question is not None and takes_unequal_steps([self.question.network])

    def samples(self, x: Array, name: str = "X") -> Array:
        """Make a network's inputs of features; a kernel matrix stays.

        Raises
        ------
        ValueError
            If they do not fit, with ``name``.
        """
        return x if self.question is None else self.question.inputs(x, name)

    def train(self, samples: Array) -> Array:
        """Return the kernel of training samples, ``(n, n)``."""
        if self.question is not None:
            return self._matrix(self.question, samples, None)
        if samples.shape[0] != samples.shape[1]:
            raise ValueError(
                f"network={PRECOMPUTED!r} asks for a square kernel matrix of the training samples in place of X, got "
                f"shape {samples.shape}"
            )
        return samples

    def cross(self, samples: Array, fitted: Array) -> Array:
        """Return the kernel of samples (rows) and the samples of the fit, ``(n, n_fit)``."""
        return samples if self.question is None else self._matrix(self.question, samples, fitted)

    def cross_blocks(self, samples: Array, fitted: Array) -> Iterator[tuple[slice, Array]]:
        """Yield the kernel of some samples after the other and the samples of the fit, in float64, with their rows."""
        for start in range(0, len(samples), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            yield rows, self.cross(samples[rows], fitted).astype(np.float64, copy=False)

    def covariance(self, samples: Array) -> Array:
        """Return the kernel of new samples with each other, ``(n, n)``."""
        return self._matrix(self._network(), samples, None)

    def variances(self, samples: Array) -> Array:
        """Return the kernel of new samples with themselves, ``(n,)``."""
        return self._network().diagonal(samples)

    def _matrix(self, question: KernelQuestion, x1: Array, x2: Array | None) -> Array:
        if x2 is not None:
            x1, x2 = fill_up([question.network], x1, x2)
        return question.matrix(x1, x2) if self.memory is None else remembered_matrix(self.memory, question, x1, x2)

    def _network(self) -> KernelQuestion:
        if self.question is None:
            raise ValueError(
                f"a standard deviation needs the kernel of new samples with themselves, which network={PRECOMPUTED!r} "
                "does not know: give the network"
            )
        return self.question


def is_precomputed(network: Any) -> bool:
    """Tell whether a kernel matrix takes the place of features."""
    return isinstance(network, str) and network == PRECOMPUTED


def read_samples(estimator: Any, source: KernelSource, x: npt.ArrayLike) -> Array:
    """Check new samples of a fitted estimator, and make a network's inputs of them.

    Graphs may be packed in other rows than those of the fit, and sequences of unequal lengths padded to other steps.

    Raises
    ------
    ValueError
        If they differ in shape from the samples of the fit otherwise.
    """
    numbers = source.needed_numbers
    shape = estimator.X_fit_.shape[1:]
    ndim = (x if hasattr(x, "ndim") else np.asarray(x)).ndim
    if source.question is None or (ndim <= 2 and estimator.n_features_in_ == math.prod(shape)):
        values = validate_data(estimator, x, dtype="numeric", reset=False, ensure_all_finite=numbers)
    else:  # scikit-learn would take steps for features, and rows of images
        values = check_array(x, dtype="numeric", allow_nd=True, ensure_all_finite=numbers, estimator=estimator)
    samples = source.samples(values)
    if source.question is not None and not _agree(source, samples.shape[1:], shape):
        raise ValueError(f"X has samples of shape {samples.shape[1:]}, but the fit was given samples of shape {shape}")
    return np.asarray(samples)


def _agree(source: KernelSource, new: tuple[int, ...], fitted: tuple[int, ...]) -> bool:
    """Tell whether samples of two shapes have kernel values with each other."""
    if is_graph(new) and is_graph(fitted):
        return new[3] == fitted[3]
    if source.takes_unequal_steps and len(new) == len(fitted) == 3:
        return (new[0], new[2]) == (fitted[0], fitted[2])
    return new == fitted
