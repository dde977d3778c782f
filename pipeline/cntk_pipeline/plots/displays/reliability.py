"""Whether probabilities can be trusted: the accuracy of test images by their confidence."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from cntk_pipeline.inference import Shown
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.systems import AskedReadout
from cntk_pipeline.plots.base import Display, counted
from cntk_pipeline.plots.chosen import known_labels, require_classes, the_system
from cntk_pipeline.plots.style import COLOURS, MUTED
from cntk_pipeline.regression.probabilities import calibration_error, confidence_bins
from cntk_pipeline.storage.tiled_array import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 15
"""Number of equal bins of confidence, as in Guo et al. 2017 (arXiv:1706.04599)."""


@dataclass(frozen=True)
class Reliability(Display):
    """Confidence against accuracy on the test images, in equal bins of the largest probability.

    Attributes
    ----------
    system : str
        Its name.
    counts : int64 array, (bins,)
        Numbers of test images in a bin.
    confidence, accuracy : float64 array, (bins,)
        Means over a bin; NaN of an empty one.
    error : float
        The expected calibration error, a share.
    negative_log_likelihood, brier_score : float
        Of the probabilities, as in `ProbabilityScores`.
    """

    system: str
    counts: Array
    confidence: Array
    accuracy: Array
    error: float
    negative_log_likelihood: float
    brier_score: float

    key = "reliability"
    title = "Probabilities"

    @classmethod
    def from_run(cls, run: OpenRun, readout: AskedReadout = None, ridge: float | None = None) -> Self:
        """Evaluate the probabilities of the test images of a system; see `Display.from_run`."""
        require_classes(run, "a probability")
        system, labels = the_system(run, readout, ridge), known_labels(run)
        calibrated, means = run.calibrated(system), run.predictions(system.readout, system.ridge)
        probabilities, scores = calibrated.of(means), calibrated.scores(means, labels)
        counts, confidence, hits = confidence_bins(probabilities, labels, BINS)
        shares = np.where(counts > 0, counts, np.nan)
        error = calibration_error(probabilities, labels, BINS)
        return cls(
            system.label, counts, confidence / shares, hits / shares, error,
            scores.negative_log_likelihood, scores.brier_score,
        )  # fmt: skip

    @property
    def alt(self) -> str:
        return (
            f"Reliability diagram of {self.system} on {counted(int(self.counts.sum()), 'test image')}: the expected "
            f"calibration error is {100 * self.error:.2f}%."
        )

    def draw(self, figure: "Figure") -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        width, centres = 1 / BINS, (np.arange(BINS) + 0.5) / BINS
        upper.plot([0, 1], [0, 1], color=MUTED, linestyle=":", label="confidence as accuracy")
        filled = self.counts > 0
        errors = np.sqrt(self.accuracy * (1 - self.accuracy) / np.maximum(self.counts, 1))[filled]
        upper.errorbar(
            self.confidence[filled], self.accuracy[filled], errors, color=COLOURS[0], marker="o", capsize=2,
            label=f"test images, error {100 * self.error:.2f}%",
        )  # fmt: skip
        upper.set_ylabel("accuracy")
        upper.set_ylim(-0.03, 1.03)
        upper.legend(loc="upper left")
        lower.bar(centres, self.counts, width * 0.9, color=COLOURS[0])
        lower.set_xlabel("confidence: the largest probability")
        lower.set_ylabel("images")
        lower.set_xlim(0, 1)

    def tables(self) -> tuple[Shown, ...]:
        rows = [
            (f"{k / BINS:.2f} to {(k + 1) / BINS:.2f}", f"{count:,}", f"{mean:.4f}", f"{rate:.4f}")
            for k, (count, mean, rate) in enumerate(zip(self.counts, self.confidence, self.accuracy, strict=True))
            if count
        ]
        title = (
            f"{self.system}: expected calibration error {100 * self.error:.2f}%, negative log-likelihood "
            f"{self.negative_log_likelihood:.4f}, Brier score {self.brier_score:.4f}"
        )
        return (Shown(title, ("test images", "mean confidence", "accuracy"), tuple(rows), first="confidence"),)
