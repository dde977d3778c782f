"""Which positions inside a network are there, where inputs have absent ones, and how positions are weighed."""

from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from cntk_pipeline.layers.windows import Windows

Array = np.ndarray


@dataclass(frozen=True)
class Lattice:
    """Some pixels of an image: from ``first`` on every ``step``-th, down and right."""

    first: tuple[int, int] = (0, 0)
    step: tuple[int, int] = (1, 1)

    def behind(self, rows: Windows, columns: Windows) -> "Lattice":
        """Return the pixels in the middle of windows over these ones; of an even window, the one before the middle."""
        middles = [(windows.window - 1) // 2 - windows.before for windows in (rows, columns)]
        first = tuple(f + s * m for f, s, m in zip(self.first, self.step, middles, strict=True))
        step = tuple(s * windows.stride for s, windows in zip(self.step, (rows, columns), strict=True))
        return Lattice((first[0], first[1]), (step[0], step[1]))


@dataclass(frozen=True)
class Presence:
    """Which pixels of an input tell whether the positions of an image inside a network are there.

    A position behind a window is there where the middle of the window is. So each position has a pixel that tells. A
    sum of branches whose windows lie otherwise has several; the position is there where one of them is.

    Attributes
    ----------
    anywhere : bool
        Whether any pixel may be absent; otherwise they are steps, and absent ones lie behind all others.
    lattices : tuple of Lattice
        The pixels that tell.
    at_end : bool
        Whether sequences lie with their last steps below each other, and absent ones before all others.
    """

    anywhere: bool
    lattices: tuple[Lattice, ...] = (Lattice(),)
    at_end: bool = False

    def behind(self, rows: Windows, columns: Windows) -> "Presence":
        """Return the presence of what windows over these positions make."""
        return replace(self, lattices=tuple(lattice.behind(rows, columns) for lattice in self.lattices))

    def either(self, other: "Presence") -> "Presence":
        """Return the presence of a sum of two branches."""
        new = tuple(lattice for lattice in other.lattices if lattice not in self.lattices)
        return replace(self, lattices=self.lattices + new)

    def select(self, of_input: Array, size: tuple[int, int]) -> Array:
        """Read which of the positions are there.

        Parameters
        ----------
        of_input : bool array, (n, H, W)
            True at pixels that are there.
        size : (int, int)
            Height and width of the image inside the network.

        Returns
        -------
        bool array, (n, *size)
        """
        found = []
        for lattice in self.lattices:
            slices = (slice(f, f + s * count, s) for f, s, count in zip(lattice.first, lattice.step, size, strict=True))
            found.append(of_input[:, *slices])
        return reduce(np.logical_or, found)


@dataclass(frozen=True)
class Gate:
    """How the positions of an input are weighed.

    Attributes
    ----------
    weights : str
        As of `Graph.gate`; or "share", one divided by the positions of a window that are there, 0 without any.
    present : Presence
        Which positions are there; of "share", those before the windows.
    windows : (Windows, Windows), optional
        Along rows and along columns; for weights "share" alone.
    """

    weights: str
    present: Presence
    windows: tuple[Windows, Windows] | None = None

    def evaluate(self, of_input: Array, size: tuple[int, int]) -> Array:
        """Evaluate the weights, (n, *size) float64; ``of_input``, (n, H, W) bool, says which pixels are there."""
        if self.windows is not None:
            rows, columns = self.windows
            flags = self.present.select(of_input, (rows.size, columns.size)).astype(np.float64)
            counts = rows.weights() @ flags @ columns.weights().T
            return np.asarray((counts > 0) / np.maximum(counts, 1))
        flags = self.present.select(of_input, size).astype(np.float64)
        counts = np.maximum(flags.sum((1, 2), keepdims=True), 1)
        if self.weights == "last":
            return np.asarray(flags * (np.cumsum(flags, 2) == counts))
        return np.asarray(flags / {"present": 1.0, "mean": counts, "root": np.sqrt(counts)}[self.weights])
