"""The tables that define the computation and its precision; all numbers in the results depend on these alone."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from cntk_pipeline.config.section import OpenSection, Place, Section
from cntk_pipeline.models import AskedTask

Scalar = bool | int | float | str

DEFAULT_ENGINE = "cpu"
"""What computes the values of a workflow that names no engine, and of a run whose specification names none."""


class DataConfig(OpenSection):
    """``[data]``: the images and their labels. Further keys belong to the source.

    Attributes
    ----------
    source : str
        A data set by name, or the format of its files.
    path : str, optional
        File or folder that the source reads; without it, the usual places are searched where there are any. It is
        relative to the folder in which the command is typed.
    task : {"auto", "classification", "multilabel", "regression"}
        What the labels are: "classification", "multilabel" (a column of 0 and 1 for each class) or "regression". "auto"
        goes by their type: numbers that are not whole mean a regression; text, truth values and whole numbers a
        classification.
    train : int, optional
        Number of training images, the first ones in file order; all by default.
    train_blocks : int
        Cut the training part into this many equal consecutive blocks (CIFAR-10 has five batch files) and take the first
        ``train / train_blocks`` of each.
    test : int or float, optional
        Number of test images, or their share, below 1; all by default. A data set without a test part is divided: the
        test images follow the training images, or are the last ones where `train` is not given.
    shuffle : int, optional
        Bring the rows of each part into a random order of this seed before any are taken; by default they keep the
        order of the files. Rows that are sorted by class need it.
    standardize : bool or {"per_feature"}
        Subtract the training mean of each channel and divide by its standard deviation. Vectors have one mean and
        deviation for all values, or with "per_feature" one for each feature.
    standardize_first : int, optional
        Number of the first chosen training images that both are measured on; all by default. A run that grows keeps its
        values only if this is the number of images in the run it grows from.
    """

    source: str = "digits"
    path: Place | None = None
    task: AskedTask = "auto"
    train: int | None = Field(default=None, ge=1)
    train_blocks: int = Field(default=1, ge=1)
    test: int | float | None = None
    # RandomState takes no larger seeds.
    shuffle: int | None = Field(default=None, ge=0, lt=2**32, strict=True)
    standardize: bool | Literal["per_feature"] = True
    standardize_first: int | None = Field(default=None, ge=1)

    @field_validator("test")
    @classmethod
    def _test_is_a_count_or_a_share(cls, value: int | float | None) -> int | float | None:
        if value is not None and not (0 < value < 1 if isinstance(value, float) else value >= 1):
            raise ValueError(f"Input should be a number of images from 1, or a share between 0 and 1, got {value}")
        return value

    @field_validator("standardize", mode="before")
    @classmethod
    def _standardize_is_spelt_out(cls, value: object) -> object:
        # 1 equals True, but in the specification it would give another fingerprint.
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
    preset : str, optional
        A family of networks by name, below.
    options : mapping of str to bool, int, float or str
        Further arguments of the preset.
    layers : list of mapping of str to object, optional
        Instead of a preset, a list of tables, each with ``layer``, its class, and that class's fields. Fields that hold
        layers, like the branch of a Residual, are lists of tables again.
    """

    preset: str | None = None
    options: dict[str, Scalar] = Field(default={})
    # The layers check their values themselves, and `layers.spelling` names the place; here any tree is accepted.
    layers: list[dict[str, JsonValue]] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "NetworkConfig":
        if (self.preset is None) == (self.layers is None):
            raise ValueError("give either preset or layers")
        if self.layers is not None and self.options:
            raise ValueError("options belong to a preset; write them into the layers")
        return self


class ReadoutsConfig(Section):
    """``[readouts]``: the kernels that are stored of one pass: every combination of depth, pooling and kind.

    Attributes
    ----------
    depths : list of int
        Depths of the preset's networks; empty for explicit layers.
    poolings : list of str
        Names of the preset's poolings ("gap", "flatten", "lap4"); empty takes its first one, if it has any.
    kinds : list of {"ntk", "nngp"}
        The kernels of each network: "ntk", "nngp" or both.
    """

    depths: list[int] = Field(default=[])
    poolings: list[str] = Field(default=[])
    kinds: list[Literal["ntk", "nngp"]] = Field(default=["ntk"], min_length=1)


class KernelConfig(OpenSection):
    """``[kernel]``: how the matrices are computed and cut; further keys belong to the engine.

    Attributes
    ----------
    dtype : {"float32", "float64"}
        The type of the numbers that are computed and stored.
    flips : bool
        Average each value with the value for one image flipped left to right, like training also on all flips.
    tile : {"auto"} or int
        Samples along a tile's edge; "auto" chooses by the time of a pair.
    engine : str
        Name of the engine that computes the values.
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


class SolveConfig(OpenSection):
    """``[solve]``: the regression on each read-out. Further keys belong to the solver.

    Attributes
    ----------
    ridges : {"auto"} or list of float
        Regularisers; each is added to the diagonal. For each read-out, "auto" takes the one of 1, 0.1, ..., 1e-7 times
        trace(K) / n, in a regression of 100, 10, ..., with the smallest mean squared leave-one-out error on the
        training images.
    ridge_mode : {"relative", "absolute"}
        "relative" multiplies them by trace(K) / n, "absolute" takes them as they are.
    solver : str
        "cholesky" factors, n^3 / 3 operations; "cg", conjugate gradients, streams the stored kernel once an iteration;
        "centres" computes the kernel's columns of some training images alone. docs/solving.md compares them.
    tile : {"auto"} or int
        Samples along the edge of a tile of the factor, or of a block of the other solvers, rounded to whole kernel
        tiles; "auto" chooses when the run begins. From 12,288 training samples on, the tile of a factor follows the
        number of tiles computed at once, and with it the last bits of a solution.
    unit_diagonal : bool
        Regress on ``K_ij / sqrt(K_ii K_jj)``; the stored kernel stays as it is.
    choose_by : {"leave_one_out", "evidence"}, optional
        What the training images choose by: "leave_one_out", or "evidence", the log marginal likelihood with the best
        factor of the kernel. It chooses among the ridges of "auto" and among all systems of the run, and needs the key
        of the same name in [inference]. By default, leave-one-out chooses where the run has it.
    """

    ridges: Literal["auto"] | Annotated[list[float], Field(min_length=1)] = Field(default=[0.0])
    ridge_mode: Literal["relative", "absolute"] = "relative"
    solver: str = "cholesky"
    tile: Literal["auto"] | int = "auto"
    unit_diagonal: bool = False
    choose_by: Literal["leave_one_out", "evidence"] | None = None

    @model_validator(mode="after")
    def _ridges_are_not_negative(self) -> "SolveConfig":
        if self.tile != "auto" and self.tile < 1:
            raise ValueError(f'tile must be "auto" or at least 1, got {self.tile}')
        if self.ridges == "auto":
            if self.ridge_mode != "relative":
                raise ValueError('ridges = "auto" chooses among relative ridges: leave ridge_mode out')
            return self
        if min(self.ridges) < 0:
            raise ValueError(f"ridges must be at least 0, got {min(self.ridges)}")
        if len(set(self.ridges)) < len(self.ridges):
            raise ValueError(f"ridges repeat: {self.ridges}")
        return self


class InferenceConfig(OpenSection):
    """``[inference]``: further results of every solved system. docs/inference.md explains each."""
