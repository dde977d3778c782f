"""Networks by name, each with its source."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral

from cntk_pipeline.errors import LayerError
from cntk_pipeline.inputs import is_number, short_repr
from cntk_pipeline.layers.aggregation import Aggregate
from cntk_pipeline.layers.arguments import as_plain, require_count, require_truth, told_what_fits
from cntk_pipeline.layers.attention import Attend
from cntk_pipeline.layers.base import Layer, read_pair
from cntk_pipeline.layers.branches import Repeat
from cntk_pipeline.layers.linear import Conv, Dense, Rescale
from cntk_pipeline.layers.normalization import LayerNorm
from cntk_pipeline.layers.pooling import AvgPool, Flatten, GlobalAvgPool, GlobalSumPool, LocalAvgPool
from cntk_pipeline.layers.positions import PositionalEmbedding
from cntk_pipeline.layers.rectifiers import Relu
from cntk_pipeline.layers.residual import Identity, Residual
from cntk_pipeline.layers.sequential import Sequential

SQRT_2 = 2**0.5

_NO_WIDTH = "All widths are infinite and not given; deviations are given by name, as w_std=2**0.5"

_MYRTLE_BLOCKS = {5: (2, 1, 1), 7: (2, 2, 2), 10: (3, 3, 3)}


@told_what_fits(_NO_WIDTH)
def cntk(depth: int, pooling: str = "flatten", *, trained_ends: bool | None = None) -> Sequential:
    """Build the convolutional network of Arora et al. 2019 (arXiv:1904.11955), with the original code's values.

    ``depth - 1`` convolutions of 3 x 3 with ReLU after each, then a linear read-out. The original code sums over
    input channels, and without pooling over positions too, where the NTK parameterisation divides; `Rescale`
    makes the values equal. Read-outs of all depths and poolings with equal ``trained_ends`` share one pass.

    Parameters
    ----------
    depth : int
        Number of convolutions plus one; the paper uses 3, 4, 6, 11, 21.
    pooling : str
        "flatten" (CNTK-V), "gap" (CNTK-GAP), or "lap4" for local average pooling with radius 4 and likewise with any
        other (Li et al. 2019, arXiv:1911.00809).
    trained_ends : bool, optional
        Whether the first convolution and the last layer are trained. By default the paper's choice: trained for
        "flatten", fixed for "gap" (its appendix H); and fixed for local pooling, which thus shares the pass of "gap".

    Raises
    ------
    LayerError
        If depth is below 2 or the pooling is unknown.
    """
    depth = require_count("cntk counts convolutions plus one: depth", depth, 2)
    flat = pooling == "flatten"
    trained = flat if trained_ends is None else trained_ends
    body: list[Layer] = []
    for position in range(depth - 1):
        body += [Conv(3, w_std=SQRT_2, trained=trained or position > 0), Relu()]
    head = [Rescale("pixels")] if flat else []
    return Sequential(Rescale("channels"), *body, *head, *_join("cntk", pooling), Dense(trained=trained))


@told_what_fits(_NO_WIDTH)
def fully_connected(depth: int, *, w_std: float = SQRT_2, b_std: float = 0.0) -> Sequential:
    """Build a ReLU network of dense layers, all trained (Jacot et al. 2018, arXiv:1806.07572; Lee et al. 2019).

    Parameters
    ----------
    depth : int
        Number of dense layers, the linear read-out included; images are flattened first.
    w_std, b_std : float
        Standard deviations of the hidden layers' weights and biases; the read-out has w_std 1 and the same b_std.

    Raises
    ------
    LayerError
        If depth is below 1.
    """
    depth = require_count("fully_connected counts dense layers: depth", depth)
    body: list[Layer] = []
    for _ in range(depth - 1):
        body += [Dense(w_std=w_std, b_std=b_std), Relu()]
    return Sequential(Flatten(), *body, Dense(b_std=b_std))


@told_what_fits(_NO_WIDTH)
def myrtle(depth: int, pooling: str = "gap", *, w_std: float = SQRT_2, b_std: float = 0.0) -> Sequential:
    """Build Myrtle-5, -7 or -10 (Shankar et al. 2020, arXiv:2003.02237).

    Three blocks of 2, 1, 1 or 2, 2, 2 or 3, 3, 3 convolutions of 3 x 3 with ReLU after each, an average pooling of
    2 x 2 after each block. On 32 x 32 pixels "gap" is the two further such poolings of the original.

    Parameters
    ----------
    depth : int
        Number of convolutions plus one: 5, 7 or 10.
    pooling : str
        "gap", "flatten", or "lap4" and likewise, of the third block's output.
    w_std, b_std : float
        Standard deviations of the weights and biases of the convolutions; the read-out has w_std 1 and the same b_std.

    Raises
    ------
    LayerError
        If there is no such depth or pooling.
    """
    if not isinstance(depth, Integral) or depth not in _MYRTLE_BLOCKS:
        raise LayerError(f"myrtle: depth must be one of {', '.join(map(str, _MYRTLE_BLOCKS))}, got {short_repr(depth)}")
    body: list[Layer] = []
    for count in _MYRTLE_BLOCKS[depth]:
        body += [Conv(3, w_std=w_std, b_std=b_std), Relu()] * count
        body.append(AvgPool(2))
    return Sequential(*body, *_join("myrtle", pooling), Dense(b_std=b_std))


@told_what_fits(_NO_WIDTH)
def resnet(depth: int, pooling: str = "gap", *, w_std: float = SQRT_2, b_std: float = 0.0) -> Sequential:
    """Build a residual network for small images (He et al. 2016a, arXiv:1512.03385, section 4.2), pre-activation.

    A convolution; three groups of n blocks at full, half and quarter resolution, each two convolutions of 3 x 3 with
    ReLU before each (He et al. 2016b, arXiv:1603.05027), since ReLU has a closed form for Gaussian inputs only; ReLU.
    Shortcuts are the identity, and a convolution of 1 x 1 with stride 2 where the resolution halves (option B). There
    is no batch normalisation.

    Parameters
    ----------
    depth : int
        Number of layers on the longest path, 6 n + 2. The paper uses 20, 32, 44, 56, 110.
    pooling : str
        "gap", "flatten", or "lap4" and likewise.
    w_std, b_std : float
        Standard deviations of the weights and biases of the convolutions; the read-out has w_std 1 and the same b_std.

    Raises
    ------
    LayerError
        If depth is none of these or the pooling is unknown.
    """
    blocks = _count_blocks("resnet", depth, 2)
    body: list[Layer] = [Conv(3, w_std=w_std, b_std=b_std)]
    for group in range(3):
        if group:
            body.append(_block(2, Conv(1, strides=2, w_std=w_std, b_std=b_std), w_std, b_std))
        body += [_block(1, Identity(), w_std, b_std)] * (blocks - (group > 0))
    return Sequential(*body, Relu(), *_join("resnet", pooling), Dense(b_std=b_std))


@told_what_fits(_NO_WIDTH)
def wide_resnet(depth: int, pooling: str = "gap", *, w_std: float = 1.0, b_std: float = 0.0) -> Sequential:
    """Build a wide residual network (Zagoruyko and Komodakis 2016, arXiv:1605.07146) as in neural-tangents' README.

    As `resnet`, but the shortcut of the first block of every group is a convolution of 3 x 3, and there is no ReLU
    before the pooling. Its width is infinite, so that there is no factor to choose.

    Parameters
    ----------
    depth : int
        Number of convolutions, shortcuts included, 6 n + 4 for n blocks in each group. The paper uses 16, 22, 28, 40.
    pooling : str
        "gap", "flatten", or "lap4" and likewise.
    w_std, b_std : float
        Standard deviations of the weights and biases of the convolutions; the read-out has w_std 1 and the same b_std.
        The default is neural-tangents'.

    Raises
    ------
    LayerError
        If depth is none of these or the pooling is unknown.
    """
    blocks = _count_blocks("wide_resnet", depth, 4)
    body: list[Layer] = [Conv(3, w_std=w_std, b_std=b_std)]
    for strides in (1, 2, 2):
        body.append(_block(strides, Conv(3, strides=strides, w_std=w_std, b_std=b_std), w_std, b_std))
        body += [_block(1, Identity(), w_std, b_std)] * (blocks - 1)
    return Sequential(*body, *_join("wide_resnet", pooling), Dense(b_std=b_std))


@told_what_fits(_NO_WIDTH)
def cnn_gp(
    depth: int,
    pooling: str = "flatten",
    *,
    filter_shape: int | tuple[int, int] = 7,
    var_w: float = 2.79,
    var_b: float = 7.86,
) -> Sequential:
    """Build the ConvNet GP of Garriga-Alonso et al. 2019 (arXiv:1808.05587), which is meant for ``kinds = ["nngp"]``.

    ``depth - 1`` convolutions with ReLU after each, then a convolution with a filter of the image's size, which is
    `Flatten` and `Dense`. Novak et al. 2019 (arXiv:1810.05148) compare this with "gap".

    Parameters
    ----------
    depth : int
        Number of convolutions, the last included; 8 is the paper's for MNIST.
    pooling : str
        "flatten", "gap", or "lap4" and likewise.
    filter_shape : int or (int, int)
        Side of the filters of all convolutions but the last.
    var_w, var_b : float
        Variances of the weights, times the number of input channels, and of the biases. The variance of the last
        filter's weights is divided by its pixels too, as in the paper's code. The defaults are those that the paper
        found by random search on MNIST.

    Raises
    ------
    LayerError
        If depth is below 1, the pooling is unknown, or a variance is negative.
    """
    depth = require_count("cnn_gp counts convolutions: depth", depth)
    for name, value in (("var_w", var_w), ("var_b", var_b)):
        if not is_number(value) or not 0 <= value < float("inf"):
            raise LayerError(f"cnn_gp needs a finite {name} >= 0, got {short_repr(value)}")
    var_w, var_b = as_plain(var_w), as_plain(var_b)
    height, width = read_pair("filter_shape", filter_shape)
    # In the NTK parameterisation w_std**2 is the sum over the window; var_w is a single weight's.
    conv = Conv(filter_shape, w_std=(height * width * var_w) ** 0.5, b_std=var_b**0.5)
    body = [conv, Relu()] * (depth - 1)
    return Sequential(*body, *_join("cnn_gp", pooling), Dense(w_std=var_w**0.5, b_std=var_b**0.5))


@told_what_fits(_NO_WIDTH)
def transformer(
    depth: int,
    pooling: str = "gap",
    *,
    patch: int | tuple[int, int] = 4,
    position_std: float = 0.0,
    w_std: float = 1.0,
    b_std: float = 0.0,
) -> Sequential:
    """Build the Transformer of Yang 2020 (arXiv:2006.14548), whose tokens are patches of an image.

    A block is a layer of weights, attention whose skip connection carries the same values, layer norm, a residual
    branch of two layers with ReLU between them, and layer norm. The weights of the first block look at patches. The
    paper's own tokens are pixels, ``patch = 1``. Time and memory of a pair grow with the third and the second power of
    the number of tokens.

    Parameters
    ----------
    depth : int
        Number of blocks.
    pooling : str
        "gap", the mean over tokens, is the paper's; or "flatten", or "lap4" and likewise.
    patch : int or (int, int)
        Side of a patch in pixels, or height and width. What is left over at the right and below is not read.
    position_std : float
        Standard deviation of an embedding of the position that is added to each token. The paper has none: with 0, the
        order of the tokens changes nothing under "gap".
    w_std, b_std : float
        Standard deviations of the blocks' weights and biases; the read-out has w_std 1 and the same b_std. The logits
        of attention are proportional to ``w_std**2``.

    Raises
    ------
    LayerError
        If depth is below 1, the pooling is unknown, or a number is none of its kind.
    """
    depth = require_count("transformer counts blocks: depth", depth)
    weights = Dense(w_std=w_std, b_std=b_std)
    tokens = Conv(patch, strides=patch, padding="VALID", w_std=w_std, b_std=b_std)
    positions = PositionalEmbedding(w_std=position_std)
    feed = Residual(Sequential(weights, Relu(), weights))
    body: list[Layer] = []
    for block in range(depth):
        body += [weights] if block else [tokens, *([positions] if position_std else [])]
        body += [Attend(plus_identity=True), LayerNorm(), feed, LayerNorm()]
    return Sequential(*body, *_join("transformer", pooling), Dense(b_std=b_std))


@told_what_fits(_NO_WIDTH)
def gntk(
    depth: int, pooling: str = "sum", *, dense_layers: int = 1, scaling: str = "sum", jump: bool = False
) -> Sequential:
    """Build the graph network of Du et al. 2019 (arXiv:1905.13192), with the original code's values.

    Blocks of a sum over neighbours and ``dense_layers`` dense layers, with ReLU before each, then the sum over all
    nodes, twice. The original code takes sums over features, and calls ``depth + 1`` its number of layers.

    Parameters
    ----------
    depth : int
        Number of blocks.
    pooling : str
        "sum" or "mean" over nodes; the paper's is "sum".
    dense_layers : int
        In each block.
    scaling : str
        Of `Aggregate`.
    jump : bool
        Jumping knowledge: the read-out sees the input and what is behind each block.

    Raises
    ------
    LayerError
        If depth or dense_layers are below 1, or pooling or scaling are unknown.
    """
    depth, dense_layers = require_count("gntk: depth", depth), require_count("gntk: dense_layers", dense_layers)
    if pooling not in ("sum", "mean"):
        raise LayerError(f'gntk knows pooling "sum" and "mean", got {short_repr(pooling)}')
    require_truth("gntk: jump", jump)
    block = Sequential(Aggregate(scaling), *[Relu(), Dense(w_std=SQRT_2)] * dense_layers)
    join = GlobalSumPool() if pooling == "sum" else GlobalAvgPool()
    blocks: tuple[Layer, ...] = (Repeat(block, depth, jump=True),) if jump else (block,) * depth
    return Sequential(Rescale("channels"), Dense(), *blocks, join, Rescale(2.0))


def _join(preset: str, pooling: object) -> tuple[Layer, ...]:
    """Make a vector of an image as ``pooling`` says."""
    if pooling == "flatten":
        return (Flatten(),)
    if pooling == "gap":
        return (GlobalAvgPool(),)
    if isinstance(pooling, str) and re.fullmatch("lap[0-9]{1,4}", pooling):
        return LocalAvgPool(int(pooling[3:])), Flatten()
    told = f". {_NO_WIDTH}" if isinstance(pooling, int | float) else ""
    raise LayerError(
        f'{preset} knows pooling "flatten", "gap", and "lap4" or likewise with another radius, '
        f"got {short_repr(pooling)}{told}"
    )


def _count_blocks(preset: str, depth: object, others: int) -> int:
    """Return n where ``depth`` is ``6 n + others``."""
    count = int(depth) if isinstance(depth, Integral) else 0
    if count <= others or (count - others) % 6:
        possible = ", ".join(str(6 * n + others) for n in range(1, 5))
        raise LayerError(f"{preset}: depth must be 6 n + {others}, one of {possible}, ..., got {short_repr(depth)}")
    return (count - others) // 6


def _block(strides: int, shortcut: Layer, w_std: float, b_std: float) -> Residual:
    """Build the two pre-activated convolutions that residual networks are made of."""
    first, second = (Conv(3, strides=step, w_std=w_std, b_std=b_std) for step in (strides, 1))
    return Residual(Sequential(Relu(), first, Relu(), second), shortcut)


@dataclass(frozen=True)
class Preset:
    """A family of networks in the table of presets.

    Attributes
    ----------
    build : callable
        Makes a member; its first argument is the depth. It refuses what it cannot make.
    options : tuple of str
        Names of further arguments that a workflow file may give.
    poolings : tuple of str
        Values of the argument ``pooling``, the default first, N standing for a number; empty where the family has none.
    """

    build: Callable[..., Sequential]
    options: tuple[str, ...]
    poolings: tuple[str, ...] = ()


PRESETS = {
    "cntk": Preset(cntk, ("trained_ends",), ("flatten", "gap", "lapN")),
    "fully_connected": Preset(fully_connected, ("w_std", "b_std")),
    "myrtle": Preset(myrtle, ("w_std", "b_std"), ("gap", "flatten", "lapN")),
    "resnet": Preset(resnet, ("w_std", "b_std"), ("gap", "flatten", "lapN")),
    "wide_resnet": Preset(wide_resnet, ("w_std", "b_std"), ("gap", "flatten", "lapN")),
    "cnn_gp": Preset(cnn_gp, ("filter_shape", "var_w", "var_b"), ("flatten", "gap", "lapN")),
    "transformer": Preset(transformer, ("patch", "position_std", "w_std", "b_std"), ("gap", "flatten", "lapN")),
    "gntk": Preset(gntk, ("dense_layers", "scaling", "jump"), ("sum", "mean")),
}
