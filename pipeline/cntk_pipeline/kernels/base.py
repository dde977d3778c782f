"""What the package asks of an engine: the values of pairs, and what they cost.

Whoever asks for values goes through these two classes: `kernel_matrix` in memory, the tiles of a run, its plan, its
preflight, and the preparation of its workers. How an engine comes to them is its own affair.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from cntk_pipeline.errors import ConfigError, LayerError, NotAccurate, NotFinite
from cntk_pipeline.graphs import NodeCounts, is_graph
from cntk_pipeline.inputs import short_repr
from cntk_pipeline.kernels.program import Array
from cntk_pipeline.kernels.timing import PairCost, time_pairs
from cntk_pipeline.layers import Layer

if TYPE_CHECKING:  # a kernel in memory needs no workflow, whose tables take a quarter of a second to import
    from cntk_pipeline.config.section import Section
    from cntk_pipeline.kernels.summaries import NodeSummary, Summary

DTYPES = ("float32", "float64")

LARGEST_SAMPLE_ROWS = 64
"""Left images of the largest tile that is timed, where an engine does not know better."""


@dataclass(frozen=True)
class Question:
    """What an engine is asked: read-outs of inputs of one shape.

    Attributes
    ----------
    readouts : tuple of (Layer, str)
        A network and "ntk" or "nngp" each, in the order of the results.
    input_shape : tuple of int
        Of one input, (H, W, C) or (features,).
    dtype : str
        "float32" or "float64", of results.
    flips : bool
        Average each value with that of the right image flipped left to right.

    Raises
    ------
    LayerError
        If the dtype is another, or flips are neither True nor False.
    """

    readouts: tuple[tuple[Layer, str], ...]
    input_shape: tuple[int, ...]
    dtype: str = "float32"
    flips: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise LayerError(f'kernels are computed in "float32" or "float64", got dtype={short_repr(self.dtype)}')
        if not isinstance(self.flips, bool | np.bool_):
            raise LayerError(f"flips must be True or False, got {short_repr(self.flips)}")


class Evaluator(ABC):
    """The answers to a question, with the memory that they take: for one thread at a time.

    A value depends on its two images alone, bit for bit, not on the others in the call. Images are of any real dtype.
    Equal images are two samples; only without ``right`` is each image one sample with itself, as `Dropout` asks for.
    """

    @property
    def is_masked(self) -> bool:
        """Whether a sample with itself has another value than two equal images: where in doubt, yes."""
        return True

    @abstractmethod
    def evaluate(self, left: Array, right: Array | None = None, *, first: tuple[int, int] = (0, 0)) -> Array:
        """Evaluate all read-outs for all pairs.

        Parameters
        ----------
        left, right : array, (n, H, W, C) or (n, features)
            Without ``right``, ``left`` against itself.
        first : (int, int)
            What errors call the first left and the first right image: their places in what the caller has.

        Returns
        -------
        array, (readouts, n_left, n_right)
            Of the question's dtype; symmetric without ``right``.

        Raises
        ------
        NotFinite
            If a value is not finite, with the pair: in the store, nan stands for what is not computed.
        """

    @abstractmethod
    def evaluate_pairs(self, left: Array, right: Array | None = None, *, first: tuple[int, int] = (0, 0)) -> Array:
        """Evaluate all read-outs for the pairs of each left image with the right one of the same number.

        Parameters
        ----------
        left, right : array, (n, H, W, C) or (n, features)
            Without ``right``, each image with itself: the diagonal of `evaluate`.
        first : (int, int)
            What errors call the first left and the first right image.

        Returns
        -------
        array, (readouts, n)
            Of the question's dtype.
        """

    def interrupt(self) -> None:  # noqa: B027 - what takes no more than a moment may as well end
        """Make an `evaluate` of another thread return in a moment, with numbers that mean nothing; for good."""


class Engine(ABC):
    """A way to compute kernels, put to a question. Takes little memory; any number of threads may share it.

    Parameters
    ----------
    question : Question
        What is to be computed.
    options : Section, optional
        The keys of `options_type` with their values; None where the engine has none.

    Raises
    ------
    LayerError
        If it cannot compute that, with the reason; before anything is written or computed.

    Attributes
    ----------
    numerics_version : int
        Raised by hand whenever the values change in any bit; a run of another version gets no more tiles.
    lane_width : int
        Tiles are multiples of so many images.
    uses_devices : bool
        Whether it computes on graphics cards; then each worker has one.
    options_type : subclass of Section, optional
        The engine's own keys of ``[kernel]``, all with defaults. A run's specification holds them.
    takes_graphs : bool
        Whether it computes kernels of graphs; others refuse them.
    libraries : tuple of str
        Distributions of Python, beyond those of the package, of whose versions the bits of values depend.
    is_exact : bool
        Whether values are those of the networks' exact kernels, of the accuracy that the package promises. Only then a
        run that it computes is a memory of estimators.
    """

    numerics_version: ClassVar[int]
    lane_width: int = 1
    uses_devices: ClassVar[bool] = False
    options_type: "ClassVar[type[Section] | None]" = None
    takes_graphs: ClassVar[bool] = False
    libraries: ClassVar[tuple[str, ...]] = ()
    is_exact: ClassVar[bool] = False

    def __init__(self, question: Question, options: "Section | None" = None) -> None:
        if is_graph(question.input_shape) and not self.takes_graphs:
            raise LayerError(f'{type(self).__name__} computes no kernels of graphs: take engine = "cpu"')
        self.question = question
        self.options = options

    @classmethod
    def ask(cls, question: Question, options: "Section | None" = None) -> "Engine":
        """Put a question to the engine, or to the part of it that answers such questions."""
        return cls(question, options)

    @classmethod
    def version_for(cls, question: Question) -> int:
        """Return the numerics version of the values of a question: `numerics_version` unless some have a later one."""
        return cls.numerics_version

    @classmethod
    def load_code(cls, options: "Section") -> "Section":
        """Load the code that options name beside this package; called only where the user has allowed it.

        Parameters
        ----------
        options : Section
            The keys of a workflow, or of a specification.

        Returns
        -------
        Section
            The options for a specification, which say which code it is.

        Raises
        ------
        ConfigError
            If there is no such code.
        SpecificationMismatch
            If it is other code than the options say.
        """
        return options

    @abstractmethod
    def evaluator(self) -> Evaluator:
        """Make what computes values, for one thread at a time; its memory goes with it."""

    @abstractmethod
    def working_bytes(self, tile: int) -> int:
        """Bytes that an evaluator holds for tiles of an edge, beside the images and results it is given."""

    def bytes_of_graphs(self, tile: int, nodes: NodeCounts) -> int:
        """Bytes likewise for the graphs of a run, of which `working_bytes` knows only how many rows they have."""
        return self.working_bytes(tile)

    @property
    def least_pairs(self) -> int:
        """The pairs of a tile below which a part of the hardware would wait."""
        return 1

    @property
    def plane_entries(self) -> int | None:
        """What the time of a pair is proportional to; None where that says nothing."""
        return None

    @property
    def guessed_pair_seconds(self) -> float | None:
        """The seconds of a pair on one core, right to a factor of about four; None where only measuring tells."""
        return None

    def measure(self, sample: Array) -> PairCost:
        """Measure the seconds of a pair on one core; takes seconds at most.

        Parameters
        ----------
        sample : array
            Standardised images; repeated as often as needed. Of graphs all: what is returned is of a mean pair.
        """
        return PairCost(time_pairs(self.evaluator().evaluate, sample, LARGEST_SAMPLE_ROWS, self.lane_width), 1.0)

    def check(self, sample: Array) -> None:  # noqa: B027 - engines of this package are checked by its tests
        """Refuse, before a run is begun, what shows only in values; takes seconds.

        Parameters
        ----------
        sample : array
            Up to 32 standardised images.

        Raises
        ------
        ConfigError
            If the values cannot be those of a kernel.
        """

    def test(self, images: Array) -> None:
        """Find out on two images whether this process computes as it should, in seconds.

        Raises
        ------
        ConfigError
            If it does not.
        """
        require_independence(self.evaluator(), images)

    def summary(self, number: int) -> "Summary | NodeSummary | None":
        """Lay out the network of a read-out, by number; None where the engine has no table of that."""
        return None


def read_dtype(dtype: npt.DTypeLike) -> np.dtype:
    """Return the dtype of kernels that a caller names.

    Raises
    ------
    LayerError
        If it is neither float32 nor float64.
    """
    try:
        found = None if dtype is None else np.dtype(dtype)  # to NumPy, None is float64
    except TypeError:
        found = None
    if found is None or found.name not in DTYPES:
        raise LayerError(f'kernels are computed in "float32" or "float64", got dtype={short_repr(dtype)}')
    return found


def require_independence(evaluator: Evaluator, images: Array) -> None:
    """Refuse an evaluator that gives a pair of two images other bits by itself than in a tile.

    Raises
    ------
    ConfigError
        If it does.
    """
    whole = evaluator.evaluate(images)
    apart = evaluator.evaluate(images[-1:], images[:1])
    own = evaluator.evaluate_pairs(images)
    if not (np.array_equal(whole[:, -1:, :1], apart) and np.array_equal(np.diagonal(whole, axis1=1, axis2=2), own)):
        raise ConfigError("the engine's self-test failed on this worker: a pair's value depends on its tile")


def mirror_lower(values: Array) -> None:
    """Copy values below the diagonal of ``(readouts, n, n)`` above it: in tiles, the later image is the left one."""
    rows, columns = np.tril_indices(values.shape[-1], -1)
    values[:, columns, rows] = values[:, rows, columns]


def require_scale(scale: float, dtype: np.dtype) -> None:
    """Refuse kernels of which one value, and so each, is no normal number of the dtype, but is not 0 either.

    Parameters
    ----------
    scale : float
        The root of the product of the largest values of images with themselves, in float64: a bound of the others.

    Raises
    ------
    NotAccurate
        With the remedy.
    """
    smallest = float(np.finfo(dtype).tiny)
    if 0 < scale < smallest:
        remedy = "scale the images or raise w_std" + (", or use float64" if dtype == np.float32 else "")
        raise NotAccurate(
            f"a kernel has no value above {scale:.1g}, and numbers of {dtype} below {smallest:.0e} lose their digits "
            f"or are 0: {remedy}"
        )


def is_all_small(values: Array) -> Array:
    """Tell of which read-outs no value is a normal number, (readouts,) bool; mostly the first value says so."""
    smallest, axes = np.finfo(values.dtype).tiny, tuple(range(1, values.ndim))
    if values.size and np.all(np.abs(values.reshape(len(values), -1)[:, 0]) >= smallest):
        return np.zeros(len(values), bool)
    largest = np.maximum(values.max(axes, initial=0), -values.min(axes, initial=0))
    return np.asarray(largest < smallest)


OUT_OF_RANGE = "the images or the network's w_std, b_std are out of range"


def require_finite(values: Array, first: tuple[int, int], cause: str = OUT_OF_RANGE) -> None:
    """Refuse values of which one is not finite.

    Parameters
    ----------
    values : array
        Of `Evaluator.evaluate` or `Evaluator.evaluate_pairs`.
    first : (int, int)
        The place of the first pair, for errors.
    cause : str
        Where such a value comes from, for errors.

    Raises
    ------
    NotFinite
        With the pair.
    """
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, col = int(bad[0][1]), int(bad[0][-1])  # the same number for pairs in a row
        raise NotFinite(
            f"read-out {bad[0][0]} is {values[tuple(bad[0])]} for pair {(first[0] + row, first[1] + col)}: {cause}"
        )
