"""The errors that leave the package.

Each is a `PipelineError` and also the built-in that a caller would expect, so that both
``except PipelineError`` and ``except ValueError`` work. A message says what was expected, what was
got, where, and what to do next.
"""


class PipelineError(Exception):
    """Base of every error that the package raises on purpose."""


class ConfigError(PipelineError, ValueError):
    """A workflow file, an option or an argument is invalid."""


class DataError(PipelineError, ValueError):
    """A data set holds values that a kernel cannot be computed from."""


class DataNotFound(PipelineError, FileNotFoundError):
    """The files of a data set were not found."""


class LayerError(PipelineError, ValueError):
    """A network cannot be built, or does not accept the shape of its input."""


class RunNotFound(PipelineError, FileNotFoundError):
    """A directory holds no run."""


class SpecificationMismatch(PipelineError, ValueError):
    """A run directory belongs to another specification; its tiles must not be mixed with these."""


class NotTrusted(PipelineError, PermissionError):
    """A run directory says where to compute, and this user did not write it."""


class RunLocked(PipelineError, RuntimeError):
    """Another driver works on the same run directory."""


class StoreError(PipelineError, OSError):
    """The store cannot be read or written, or is of a format this version does not know."""


class StoreUnavailable(StoreError):
    """The store did not answer, or answered with a passing error; asking again may help."""


class ForeignFile(StoreError):
    """An object in the place of a file was not written by this package.

    It is a folder, a link, a pipe, a device, or a file with too many bytes.
    """


class CorruptTile(PipelineError, ValueError):
    """A chunk on disk is missing, or differs from the chunk that was written."""


class NotFinite(PipelineError, ArithmeticError):
    """A computed tile holds a value that is not a number, or infinite."""


class NotAccurate(PipelineError, ArithmeticError):
    """A value would be finite, but its error larger than the promised bound."""


class NotConverged(PipelineError, ArithmeticError):
    """An iteration did not reach its tolerance."""


class NotPositiveDefinite(PipelineError, ArithmeticError):
    """A kernel plus its ridge is not positive definite.

    Attributes
    ----------
    row : int
        Global row of the pivot of the Cholesky factorisation that is not positive, counted from 0; -1 where conjugate
        gradients met a direction p with p^T (K + ridge I) p <= 0.
    pivot : float
        The pivot's value after elimination, or that direction's value divided by p^T p.
    """

    def __init__(self, message: str, row: int = -1, pivot: float = float("nan")):
        super().__init__(message, row, pivot)
        self.row, self.pivot = row, pivot

    def __str__(self) -> str:
        return str(self.args[0])


class KillsWorkers(PipelineError, RuntimeError):
    """A tile ends the process of every worker that computes it."""


class DeviceLost(PipelineError, RuntimeError):
    """A graphics card failed; this process cannot use it any more, another one may."""


class NotPrepared(PipelineError, ConnectionError):
    """A worker takes no tile, since it could not be prepared; the tile itself was not tried."""


class TilesFailed(PipelineError, RuntimeError):
    """Some tiles could not be computed; the others are kept."""


class WorkersLost(PipelineError, RuntimeError):
    """The cluster went away while tiles were left."""


class SubmissionFailed(PipelineError, RuntimeError):
    """A driver could not be handed to a cluster, or the cluster could not be asked about it."""


class Interrupted(PipelineError, RuntimeError):
    """The user asked the run to stop; everything finished so far is kept."""


class NotComputed(PipelineError, RuntimeError):
    """A part of a run is asked for that is not computed yet."""
