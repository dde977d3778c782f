"""Wide networks in training beside the gradient flow of their limit: the distance falls with the width.

    python workflows/finite/training.py                          # everything that is not trained yet
    python workflows/finite/training.py --widths 64 256 --starts 3 --work runs/small

Networks of two hidden layers learn 100 digits by gradient descent with small steps on the squared error. Infinitely
wide ones follow a linear equation (Lee et al. 2019, arXiv:1902.06720), which `gradient_flow` and `ensemble` solve. Each
trained network leaves a file in the folder of ``--work``; networks that are there are not trained again. The table lies
there too; ``training.csv`` beside this script is that of the whole study.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from records import append, read
from sklearn.datasets import load_digits
from training_figure import Row, WideNetworks

from cntk_pipeline import kernel_matrices
from cntk_pipeline.finite import build
from cntk_pipeline.layers import presets
from cntk_pipeline.regression import Blocks, ensemble, gradient_flow, maximal_learning_rate

HERE = Path(__file__).parent
NETWORK = presets.fully_connected(3)
TRAIN, TEST = 100, 100
TIMES = (0.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0)
"""Of gradient flow with learning rate 1. The loss on the training digits is then a fiftieth of that of 0."""

STARTS = {64: 20, 256: 20, 1024: 20, 4096: 1}
"""For each width, how many networks are trained. One of 4,096 takes as long as all of 1,024."""

LARGEST_STEP, FEWEST_STEPS = 0.25, 8
"""The step as a share of that above which descent diverges, and the steps from one time to the next, at least."""


@dataclass(frozen=True)
class Digits:
    """The data, and the exact kernels.

    Attributes
    ----------
    x, labels : array
        Of the training digits, then those of the test digits.
    targets : array
        Of the training digits, (n, 10): rows of 0.9 and -0.1.
    nngp, ntk : array
        Of all digits.
    """

    x: np.ndarray
    labels: np.ndarray
    targets: np.ndarray
    nngp: np.ndarray
    ntk: np.ndarray


@cache
def digits() -> Digits:
    """Choose digits at random, and compute their exact kernels."""
    data = load_digits()
    chosen = np.random.default_rng(0).permutation(len(data.target))[: TRAIN + TEST]
    x, labels = data.data[chosen], data.target[chosen]
    # Without the mean digit, one eigenvalue would be far above all others, and steps would have to be small for it.
    x = (x - x[:TRAIN].mean(0)) / x[:TRAIN].std()
    kernels = kernel_matrices([NETWORK], x, kinds=("nngp", "ntk"), dtype="float64")[0]
    return Digits(x, labels, np.eye(10)[labels[:TRAIN]] - 0.1, *kernels)


def steps() -> list[tuple[int, float]]:
    """Divide the time between two of `TIMES` into equal steps: their number and their size."""
    largest = LARGEST_STEP * maximal_learning_rate(digits().ntk[:TRAIN, :TRAIN], 10)
    found = []
    for before, after in pairwise(TIMES):
        count = max(FEWEST_STEPS, int(np.ceil((after - before) / largest)))
        found.append((count, (after - before) / count))
    return found


def train(width: int, start: int, dtype: str = "float32") -> np.ndarray:
    """Train a network by gradient descent on all digits at once, and return its outputs, (times, digits, 10).

    float32 takes half the time of float64, and at width 256 it moves the outputs by less than 1e-5 of their change,
    where they are 0.15 away from those of infinite width.
    """
    import torch  # here, so that the documentation is built without it

    torch.set_num_threads(1)
    data = digits()
    module = build(NETWORK, width, (64,), outputs=10, seed=(width, start), dtype=dtype)
    x, targets = (torch.tensor(each, dtype=getattr(torch, dtype)) for each in (data.x, data.targets))
    descent = torch.optim.SGD(module.parameters())
    outputs = [module(x).detach().numpy()]
    for count, size in steps():
        descent.param_groups[0]["lr"] = size
        for _ in range(count):
            descent.zero_grad()
            # The mean over all entries, as in `gradient_flow`: time is the sum of the sizes of the steps.
            loss = (module(x[:TRAIN]) - targets).square().mean() / 2
            loss.backward()
            descent.step()
        outputs.append(module(x).detach().numpy())
    return np.array(outputs)


def trained(work: Path, width: int, start: int) -> tuple[np.ndarray, float]:
    """Read the outputs of a network and the seconds of its training; train it if its file is not there."""
    path = work / f"width{width}-start{start}.npz"
    if not path.exists():
        began = time.process_time()
        outputs = train(width, start)
        work.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".half.npz")
        np.savez_compressed(half, outputs=outputs, seconds=time.process_time() - began)
        os.replace(half, path)  # a file that is there is whole
    with np.load(path) as file:
        return file["outputs"].astype(float), float(file["seconds"])


def flows(starts: np.ndarray) -> np.ndarray:
    """Follow gradient flow at infinite width from the outputs of networks, (networks, digits, 10).

    Returns
    -------
    array, (networks, times, test digits, 10)
    """
    data, count = digits(), len(starts)
    k_train, k_cross = data.ntk[:TRAIN, :TRAIN], data.ntk[TRAIN:, :TRAIN]
    residuals = (data.targets - starts[:, :TRAIN]).swapaxes(0, 1).reshape(TRAIN, -1)
    # All networks side by side are one flow. The loss would be the mean over all of them, so it goes faster by as much.
    moves = [gradient_flow(k_train, residuals, k_cross, t, learning_rate=count).mean for t in TIMES]
    return starts[:, None, TRAIN:] + np.reshape(moves, (len(TIMES), TEST, count, 10)).transpose(2, 0, 1, 3)


def descent_at_infinite_width() -> np.ndarray:
    """Take the steps of gradient descent with the exact kernel, from outputs of 0: (times, test digits, 10)."""
    data = digits()
    f = np.zeros((TRAIN + TEST, 10))
    found = [f[TRAIN:]]
    for count, size in steps():
        for _ in range(count):
            f = f - size / data.targets.size * data.ntk[:, :TRAIN] @ (f[:TRAIN] - data.targets)
        found.append(f[TRAIN:])
    return np.array(found)


def relative(found: np.ndarray, expected: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Measure the distance at each time, relative to a size; 0 where that is 0, at the beginning."""
    distance, sizes = (np.linalg.norm(each, axis=(1, 2)) for each in (found - expected, size))
    return np.divide(distance, sizes, out=np.zeros(len(found)), where=sizes > 0)


def compare(width: int, outputs: np.ndarray, seconds: float) -> list[Row]:
    """Compare the outputs of the networks of a width, (starts, times, digits, 10), with those of infinite width."""
    data, starts = digits(), len(outputs)
    tests = outputs[:, :, TRAIN:]
    pairs = zip(tests, flows(outputs[:, 0]), strict=True)
    distances = np.array([relative(found, exact, exact - exact[0]) for found, exact in pairs])
    still = flows(np.zeros((1, TRAIN + TEST, 10)))[0]
    step_distances = relative(descent_at_infinite_width(), still, still)
    rows = []
    for position, t in enumerate(TIMES):
        nngp, ntk = (Blocks(k[:TRAIN, :TRAIN], k[TRAIN:, :TRAIN], k[TRAIN:, TRAIN:]) for k in (data.nngp, data.ntk))
        exact = ensemble(nngp, ntk, data.targets, t)
        of_output = np.diagonal(exact.covariance)  # the same for each of the ten
        here = tests[:, position]
        rows.append(
            Row(
                width,
                t,
                starts,
                float(distances[:, position].mean()),
                float(distances[:, position].std(ddof=1) / starts**0.5) if starts > 1 else float("nan"),
                float(np.mean((outputs[:, position, :TRAIN] - data.targets) ** 2)),
                float(np.mean(here.argmax(-1) == data.labels[TRAIN:])),
                float(np.linalg.norm(here.mean(0) - exact.mean) / np.sqrt(10 * of_output.sum() / starts)),
                float(here.var(0, ddof=1).mean()) if starts > 1 else float("nan"),
                float(of_output.mean()),
                float(step_distances[position]),
                seconds,
            )
        )
    return rows


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """Write a table; behind ``+-`` stands the standard error of the mean over networks."""
    yield f"{'width':>6} {'time':>6} {'starts':>6} {'distance':>15} {'loss':>8} {'mean':>6} {'variance':>15}"
    for row in rows:
        distance = f"{row.distance:.4f} +- {row.distance_deviation:.4f}"
        variance = f"{row.variance:.4f} ({row.exact_variance:.4f})"
        which = f"{row.width:>6} {row.time:>6g} {row.starts:>6}"
        yield f"{which} {distance:>15} {row.loss:>8.5f} {row.mean_ratio:>6.2f} {variance:>15}"
    yield "mean: distance of the mean of all from that of the ensemble, 1 is chance; in brackets: its variance"


def write(path: Path, rows: Sequence[Row]) -> list[Row]:
    """Write rows in the place of those of the same widths; return all rows of the file."""
    kept = [row for row in read(path, Row) if row.width not in {each.width for each in rows}]
    half = path.with_suffix(".half")
    half.unlink(missing_ok=True)
    append(half, sorted([*kept, *rows], key=lambda row: (row.width, row.time)))
    os.replace(half, path)
    return read(path, Row)


def main() -> None:
    """Train what is missing, print the table, write it, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=list(STARTS), choices=list(STARTS), help="only these")
    parser.add_argument("--starts", type=int, default=max(STARTS.values()), help="networks of a width, at most")
    parser.add_argument("--work", type=Path, default=Path("runs/finite-training"), help="folder of trained networks")
    parser.add_argument("--out", type=Path, help="CSV file, training.csv in the folder of --work; other widths stay")
    parser.add_argument("--figures", type=Path, help="folder for the figure, training.svg")
    given = parser.parse_args()
    rows: list[Row] = []
    for width in given.widths:
        found = []
        for start in range(min(STARTS[width], given.starts)):
            found.append(trained(given.work, width, start))
            print(f"width {width}, start {start}: {found[-1][1]:.1f} s", flush=True)
        outputs, seconds = zip(*found, strict=True)
        rows += compare(width, np.array(outputs), float(np.mean(seconds)))
    rows = write(given.out or given.work / "training.csv", rows)
    print("\n".join(lines(rows)))
    if given.figures is not None:
        given.figures.mkdir(parents=True, exist_ok=True)
        WideNetworks(tuple(rows)).plot().savefig(given.figures / "training.svg")


if __name__ == "__main__":
    main()
