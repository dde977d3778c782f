"""The kernel of the training images as a picture, its rows in the order of classes, and its means over classes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from cntk_pipeline.errors import NotComputed
from cntk_pipeline.gram.tiles import kernel_group
from cntk_pipeline.inference import Shown
from cntk_pipeline.models import Json
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.systems import AskedReadout
from cntk_pipeline.opened.tiles import Stored, next_step
from cntk_pipeline.plots.base import Display, counted, plain, shortened
from cntk_pipeline.plots.records import readout_of_kernel, require_whole_kernel
from cntk_pipeline.plots.style import DENSE, MUTED
from cntk_pipeline.plots.tile_sample import Groups, Reading, TileSample, choose_rows, read_sample
from cntk_pipeline.storage.tiled_array import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIMIT_BYTES = 64 * 2**20
"""Largest number of bytes of tiles that are read."""

PICTURE_ROWS = 360
"""Largest number of rows of a picture. Neighbours in a noisy picture of more rows cannot be told apart."""

TARGET_GROUPS = 5
"""Number of groups of the images of a regression, of equal size."""

NAMED_GROUPS, TABLED_GROUPS, LISTED_PAIRS = 30, 12, 10
"""Numbers of groups up to which the axes bear names, and up to which all means are in a table; pairs listed beyond."""


@dataclass(frozen=True)
class KernelMatrix(Display):
    """The kernel of the training images, or of a sample of them.

    Attributes
    ----------
    readout : str
        Its name.
    groups : tuple of str
        Names of the classes; of a regression, of equal parts of the images by their first target.
    order : str
        Of the images, in words.
    rows : int64 array, (m,)
        The images of the picture.
    row_groups : int64 array, (m,)
        Their groups.
    reading : Reading
        The values.
    images, train : int
        Number of training images in the tiles that were read, and of all.
    """

    readout: str
    groups: tuple[str, ...]
    order: str
    rows: Array
    row_groups: Array
    reading: Reading
    images: int
    train: int

    key = "kernel_matrix"
    title = "The kernel"

    @classmethod
    def from_run(
        cls,
        run: OpenRun,
        readout: AskedReadout = None,
        ridge: float | None = None,
        limit_bytes: int = LIMIT_BYTES,
    ) -> Self:
        """Read tiles of the kernel of a read-out, by default of the best; see `Display.from_run`.

        Parameters
        ----------
        limit_bytes : int
            Largest number of bytes of tiles that are read. A larger kernel is shown by a sample: tiles among evenly
            spaced blocks of the training images.
        """
        require_whole_kernel(run)
        name = readout_of_kernel(run, readout)
        group = kernel_group(run.directory)
        kernel, variance = (Stored.of(group, f"{name}/{part}") for part in ("train", "train_variance"))
        sample, groups = TileSample.within(kernel, variance, limit_bytes), groups_of(run)
        rows = choose_rows(groups, sample.images, PICTURE_ROWS)
        reading = read_sample(sample, groups, rows)
        if reading.missing == reading.tiles:
            raise NotComputed(f"{run.path}: no tile of {name} is computed yet. {next_step(run.directory)}")
        return cls(
            name, groups.names, groups.said, rows, groups.of[rows], reading, len(sample.images), kernel.spec.shape[0]
        )

    @property
    def value(self) -> str:
        """What the values are."""
        return "correlation" if self.reading.normalised else "K(x, y)"

    @property
    def alike(self) -> tuple[float, float]:
        """The means over all pairs of images in one group, and in two; NaN where there are none."""
        own = np.eye(len(self.groups), dtype=bool)
        return self._mean(own), self._mean(~own)

    def _mean(self, chosen: Array) -> float:
        """Average over the pairs of images in some pairs of groups, ``(g, g)`` bool."""
        pairs = np.where(chosen, self.reading.pairs, 0.0)
        return float(np.nansum(self.reading.means * pairs) / pairs.sum()) if pairs.any() else float("nan")

    @property
    def alt(self) -> str:
        own, others = self.alike
        text = f"The kernel {self.readout} of {self._said_images()}, {self.order}."
        if np.isfinite(own):
            text += f" The mean {self.value} of two images is {own:.3g} within a group"
            text += f" and {others:.3g} between groups." if np.isfinite(others) else "."
        return text + (f" {self._said_gaps()}." if self.reading.missing else "")

    def _said_images(self) -> str:
        if self.images == self.train:
            return counted(self.train, "training image")
        return f"{self.images:,} of {counted(self.train, 'training image')}"

    def _said_gaps(self) -> str:
        return (
            f"{self.reading.missing:,} of {counted(self.reading.tiles, 'tile')} are not computed yet and are left grey"
        )

    @property
    def height(self) -> float:
        return 5.2

    def draw(self, figure: "Figure") -> None:
        import matplotlib

        axes, picture = figure.add_subplot(), self.reading.picture
        beside = picture[~np.eye(len(picture), dtype=bool)]
        beside = beside[np.isfinite(beside)]
        # Images are most alike to themselves: without the diagonal, and the last per cent, contrasts are visible.
        low, high = np.quantile(beside if beside.size else picture[np.isfinite(picture)], (0.01, 0.99))
        colours = matplotlib.colormaps[DENSE].with_extremes(bad=MUTED)
        image = axes.imshow(picture, cmap=colours, vmin=low, vmax=high, interpolation="none")
        axes.grid(False)
        present, begins, counts = np.unique(self.row_groups, return_index=True, return_counts=True)
        if 1 < len(present) <= NAMED_GROUPS:
            names = shortened([self.groups[k] for k in present])
            middles = begins + (counts - 1) / 2
            axes.set_yticks(middles, names)
            # The picture is symmetric: long names stand once.
            axes.set_xticks(middles, names if max(map(len, names)) <= 2 else [""] * len(names))
        else:
            axes.set_xticks([])
            axes.set_yticks([])
        axes.set_xlabel(f"{counted(len(self.rows), 'training image')}, {self.order}")
        label = "K(x, y) / sqrt(K(x, x) K(y, y))" if self.reading.normalised else "K(x, y)"
        figure.colorbar(image, ax=axes, label=label, shrink=0.8, extend="both")
        if self.reading.missing:
            axes.set_title(self._said_gaps())

    def tables(self) -> tuple[Shown, ...]:
        own, others = self.alike
        said = f"over the pairs in {self._said_images()}"
        kinds = [("within a group", own), ("between two groups", others)]
        rows = [(kind, f"{mean:.4g}") for kind, mean in kinds if np.isfinite(mean)]
        found = [Shown(f"mean {self.value} of two images, {said}", ("mean",), tuple(rows), first="pairs")]
        if 1 < len(self.groups) <= TABLED_GROUPS:
            cells = [
                (
                    name,
                    *(
                        "" if np.isnan(mean) else f"{mean:.3f}" if self.reading.normalised else f"{mean:.4g}"
                        for mean in means
                    ),
                )
                for name, means in zip(self.groups, self.reading.means, strict=True)
            ]
            found.append(Shown(f"mean {self.value} of groups", self.groups, tuple(cells), first="group"))
        elif len(self.groups) > TABLED_GROUPS:
            found.append(Shown("groups most alike", ("and", f"mean {self.value}"), self._most_alike(), first="group"))
        return tuple(found)

    def _most_alike(self) -> tuple[tuple[str, str, str], ...]:
        """List the pairs of different groups with the largest means."""
        below = np.where(np.tri(len(self.groups), k=-1, dtype=bool), self.reading.means, np.nan)
        order = [k for k in np.argsort(-below, axis=None)[:LISTED_PAIRS] if np.isfinite(below.flat[k])]
        places = [divmod(int(k), len(self.groups)) for k in order]
        return tuple((self.groups[col], self.groups[row], f"{below[row, col]:.4g}") for row, col in places)

    def to_json(self) -> Json:
        """Return the numbers of the tables; the values of the picture are in ``kernel.zarr``."""
        own, others = self.alike
        return {
            "readout": self.readout,
            "value": self.value,
            "groups": list(self.groups),
            "order": self.order,
            "means": plain(self.reading.means),
            "within": plain(own),
            "between": plain(others),
            "rows": plain(self.rows),
            "images": self.images,
            "train": self.train,
            "missing_tiles": self.reading.missing,
        }


def groups_of(run: OpenRun) -> Groups:
    """Group the training images by class, or by the first target; with several classes an image they are one group."""
    data = run.directory.specification.data
    labels = np.asarray(run.labels.train)
    if data.task == "classification":
        return Groups(run.classes, "by class", labels.astype(np.int64), np.arange(len(labels)))
    if data.task != "regression":
        return Groups(("all",), "in their stored order", np.zeros(len(labels), np.int64), np.arange(len(labels)))
    order = np.argsort(labels[:, 0], kind="stable")
    parts = np.array_split(order, min(TARGET_GROUPS, len(order)))
    of = np.empty(len(labels), np.int64)
    for group, images in enumerate(parts):
        of[images] = group
    ends = [(labels[images[0], 0], labels[images[-1], 0]) for images in parts]
    return Groups(tuple(f"{low:.2g} to {high:.2g}" for low, high in ends), "by target", of, labels[:, 0])
