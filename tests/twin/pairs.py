"""What the naive twin carries through a network."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cntk_pipeline.layers import Layer

Array = np.ndarray


@dataclass(frozen=True)
class Pairs:
    """What is known of images x, images z and all pairs of them somewhere in a network.

    Attributes
    ----------
    xx, zz : array
        Covariances of each image with itself, (n, H, W, H, W) and (m, H, W, H, W).
    xz : array
        Covariances of the pairs, (n, m, H, W, H, W).
    tangent : array
        The NTK of the pairs accumulated so far, (n, m, H, W, H, W).
    same : array
        Which pairs are a sample with itself, (n, m).
    channels : int or None
        Of the inputs so far; None where infinite.
    neighbours : (array, array), optional
        Of a pair of graphs, whose nodes are images of one column: the adjacency matrices of both, with 1 on the
        diagonal.
    """

    xx: Array
    zz: Array
    xz: Array
    tangent: Array
    same: Array
    channels: int | None
    neighbours: tuple[Array, Array] | None = None

    def map_covariances(self, function: Callable[[Array], Array]) -> "Pairs":
        """Apply a function to the covariances."""
        return replace(self, xx=function(self.xx), zz=function(self.zz), xz=function(self.xz))

    def map_all(self, function: Callable[[Array], Array]) -> "Pairs":
        """Apply a function to the covariances and the tangent."""
        return replace(self.map_covariances(function), tangent=function(self.tangent))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.xz.shape[-2:]


Step = Callable[[Pairs, Layer], Pairs]
"""What a layer does."""
