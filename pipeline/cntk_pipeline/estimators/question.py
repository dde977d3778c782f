"""The kernel that an estimator asks for, with checks of its parameters in the manner of scikit-learn."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_array

from cntk_pipeline import kernels  # whose names load the compiler when they are used, which is in `fit`
from cntk_pipeline.errors import LayerError
from cntk_pipeline.inputs import as_array, is_whole_number, short_repr
from cntk_pipeline.kernels.base import read_dtype
from cntk_pipeline.kernels.program import Array
from cntk_pipeline.layers import Layer
from cntk_pipeline.layers.kinds import KINDS, require_kind
from cntk_pipeline.layers.reading import require_inputs
from cntk_pipeline.resources import core_count


@dataclass(frozen=True)
class KernelQuestion:
    """A kernel of features; the fields are an estimator's parameters.

    Attributes
    ----------
    network : Layer
        Of the inputs.
    kind : str
        "ntk" or "nngp".
    dtype : str
        "float32" or "float64"; kept as such where NumPy's type is given.
    flips : bool
        Average over images and their mirror images.
    image_shape : (int, int, int), optional
        (H, W, C) of the images that features are; None for vectors, and for images ``(n, H, W, C)``.
    n_jobs : int, optional
        Number of threads; None means all cores.

    Raises
    ------
    TypeError
        If the network is no layer, or flips are neither True nor False.
    ValueError
        If kind, dtype or n_jobs are unknown.
    """

    network: Layer
    kind: str = "ntk"
    dtype: str = "float32"
    flips: bool = False
    image_shape: tuple[int, int, int] | None = None
    n_jobs: int | None = None

    def __post_init__(self) -> None:
        _require_network(self.network)
        require_options(self)
        object.__setattr__(self, "dtype", read_dtype(self.dtype).name)

    def inputs(self, x: Array, name: str = "X") -> Array:
        """Make a network's inputs of features ``(n, d)``, or of sequences; images ``(n, H, W, C)`` stay.

        Truth values become 0 and 1. All else is checked here, before a memory makes numbers of its own dtype of it.

        Raises
        ------
        ValueError
            If they are no samples, do not fit ``image_shape``, or are vectors where flips are asked for.
        DataError, LayerError
            If they are no finite real numbers, or the network does not take them; with ``name``.
        """
        if x.ndim < 2:
            raise ValueError(
                f"expected samples (n, features) or images (n, H, W, C), got an array of shape {x.shape}: of one "
                f"sample give {name}[None]"
            )
        if x.dtype.kind == "b":
            x = x.astype(np.uint8)
        if self.image_shape is None:
            if self.flips and x.ndim == 2:
                raise ValueError(
                    f"flips=True averages over images flipped left to right, and {name} of shape {x.shape} holds "
                    "vectors: give image_shape=(height, width, channels), or leave flips out"
                )
            return self._taken(name, x)
        shape = self.image_shape
        if x.shape[1:] != shape and (x.ndim != 2 or x.shape[1] != np.prod(shape)):
            raise ValueError(
                f"image_shape={shape} asks for {name} of shape (n, {np.prod(shape)}) or "
                f"(n, {', '.join(map(str, shape))}), got {x.shape}"
            )
        if x.ndim == 2:
            name = f"{name}.reshape(-1, {', '.join(map(str, shape))})"
        return self._taken(name, x.reshape(len(x), *shape))

    def _taken(self, name: str, x: Array) -> Array:
        """Refuse inputs that the network does not take."""
        inputs = require_inputs(name, x, [self.network])
        try:
            require_kind(self.network, self.kind, inputs.shape[1:])
        except LayerError as error:
            if inputs.ndim == 2 and self.image_shape is None and "needs images" in str(error):
                raise LayerError(
                    f"{error}; give image_shape=(height, width, channels) if features are pixels"
                ) from None
            raise
        return inputs

    def require_training(self, input_shape: tuple[int, ...]) -> None:
        """Refuse an NTK of which no layer is trained: it is zero everywhere, and no regression has a solution.

        Raises
        ------
        ValueError
            If it is one.
        LayerError
            If the network does not accept the shape, or has no NTK.
        """
        if self.kind == "ntk" and kernels.is_untrained(self.network, input_shape):
            raise ValueError(
                "no layer of the network is trained, so that its NTK is zero everywhere: give kind='nngp', or leave "
                "trained=False out of a layer (those of the keys of Attend add nothing)"
            )

    def matrix(self, x1: Array, x2: Array | None = None) -> Array:
        """Evaluate the kernel of two sets of inputs, or of one with itself; ``(n1, n2)``."""
        return kernels.kernel_matrix(
            self.network,
            x1,
            x2,
            kind=self.kind,
            dtype=self.dtype,
            flips=self.flips,
            n_jobs=thread_count(self.n_jobs),
        )

    def diagonal(self, x: Array) -> Array:
        """Evaluate the kernel of each input with itself, ``(n,)``."""
        return kernels.kernel_diagonal(self.network, x, kind=self.kind, dtype=self.dtype, flips=self.flips)


def as_samples(name: str, given: npt.ArrayLike) -> npt.NDArray[Any]:
    """Make an array of samples; of Python objects, such as frames of several dtypes, numbers, as a fit does.

    `KernelQuestion.inputs` checks it further.

    Raises
    ------
    DataError, ValueError
        If it is none, with ``name``.
    """
    array = as_array(name, given)
    if array.dtype != object or array.ndim < 2:
        return array
    return check_array(given, dtype="numeric", allow_nd=True, ensure_all_finite=False, input_name=name)


def require_options(given: Any) -> None:
    """Check the parameters ``kind``, ``dtype``, ``flips`` and ``n_jobs`` of a question or of an estimator.

    Raises
    ------
    TypeError, ValueError
        As of `KernelQuestion`.
    """
    if not isinstance(given.kind, str) or given.kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, got {short_repr(given.kind)}")
    read_dtype(given.dtype)
    if not isinstance(given.flips, bool | np.bool_):
        raise TypeError(f"flips must be True or False, got {short_repr(given.flips)}")
    thread_count(given.n_jobs)


def _require_network(network: Any) -> None:
    if isinstance(network, Layer):
        return
    if isinstance(network, str):
        raise ValueError(
            f"there is no network {network!r}: give a layer, like layers.presets.cntk(3, pooling='gap'); "
            "KernelClassifier and KernelRegressor take 'precomputed' too, and kernel matrices in place of X"
        )
    if isinstance(network, Sequence) and network and all(isinstance(each, Layer) for each in network):
        raise TypeError("network must be one layer, got a list of layers: give Sequential(*layers)")
    raise TypeError(
        f"network must be a layer of cntk_pipeline.layers, like Sequential(Dense(), Relu(), Dense()), got "
        f"{short_repr(network)}"
    )


def image_shape_of(shape: Any) -> tuple[int, int, int] | None:
    """Read the parameter ``image_shape``.

    Raises
    ------
    TypeError
        If it is neither None nor three whole numbers.
    """
    if shape is None:
        return None
    numbers = tuple(shape) if isinstance(shape, Sequence | np.ndarray) and not isinstance(shape, str) else ()
    if len(numbers) != 3 or not all(is_whole_number(n) and n > 0 for n in numbers):
        raise TypeError(
            "image_shape must be (height, width, channels), three whole numbers, or None, got " + short_repr(shape)
        )
    return int(numbers[0]), int(numbers[1]), int(numbers[2])


def memory_of(memory: Any) -> str | Path | None:
    """Read the parameter ``memory``.

    Raises
    ------
    TypeError
        If it is neither None nor a path.
    """
    if memory is not None and not isinstance(memory, str | Path):
        raise TypeError(f"memory must be the path of a folder or of a run directory, or None, got {short_repr(memory)}")
    return memory


def thread_count(n_jobs: Any) -> int:
    """Count the threads that joblib would let this process use, at most one for each core."""
    if n_jobs is not None and (not is_whole_number(n_jobs) or n_jobs == 0):
        raise ValueError(f"n_jobs must be a whole number other than 0, or None for all cores, got {short_repr(n_jobs)}")
    # None is every core here, for compiled code shares them well; inside a worker of joblib it is that worker's one.
    allowed = joblib.effective_n_jobs(-1 if n_jobs is None else int(n_jobs))
    return max(1, min(allowed, core_count()))
