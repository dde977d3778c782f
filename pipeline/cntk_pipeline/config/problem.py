"""The tables that say what is computed, and how exactly; all numbers in the results depend on these alone."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from cntk_pipeline.config.section import OpenSection, Place, Section

Scalar = bool | int | float | str

DEFAULT_ENGINE = "cpu"
"""What computes the values of a workflow that names no engine, and of a run whose specification names none."""

EXACT_FACTOR = 'take solver = "cholesky" with factor_dtype = "float64"'
"""What to do where an option is computed from the factor itself, not only from coefficients."""


class DataConfig(Section):
    """``[data]``: which images.

    Attributes
    ----------
    source : a data set by name: digits, cifar10, npz, folder.
    path : where its files are; None looks in the usual places.
    train : number of training images, the first ones in file order; None takes all.
    train_blocks : cut the training part into this many equal consecutive blocks (CIFAR-10 has five batch files)
        and take the first ``train / train_blocks`` of each.
    test : number of test images; None takes all.
    shuffle : bring the rows of each part into a random order of this seed before any are taken; None keeps that of the
        files. Rows that are sorted by class need it.
    standardize : subtract the training mean of each channel and divide by its standard deviation; of vectors the one
        mean and deviation of all values, or with "per_feature" those of each feature.
    standardize_first : measure both on the first so many of the chosen training images; None takes all. A run that
        grows keeps its values only where this names the images of the run it grows from.
    """

    source: str = "digits"
    path: Place | None = None
    train: int | None = Field(default=None, ge=1)
    train_blocks: int = Field(default=1, ge=1)
    test: int | None = Field(default=None, ge=1)
    # RandomState takes no larger seeds.
    shuffle: int | None = Field(default=None, ge=0, lt=2**32, strict=True)
    standardize: bool | Literal["per_feature"] = True
    standardize_first: int | None = Field(default=None, ge=1)

    @field_validator("standardize", mode="before")
    @classmethod
    def _standardize_is_spelt_out(cls, value: object) -> object:
        # 1 equals True, but would be written into the specification, and so be another fingerprint.
        if not isinstance(value, bool) and value != "per_feature":
            raise ValueError('Input should be true, false or "per_feature"')
        return value

    @model_validator(mode="after")
    def _something_is_standardized(self) -> "DataConfig":
        if self.standardize_first is not None and not self.standardize:
            raise ValueError("standardize_first means nothing with standardize = false: leave out one of them")
        return self

    @model_validator(mode="after")
    def _blocks_are_of_files(self) -> "DataConfig":
        if self.shuffle is not None and self.train_blocks != 1:
            raise ValueError("train_blocks means nothing with shuffle, which mixes the blocks: leave out one of them")
        return self


class NetworkConfig(Section):
    """``[network]``: a preset with options, or the layers one by one.

    Attributes
    ----------
    preset : a family of networks by name: cntk, fully_connected, myrtle, resnet, wide_resnet, cnn_gp.
    options : further arguments of the preset.
    layers : instead of a preset, a list of tables, each with ``layer``, its class, and that class's fields. Fields
        that hold layers, like the branch of a Residual, are lists of tables again.
    """

    preset: str | None = None
    options: dict[str, Scalar] = Field(default={})
    # The layers check their values themselves, and `layers.spelling` says where; here any tree will do.
    layers: list[dict[str, JsonValue]] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "NetworkConfig":
        if (self.preset is None) == (self.layers is None):
            raise ValueError("give either preset or layers")
        if self.layers is not None and self.options:
            raise ValueError("options belong to a preset; write them into the layers")
        return self


class ReadoutsConfig(Section):
    """``[readouts]``: what is stored of one pass: every combination of depth, pooling and kind.

    Attributes
    ----------
    depths : of the preset's networks; empty for explicit layers.
    poolings : as the preset knows them ("gap", "flatten", "lap4"); empty takes its first, or where it knows none.
    kinds : "ntk", "nngp" or both.
    """

    depths: list[int] = Field(default=[])
    poolings: list[str] = Field(default=[])
    kinds: list[Literal["ntk", "nngp"]] = Field(default=["ntk"], min_length=1)


class KernelConfig(OpenSection):
    """``[kernel]``: how the matrices are computed and cut; further keys belong to the engine.

    Attributes
    ----------
    dtype : of computation and storage.
    flips : average each value with that of one image flipped left to right, as training on all flips as well would.
    tile : samples along a tile's edge; "auto" chooses from what a pair costs.
    engine : what computes the values, by name: "cpu", and those that were added to `kernels.ENGINES`.
    """

    dtype: Literal["float32", "float64"] = "float32"
    flips: bool = False
    tile: Literal["auto"] | int = "auto"
    engine: str = DEFAULT_ENGINE

    @model_validator(mode="after")
    def _tile_is_positive(self) -> "KernelConfig":
        if self.tile != "auto" and self.tile < 1:
            raise ValueError(f'tile must be "auto" or at least 1, got {self.tile}')
        return self


class SolveConfig(Section):
    """``[solve]``: the regression on each read-out.

    Attributes
    ----------
    ridges : regularisers; each is added to the diagonal. "auto" takes, for each read-out, that of 1, 0.1, ..., 1e-7
        times trace(K) / n with the smallest mean squared leave-one-out error on the training images.
    ridge_mode : "relative" multiplies them by trace(K) / n, "absolute" takes them as they are.
    solver : "cholesky" factors, n^3 / 3 operations; "cg", conjugate gradients, streams the stored kernel once an
        iteration. docs/solving.md says when to use which.
    tile : samples along the edge of a tile of the factor, or of the blocks that "cg" works on, rounded to whole kernel
        tiles; "auto" chooses.
    unit_diagonal : regress on ``K_ij / sqrt(K_ii K_jj)``; the stored kernel stays as it is.
    factor_dtype : of the stored factor of "cholesky", default float64. In float32 it takes half the disk, and conjugate
        gradients with it as preconditioner bring the residual down to ``tolerance``; products are in float64 anyway.
    tolerance : of conjugate gradients: relative residual of every class, default 1e-10, checked on the stored kernel.
    max_iterations : of conjugate gradients, default 1,000; raise it and resume to go on.
    rank : of the preconditioner of "cg", default 256: it flattens as many of the largest eigenvalues, takes one pass of
        n^2 rank operations, and n rank numbers in memory. 0 scales by the diagonal only.
    """

    ridges: Literal["auto"] | Annotated[list[float], Field(min_length=1)] = Field(default=[0.0])
    ridge_mode: Literal["relative", "absolute"] = "relative"
    solver: Literal["cholesky", "cg"] = "cholesky"
    tile: Literal["auto"] | int = "auto"
    unit_diagonal: bool = False
    factor_dtype: Literal["float64", "float32"] | None = None
    # None, not the defaults: whoever gives an option to a solver that does not know it is told so.
    tolerance: float | None = Field(default=None, gt=0, lt=1)
    max_iterations: int | None = Field(default=None, ge=1, le=100_000)
    rank: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _ridges_are_not_negative(self) -> "SolveConfig":
        if self.ridges == "auto":
            if self.ridge_mode != "relative":
                raise ValueError('ridges = "auto" chooses among relative ridges: leave ridge_mode out')
            return self
        if min(self.ridges) < 0:
            raise ValueError(f"ridges must be at least 0, got {min(self.ridges)}")
        if len(set(self.ridges)) < len(self.ridges):
            raise ValueError(f"ridges repeat: {self.ridges}")
        if self.tile != "auto" and self.tile < 1:
            raise ValueError(f'tile must be "auto" or at least 1, got {self.tile}')
        return self

    @model_validator(mode="after")
    def _options_belong_to_the_solver(self) -> "SolveConfig":
        if self.solver == "cg" and self.factor_dtype is not None:
            raise ValueError('factor_dtype belongs to solver = "cholesky"; "cg" stores no factor')
        if self.ridges == "auto" and not self.has_exact_factor:
            raise ValueError(f'ridges = "auto" compares the leave-one-out of factors: {EXACT_FACTOR}, or give ridges')
        if self.solver == "cholesky" and self.rank is not None:
            raise ValueError('rank belongs to solver = "cg"; "cholesky" needs no preconditioner')
        if self.solver == "cholesky" and self.factor_dtype != "float32":
            for option, value in (("tolerance", self.tolerance), ("max_iterations", self.max_iterations)):
                if value is not None:
                    raise ValueError(
                        f'{option} belongs to solver = "cg" or factor_dtype = "float32"; '
                        "a factor in float64 solves without iterations"
                    )
        return self

    @property
    def has_exact_factor(self) -> bool:
        """Whether a factor is stored that rounds no more than its float64 arithmetic."""
        return self.solver == "cholesky" and self.factor_dtype != "float32"


class InferenceConfig(Section):
    """``[inference]``: what else to infer from every system once it is solved.

    Attributes
    ----------
    leave_one_out : what each training image is predicted to be by all others. It costs as much as the factor.
    learning_curve : test results of the first m training images: ``true`` for about ten sizes m, or a rising list.
    variance : posterior variance of each test image.
    covariance : posterior covariance of all test images; K(test, test) is computed for it, and only then.
    times : follow the training of an ensemble of networks to these times of gradient flow, "inf" for its end: its mean,
        variance and, with ``covariance``, covariance, in the memory of one worker. Needs both kinds of read-outs.
    spectrum : eigenvalues at both ends of the kernel, so many of each; ``true`` is 10.

    Learning curve, variance and covariance share ``8 n_test n`` bytes on disk and ``n_test n^2`` operations.
    """

    leave_one_out: bool = False
    learning_curve: bool | list[int] = False
    variance: bool = False
    covariance: bool = False
    times: list[float | Literal["inf"]] = Field(default=[])
    spectrum: bool | int = False

    @model_validator(mode="after")
    def _sizes_rise(self) -> "InferenceConfig":
        sizes = self.learning_curve
        if isinstance(sizes, list) and (not sizes or sizes[0] < 1 or sorted(set(sizes)) != sizes):
            raise ValueError(f"learning_curve must be true, false, or rising sizes of at least 1, got {sizes}")
        for time in self.times:
            if float(time) < 0:
                raise ValueError(f'times must be at least 0, or "inf", got {time}')
        if not isinstance(self.spectrum, bool) and self.spectrum < 1:
            raise ValueError(f"spectrum must be true, false, or a count of at least 1, got {self.spectrum}")
        return self

    @property
    def options_of_the_factor(self) -> list[str]:
        """Names of the options asked for that are computed from the factor."""
        asked = {
            "leave_one_out": self.leave_one_out,
            "learning_curve": bool(self.learning_curve),
            "variance": self.variance,
            "covariance": self.covariance,
        }
        return [name for name, wanted in asked.items() if wanted]
