"""Where the windows of convolutions and poolings lie."""

from dataclasses import dataclass

import numpy as np

from cntk_pipeline.errors import LayerError
from cntk_pipeline.inputs import short_repr

PADDINGS = ("SAME", "VALID", "CIRCULAR")


@dataclass(frozen=True)
class Windows:
    """The windows of a layer along one axis: window k covers ``window`` positions from ``k stride - before``.

    Attributes
    ----------
    size : int
        Positions of the input.
    window, stride, before : int
        In positions; what lies outside the input is zero.
    count : int
        Windows, the size of the output.
    circular : bool
        Positions outside are those at the other end instead.
    part : str
        Of windows of two, which products of a position of each image are averaged: "like" first with first and second
        with second, "unlike" first with second, "" all four. Of a window that is cut to one position, each part is half
        of all.
    """

    size: int
    window: int
    stride: int
    before: int
    count: int
    circular: bool = False
    part: str = ""

    @classmethod
    def place(cls, size: int, window: int, stride: int, padding: str) -> "Windows":
        """Lay windows over an axis: "VALID" inside it; "SAME" and "CIRCULAR" one for each ``stride`` positions.

        With "SAME" and "CIRCULAR" windows reach outside by the least that suffices, the odd position at the end.

        Raises
        ------
        LayerError
            If no window fits.
        """
        if padding == "VALID":
            if window > size:
                raise LayerError(f"a window of {window} does not fit into {size} pixels: use padding SAME")
            return cls(size, window, stride, 0, (size - window) // stride + 1)
        count = -(-size // stride)
        outside = max((count - 1) * stride + window - size, 0)
        if padding == "CIRCULAR" and window > size:
            raise LayerError(f"a circular window of {window} meets itself on {size} pixels: use a smaller one")
        return cls(size, window, stride, outside // 2, count, padding == "CIRCULAR")

    @classmethod
    def single(cls, size: int) -> "Windows":
        """Lay a window of one position on each position."""
        return cls(size, 1, 1, 0, size)

    @classmethod
    def whole(cls, size: int) -> "Windows":
        """Lay one window over everything."""
        return cls(size, size, 1, 0, 1)

    def bounds(self, k: int) -> tuple[int, int]:
        """Return the first position of window ``k`` and the one behind its last, cut at the ends of the axis."""
        first = k * self.stride - self.before
        return max(first, 0), min(first + self.window, self.size)

    @property
    def is_symmetric(self) -> bool:
        """Whether the windows of the reversed axis are the reversed windows."""
        if self.circular:
            return self.window == 2 * self.before + 1 and self.size == self.count * self.stride and self.stride == 1
        return (self.count - 1) * self.stride + self.window == self.size + 2 * self.before

    def weights(self, normalize_edges: bool = False) -> np.ndarray:
        """Return the windows as a matrix, (count, size): 1 inside each window, 0 elsewhere.

        With ``normalize_edges`` each row is divided by its sum.
        """
        matrix = np.zeros((self.count, self.size))
        for k in range(self.count):
            begin, end = self.bounds(k)
            matrix[k, begin:end] = 1 / (end - begin) if normalize_edges else 1
        return matrix


def check_padding(padding: object, known: tuple[str, ...] = PADDINGS) -> None:
    """Refuse a padding that is not one of ``known``."""
    if padding not in known:
        raise LayerError(f"padding must be one of {', '.join(known)}, got {short_repr(padding)}")
