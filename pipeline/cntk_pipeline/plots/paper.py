"""The accuracies of Arora et al. 2019 (arXiv:1904.11955), table 1: CNTKs on CIFAR-10."""

from dataclasses import dataclass

from cntk_pipeline.datasets.cifar10_layouts import CLASSES
from cntk_pipeline.layers import presets, spelling
from cntk_pipeline.rundir.specification import Specification

DEPTHS = (3, 4, 6, 11, 21)

ACCURACIES = {
    ("CNTK-V", 50000): (64.47, 65.52, 66.03, 65.90, 64.09),
    ("CNTK-V", 2000): (40.94, 42.54, 43.43, 43.42, 42.53),
    ("CNTK-GAP", 50000): (70.47, 75.93, 76.73, 77.43, 77.08),
    ("CNTK-GAP", 2000): (49.71, 51.06, 51.73, 51.92, 52.22),
}
"""Per cent, by kernel and number of training images, at each depth."""

POOLINGS = {"CNTK-V": "flatten", "CNTK-GAP": "gap"}


@dataclass(frozen=True)
class PaperPoint:
    """An accuracy of the paper for the network of a read-out.

    Attributes
    ----------
    readout : str
        Its name in the run.
    name : str
        Of the kernel in the paper.
    depth : int
        Of the network.
    train : int
        Number of training images in the paper.
    accuracy : float
        In the paper, as a share.
    """

    readout: str
    name: str
    depth: int
    train: int
    accuracy: float


def paper_points(specification: Specification) -> tuple[PaperPoint, ...]:
    """List the paper's accuracies of the networks of a run; none where the images are not those of CIFAR-10.

    A run of 2,000 training images is compared with the paper's 2,000, all others with its 50,000.
    """
    data = specification.data
    if data.shape != (32, 32, 3) or data.classes != CLASSES:
        return ()
    train = 2000 if data.train == 2000 else 50000
    networks = {
        (name, depth): spelling.spell(presets.cntk(depth, pooling))
        for name, pooling in POOLINGS.items()
        for depth in DEPTHS
    }
    return tuple(
        PaperPoint(readout.name, name, depth, train, ACCURACIES[name, train][DEPTHS.index(depth)] / 100)
        for readout in specification.readouts
        for (name, depth), network in networks.items()
        if readout.kind == "ntk" and readout.network == network
    )
