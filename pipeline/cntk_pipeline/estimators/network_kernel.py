"""A network's kernel as an object of scikit-learn: for support vector machines, Gaussian processes, and by itself."""

from collections import OrderedDict
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
import xxhash
from sklearn.gaussian_process.kernels import Kernel

from cntk_pipeline.estimators.question import as_samples
from cntk_pipeline.estimators.source import KernelSource, is_precomputed
from cntk_pipeline.layers import Layer

Floats = npt.NDArray[np.float64]

RECENT = 2
"""Matrices that are held: one of the training samples, one of new samples."""


@final
class NetworkKernel(Kernel):
    """The kernel of an infinitely wide network, with scikit-learn's calls.

    - ``SVC(kernel=NetworkKernel(network))``, and everything else that takes a function of two sets of samples;
    - ``KernelRidge(kernel="precomputed").fit(kernel(X), y)``, then ``.predict(kernel(X_new, X))``;
    - ``GaussianProcessRegressor(ConstantKernel() * NetworkKernel(network) + WhiteKernel())``: the kernel has no
      hyperparameters of its own, the constant and the noise are fitted.

    The last matrices are held in this process, so a Gaussian process computes each once, however often it asks.

    Parameters
    ----------
    network, kind, dtype, flips, image_shape, n_jobs, memory
        As of `KernelClassifier`.

    Examples
    --------
    >>> from cntk_pipeline.estimators import NetworkKernel
    >>> from cntk_pipeline.layers import presets
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.svm import SVC
    >>> X, y = load_iris(return_X_y=True)
    >>> SVC(kernel=NetworkKernel(presets.fully_connected(3))).fit(X[::2], y[::2]).score(X[1::2], y[1::2])
    0.96
    """

    def __init__(
        self,
        network: Layer,
        *,
        kind: str = "ntk",
        dtype: str = "float32",
        flips: bool = False,
        image_shape: tuple[int, int, int] | None = None,
        n_jobs: int | None = None,
        memory: str | Path | None = None,
    ) -> None:
        self.network = network
        self.kind = kind
        self.dtype = dtype
        self.flips = flips
        self.image_shape = image_shape
        self.n_jobs = n_jobs
        self.memory = memory

    def __call__(
        self,
        X: npt.ArrayLike,
        Y: npt.ArrayLike | None = None,
        eval_gradient: bool = False,
    ) -> Floats | tuple[Floats, Floats]:
        """Evaluate the kernel.

        Parameters
        ----------
        X, Y : array, (n, features) or (n, H, W, C)
            None for ``Y`` means ``X``, and so does the array ``X`` itself. Samples of a copy of ``X`` are others, which
            only `Dropout` tells.
        eval_gradient : bool
            Also return the gradient by the hyperparameters, of which there are none: ``(n, n, 0)``.

        Returns
        -------
        float64 array, (n_X, n_Y)

        Raises
        ------
        TypeError, ValueError
            If a parameter or an array is invalid, or a gradient is asked for with ``Y``.
        """
        if eval_gradient and Y is not None:
            raise ValueError("a gradient can only be evaluated where Y is None")
        source = self._source()
        Y = None if Y is X else Y  # as the fit of a support vector machine asks
        left = source.samples(as_samples("X", X))
        right = None if Y is None else source.samples(as_samples("Y", Y), "Y")
        values = _RECENT.matrix(source, left, right)
        return (values, np.empty((*values.shape, 0))) if eval_gradient else values

    def diag(self, X: npt.ArrayLike) -> Floats:
        """Evaluate the kernel of each sample with itself, ``(n,)``."""
        source = self._source()
        return source.variances(source.samples(as_samples("X", X))).astype(np.float64)

    def is_stationary(self) -> bool:
        """Tell that values depend on more than the difference of two samples."""
        return False

    def _source(self) -> KernelSource:
        if is_precomputed(self.network):
            raise ValueError(
                f"NetworkKernel computes kernels of a network, got network={self.network!r}: give a layer; estimators "
                "that take matrices have kernel='precomputed' of their own"
            )
        return KernelSource.of(self)

    def __repr__(self) -> str:
        return f"NetworkKernel({self.network}, kind={self.kind!r})"


class _RecentMatrices:
    """The last matrices of this process, by digests of what they are of."""

    def __init__(self) -> None:
        self._matrices: OrderedDict[object, Floats] = OrderedDict()

    def matrix(self, source: KernelSource, left: Floats, right: Floats | None) -> Floats:
        key = (source, _digest(left), None if right is None else _digest(right))
        values = self._matrices.pop(key, None)
        if values is None:
            values = (source.train(left) if right is None else source.cross(left, right)).astype(np.float64)
        self._matrices[key] = values
        while len(self._matrices) > RECENT:
            self._matrices.popitem(last=False)
        return values.copy()  # scikit-learn adds to the diagonal in place


_RECENT = _RecentMatrices()


def _digest(x: Floats) -> tuple[object, ...]:
    return x.shape, x.dtype.str, xxhash.xxh3_128_digest(np.ascontiguousarray(x).data)
