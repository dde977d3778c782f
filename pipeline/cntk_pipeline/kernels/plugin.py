"""The engine that calls a function of the user's, for kernels and networks that this package does not know."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from cntk_pipeline.config.section import Place, Section
from cntk_pipeline.errors import ConfigError, LayerError
from cntk_pipeline.kernels import plugin_code
from cntk_pipeline.kernels.base import Engine, Evaluator, Question, mirror_lower, require_finite
from cntk_pipeline.kernels.program import Array
from cntk_pipeline.kernels.timing import PairCost, time_call
from cntk_pipeline.layers import Layer
from cntk_pipeline.layers.normalization import find_dropout

SYMMETRIC = 1e-3
"""Largest difference of K(x, z) and K(z, x), as a share of the largest value: rounding in float32 stays far below."""


class PluginOptions(Section):
    """The keys of ``engine = "plugin"``.

    Attributes
    ----------
    plugin : str
        The function, as "module:function"; docs/extending.md says what it is given and what it returns.
    plugin_folder : str, optional
        The folder that holds the one file of the module, relative to the folder in which the command is typed; without
        it, the module is an installed one.
    plugin_digest : str, optional
        Sha256 of the source; another source is refused. By default any source begins a run, and the run keeps its
        digest.
    plugin_block : int
        Images on each side of the blocks that the function is given. Blocks always have this size, so that its values
        need not be the same in blocks of all sizes; the last image is repeated where images are missing.
    """

    plugin: str = ""
    plugin_folder: Place | None = None
    plugin_digest: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    plugin_block: int = Field(default=32, ge=1, le=4096)


class PluginEngine(Engine):
    """Calls a function that was loaded before, for blocks of one size.

    Raises
    ------
    LayerError
        If flips are asked for, or the network has a `Dropout`.
    NotTrusted
        If the function was not loaded by the user's word: this class imports nothing.
    """

    numerics_version: ClassVar[int] = 1
    options_type: ClassVar[type[Section]] = PluginOptions

    def __init__(self, question: Question, options: Section | None = None) -> None:
        super().__init__(question, options)
        if question.flips:
            raise LayerError('the engine "plugin" averages over no flips: leave flips out, or average in the function')
        if not question.readouts:
            raise LayerError("an engine needs at least one read-out, got none")
        for network, _ in question.readouts:
            _require_no_dropout(network)
        asked = _require_named(options)
        self._name = asked.plugin
        self._function = plugin_code.loaded_function(asked.plugin, asked.plugin_digest or "")
        self.lane_width = asked.plugin_block

    @classmethod
    def load_code(cls, options: Section) -> Section:
        asked = _require_named(options)
        digest = plugin_code.load_function(asked.plugin, asked.plugin_folder, asked.plugin_digest)
        # The folder is left out: it is another one on another machine, and the digest says which code it is.
        return asked.model_copy(update={"plugin_digest": digest, "plugin_folder": None})

    def evaluator(self) -> "PluginEvaluator":
        return PluginEvaluator(self.question, self._name, self._function, self.lane_width)

    def working_bytes(self, tile: int) -> int:
        # What the function itself takes is known to its author alone.
        edge, itemsize = self.lane_width, np.dtype(self.question.dtype).itemsize
        image = int(np.prod(self.question.input_shape)) * itemsize
        return 2 * edge * image + len(self.question.readouts) * edge**2 * 8

    def measure(self, sample: Array) -> PairCost:
        edge, evaluator = self.lane_width, self.evaluator()
        block = sample[np.arange(edge) % len(sample)]
        evaluator.evaluate(block, block)  # the first call may compile
        return PairCost(time_call(lambda: evaluator.evaluate(block, block)) / edge**2, 1.0)

    def check(self, sample: Array) -> None:
        images = sample[: max(self.lane_width, 2)]
        evaluator, back = self.evaluator(), np.s_[:, ::-1, ::-1]
        whole = evaluator.evaluate(images, images)
        turned = evaluator.evaluate(images[::-1], images[::-1])[back]
        self._require_same(whole, turned, "the images are in the opposite order")
        alone = evaluator.evaluate(images[-1:], images[:1])
        self._require_same(whole[:, -1:, :1], alone, "the pair is in a block by itself")
        own = np.stack([np.diagonal(values) for values in whole])[:, :, None]
        self._require_same(own, evaluator.evaluate_pairs(images)[:, :, None], "only the diagonal is asked for")
        difference, largest = (np.abs(values).max(axis=(1, 2)) for values in (whole - whole.mT, whole))
        bad = np.flatnonzero(difference > SYMMETRIC * largest)
        if len(bad):
            share = difference[bad[0]] / largest[bad[0]]
            raise ConfigError(
                f"the plugin {self._name} is not symmetric: K(x, z) and K(z, x) differ by {share:.2g} of the largest "
                "value. Of K(train, train) only one of both is computed"
            )

    def _require_same(self, whole: Array, cut: Array, how: str) -> None:
        bad = np.argwhere(whole != cut)
        if len(bad):
            place = tuple(bad[0])
            raise ConfigError(
                f"the plugin {self._name} computes {whole[place]!r} for a pair of images, and {cut[place]!r} where "
                f"{how}: a value must depend on its two images alone, bit for bit, or tiles do not fit each other. "
                "Draw no random numbers, take no statistics of a batch, and compute each image by itself or in "
                "batches of one size; kernel.plugin_block = 1 gives the function one pair at a time"
            )


class PluginEvaluator(Evaluator):
    """Cuts images into blocks of one size, and calls the function for each.

    Parameters
    ----------
    question : Question
        What is asked.
    name : str
        Of the function, for errors.
    function : callable
        Of the user.
    edge : int
        Images of a block.
    """

    def __init__(self, question: Question, name: str, function: plugin_code.Function, edge: int) -> None:
        self._question, self._name, self._function, self._edge = question, name, function, edge
        self._stopped = False
        self._cause = f"the plugin {name} returned it, and its values must be finite in {question.dtype}"

    @property
    def is_masked(self) -> bool:
        return False

    def evaluate(self, left: Array, right: Array | None = None, *, first: tuple[int, int] = (0, 0)) -> Array:
        others, edge = left if right is None else right, self._edge
        values = np.empty((len(self._question.readouts), len(left), len(others)), self._question.dtype)
        for top in range(0, len(left), edge):
            for start in range(0, len(others), edge):
                if right is None and start > top:
                    continue
                found = self._block(left[top : top + edge], others[start : start + edge])
                values[:, top : top + edge, start : start + edge] = found
        if right is None:
            mirror_lower(values)
        require_finite(values, first, self._cause)
        return values

    def evaluate_pairs(self, left: Array, right: Array | None = None, *, first: tuple[int, int] = (0, 0)) -> Array:
        others, edge = left if right is None else right, self._edge
        values = np.empty((len(self._question.readouts), len(left)), self._question.dtype)
        for top in range(0, len(left), edge):
            found = self._block(left[top : top + edge], others[top : top + edge])
            values[:, top : top + edge] = np.einsum("rii->ri", found)
        require_finite(values, first, self._cause)
        return values

    def interrupt(self) -> None:
        self._stopped = True

    def _block(self, left: Array, right: Array) -> Array:
        """Evaluate the pairs of two blocks, which are filled up to the edge."""
        x, z = (self._filled(images) for images in (left, right))
        values = np.zeros((len(self._question.readouts), len(left), len(right)), self._question.dtype)
        for number, (network, kind) in enumerate(self._question.readouts):
            if self._stopped:
                break
            try:
                with plugin_code.LOCK:
                    given = self._function(x, z, network=network, kind=kind)
                    found = np.asarray(given)
            except MemoryError:
                raise
            except (Exception, SystemExit) as error:  # of any class: the code is the user's
                raise ConfigError(f"the plugin {self._name} failed: {plugin_code.told(error)}") from error
            is_masked = isinstance(given, np.ma.MaskedArray)
            if found.shape != (len(x), len(z)) or found.dtype.kind not in "fiu" or is_masked:
                raise ConfigError(
                    f"the plugin {self._name} must return an array of {(len(x), len(z))} real numbers for "
                    f"{len(x)} and {len(z)} images, got {'a masked one of ' if is_masked else ''}shape {found.shape} "
                    f"and dtype {found.dtype}"
                )
            with np.errstate(over="ignore"):  # refused by the caller
                values[number] = found[: len(left), : len(right)]
        return values

    def _filled(self, images: Array) -> Array:
        chosen = np.minimum(np.arange(self._edge), len(images) - 1)
        block = np.ascontiguousarray(images[chosen], self._question.dtype)
        block.setflags(write=False)
        return block


def _require_no_dropout(network: Layer) -> None:
    dropout = find_dropout(network)
    if dropout is not None:
        raise LayerError(
            f'{dropout} draws a mask for each sample, and the engine "plugin" does not tell its function which images '
            "are one sample: leave it out"
        )


def _require_named(options: Section | None) -> PluginOptions:
    if not isinstance(options, PluginOptions) or not options.plugin:
        raise ConfigError(
            'engine = "plugin" computes by a function of yours: name it in the workflow as kernel.plugin = '
            '"module:function"'
        )
    return options
