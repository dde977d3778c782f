"""The engine that computes kernels of finite networks, for comparison with those of infinitely wide ones."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from cntk_pipeline.config.section import Section
from cntk_pipeline.errors import LayerError
from cntk_pipeline.finite.building import Counts, count_numbers
from cntk_pipeline.finite.empirical import BLOCK_BYTES, Draws, Products
from cntk_pipeline.kernels.base import Engine, Evaluator, Question, require_finite
from cntk_pipeline.kernels.program import Array

TORCH_BYTES = 2**28
"""What torch itself takes, once it is imported: 180 MB, measured, and some for its buffers."""


class EmpiricalOptions(Section):
    """The keys of ``engine = "empirical"``.

    Attributes
    ----------
    width : int
        Channels of each layer with weights.
    seed : int
        Of the weights; the same networks compute all tiles.
    draws : int
        Networks; each value is the mean over them.
    """

    width: int = Field(default=256, ge=1, le=2**20)
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    draws: int = Field(default=1, ge=1, le=10**6)


class EmpiricalEngine(Engine):
    """Draws finite networks, and multiplies what they compute or how that changes with their weights.

    Raises
    ------
    LayerError
        If a layer has no finite counterpart, or flips are asked for.
    ConfigError
        If torch is not installed.
    """

    numerics_version: ClassVar[int] = 1
    options_type: ClassVar[type[Section]] = EmpiricalOptions
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

    def __init__(self, question: Question, options: Section | None = None) -> None:
        super().__init__(question, options)
        if question.flips:
            raise LayerError('the engine "empirical" averages over no flips: leave flips out')
        if not question.readouts:
            raise LayerError("an engine needs at least one read-out, got none")
        asked = options if isinstance(options, EmpiricalOptions) else EmpiricalOptions()
        self.draws = [
            Draws(network, kind, asked.width, question.input_shape, asked.seed, asked.draws, question.dtype)
            for network, kind in question.readouts
        ]
        self._counts = [count_numbers(each.network, each.width, each.input_shape, each.outputs) for each in self.draws]

    def evaluator(self) -> "EmpiricalEvaluator":
        return EmpiricalEvaluator(self.draws, self.question.dtype)

    def working_bytes(self, tile: int) -> int:
        itemsize = np.dtype(self.question.dtype).itemsize

        def bytes_of(kind: str, counts: Counts) -> int:
            """Count one network: its weights, the normals that they are made of, and two rows of derivatives."""
            row = counts.trained * (counts.outputs if kind == "ntk" else 1)  # of one output behind the other
            # Rows are of float64; one is held while torch has the other one twice and makes it a row.
            return (itemsize + 8) * counts.weights + max(BLOCK_BYTES, (2 * itemsize + 16) * row)

        return TORCH_BYTES + max(
            bytes_of(each.kind, counts) for each, counts in zip(self.draws, self._counts, strict=True)
        )


class EmpiricalEvaluator(Evaluator):
    """One read-out after the other, one network after the other."""

    def __init__(self, draws: list[Draws], dtype: str) -> None:
        self._products = [Products(each.modules, each.kind) for each in draws]
        self._dtype = dtype

    @property
    def is_masked(self) -> bool:
        return False

    def evaluate(self, left: Array, right: Array | None = None, *, first: tuple[int, int] = (0, 0)) -> Array:
        return self._checked([each.of_all(left, right) for each in self._products], first)

    def evaluate_pairs(self, left: Array, right: Array | None = None, *, first: tuple[int, int] = (0, 0)) -> Array:
        return self._checked([each.of_pairs(left, right) for each in self._products], first)

    def interrupt(self) -> None:
        for each in self._products:
            each.stopped = True

    def _checked(self, found: list[Array], first: tuple[int, int]) -> Array:
        with np.errstate(over="ignore"):  # refused below
            values = np.array(found).astype(self._dtype)
        require_finite(values, first)
        return values
