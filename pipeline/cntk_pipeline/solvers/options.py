"""The keys of ``[solve]`` that belong to one solver each, and the options of iterations among them."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from cntk_pipeline.config import Section, parse_bytes
from cntk_pipeline.models import CentreChoice
from cntk_pipeline.solvers.systems import Method

DEFAULT_TOLERANCE, DEFAULT_MAX_ITERATIONS = 1e-10, 1000

DEFAULT_RANK = 256
"""On 1,500 digits (CNTK-V and CNTK-GAP, depth 6, ridges 1e-2 to 1e-6): 27 to 40 iterations to 1e-10, against 142 to
201 with rank 0, 43 to 63 with 64 and 20 to 29 with 512."""


class CholeskyOptions(Section):
    """The keys of ``solver = "cholesky"``.

    Attributes
    ----------
    factor_dtype : {"float64", "float32"}
        The type of the stored factor. In float32 it takes half the disk, and conjugate gradients with it as
        preconditioner bring the residual down to ``tolerance``; products are in float64 anyway.
    tolerance : float, optional
        Relative residual of every class at which these iterations end; by default 1e-10.
    max_iterations : int, optional
        Number of iterations after which they give up; by default 1000.
    """

    factor_dtype: Literal["float64", "float32"] = "float64"
    tolerance: float | None = Field(default=None, gt=0, lt=1)
    max_iterations: int | None = Field(default=None, ge=1, le=100_000)

    @model_validator(mode="after")
    def _iterations_need_a_rounded_factor(self) -> "CholeskyOptions":
        if self.factor_dtype == "float64":
            for option, value in (("tolerance", self.tolerance), ("max_iterations", self.max_iterations)):
                if value is not None:
                    raise ValueError(
                        f'{option} belongs to solver = "cg" or factor_dtype = "float32"; '
                        "a factor in float64 solves without iterations"
                    )
        return self


def _read_kernel_bytes(value: str | int) -> int:
    try:
        size = parse_bytes(value) if isinstance(value, str) else value
        if size >= 0:
            return size
    except (ValueError, OverflowError):
        pass
    raise ValueError(f'expected bytes ("40GB"), at least 0, got {value!r}')


class ConjugateGradientOptions(Section):
    """The keys of ``solver = "cg"``.

    Attributes
    ----------
    tolerance : float
        Relative residual of every class at which iterations end, checked on the stored kernel.
    max_iterations : int
        Number of iterations after which they give up; raise it and resume to go on.
    rank : int
        Number of the largest eigenvalues that the preconditioner flattens. It takes one pass of ``n^2 rank``
        operations, and ``n rank`` numbers in memory. With 0 it is the diagonal only.
    kernel_bytes : str or int, optional
        Bytes of K(train, train) that are stored, such as "40GB"; each pass computes the other tiles again. No result
        depends on it, and a resume may change it. The tiles on the diagonal are always stored. By default the whole
        kernel is.
    sketch : {"gaussian", "columns"}, optional
        The preconditioner sees the kernel by its products with "gaussian" vectors, in a pass of its own, or by the
        "columns" of `rank` training images. By default "columns" with ``kernel_bytes``, and "gaussian" without.
    """

    tolerance: float = Field(default=DEFAULT_TOLERANCE, gt=0, lt=1)
    max_iterations: int = Field(default=DEFAULT_MAX_ITERATIONS, ge=1, le=100_000)
    rank: int = Field(default=DEFAULT_RANK, ge=0)
    kernel_bytes: Annotated[str | int, AfterValidator(_read_kernel_bytes)] | None = None
    sketch: Literal["gaussian", "columns"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_spelling_of_a_sketch(cls, given: Any) -> Any:
        """Write the same preconditioner the same way, since the options name the solve."""
        if not isinstance(given, dict):
            return given
        sketch = given.get("sketch")
        if given.get("kernel_bytes") is not None:
            if sketch == "gaussian":
                raise ValueError(
                    'sketch = "gaussian" reads the whole kernel, of which kernel_bytes stores a part: leave out one of '
                    "them"
                )
            sketch = sketch or "columns"
        without = given.get("rank") == 0 and sketch in ("gaussian", "columns")
        return given | {"sketch": None if without or sketch == "gaussian" else sketch}


class CentresOptions(Section):
    """The keys of ``solver = "centres"``.

    Attributes
    ----------
    centres : int
        Number of the centres, m: training images whose columns of the kernel are computed, and no others.
    centre_choice : {"first", "random", "rpcholesky"}
        "first" takes the first training images; "random" draws them, and the run stores them first. "rpcholesky" draws
        the images that tell most about all others, from the kernel of the first read-out: by randomly pivoted Cholesky,
        in ten blocks of columns or more.
    centre_seed : int, optional
        Of the draw; 0 by default.
    centres_tolerance : float, optional
        Of "rpcholesky": no more centres are drawn once the relative trace error of the kernel that they stand for is
        this small. ``centres`` is the largest number then.
    centre_jitter : float
        Added to the diagonal of the centres' own kernel, in units of its mean, before that is factored. By default
        nothing is added, and centres that do not differ are refused.
    """

    centres: int = Field(ge=1)
    centre_choice: CentreChoice = "first"
    centre_seed: int | None = Field(default=None, ge=0, lt=2**32)
    centres_tolerance: float | None = Field(default=None, gt=0, lt=1)
    centre_jitter: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _a_seed_draws(self) -> "CentresOptions":
        if self.centre_choice == "first" and self.centre_seed is not None:
            raise ValueError('centre_seed belongs to centre_choice = "random" or "rpcholesky": leave out one of them')
        if self.centre_choice != "rpcholesky" and self.centres_tolerance is not None:
            raise ValueError('centres_tolerance belongs to centre_choice = "rpcholesky": leave out one of them')
        return self


@dataclass(frozen=True)
class IterationOptions:
    """The options of conjugate gradients, from the keys of either solver.

    Attributes
    ----------
    tolerance : float
        Relative residual of every class at which iterations end.
    max_iterations : int
        Number of iterations after which they give up. No result depends on it.
    rank : int
        Of a low-rank preconditioner; 0 is the diagonal.
    is_factored : bool
        Whether a stored factor is the preconditioner instead.
    by_columns : bool
        Whether a low-rank preconditioner is made of columns of the kernel.
    """

    tolerance: float
    max_iterations: int
    rank: int
    is_factored: bool
    by_columns: bool = False


def iteration_options(method: Method) -> IterationOptions:
    """Read the options of conjugate gradients from the method of a system."""
    if method.solver == "cg":
        cg = ConjugateGradientOptions.model_validate(method.options)
        by_columns = cg.sketch == "columns"
        return IterationOptions(cg.tolerance, cg.max_iterations, cg.rank, is_factored=False, by_columns=by_columns)
    cholesky = CholeskyOptions.model_validate(method.options)
    tolerance, limit = cholesky.tolerance or DEFAULT_TOLERANCE, cholesky.max_iterations or DEFAULT_MAX_ITERATIONS
    return IterationOptions(tolerance, limit, 0, is_factored=True)
