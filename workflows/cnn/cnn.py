"""Trained convolutional networks beside their kernels, as in table 1 of Arora et al. 2019 (arXiv:1904.11955).

    python workflows/cnn/cnn.py                          # scikit-learn's digits, in a minute
    python workflows/cnn/cnn.py --data cifar-10-batches-bin --out runs/cnn-cifar10

CNN-V and CNN-GAP are the finite networks of the kernels CNTK-V and CNTK-GAP: `finite.build` makes both from the layers
that the kernel is computed of. They are trained by stochastic gradient descent with momentum on the squared error. The
step is chosen on a fifth of the training images, and the test images are looked at once, by each network at its end.

Each result is a line of a CSV file as soon as it is there. The same command goes on where it was stopped.
"""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from cnn_results import (
    BATCH,
    MOMENTUM,
    Flow,
    Kernel,
    Result,
    Study,
    Trial,
    choose,
    draw,
    is_of,
    lines,
    name_of,
    next_share,
    read_flows,
    read_kernels,
    read_networks,
    write_kernels,
    write_networks,
)

import cntk_pipeline
from cntk_pipeline import finite, kernel_diagonal, kernel_matrix
from cntk_pipeline.datasets import Dataset, Split, load, one_hot_targets, select, standardize
from cntk_pipeline.layers import Sequential, presets
from cntk_pipeline.plots.style import svg_of
from cntk_pipeline.regression import maximal_learning_rate

DIGITS = Study("digits", pixels=8, train=500, test=500, depth=3, epochs=30)
CIFAR10 = Study("cifar10", pixels=16, train=2000, test=1017, depth=3, epochs=40)
"""The first 1,017 test images, and the first 400 images of each training batch."""

POOLINGS = ("flatten", "gap")

SAMPLE = 200

CHOICE = 32
"""The width of the networks that the step is chosen by, for all widths."""

START = 0.1
"""Deviation of a network's outputs at its beginning, beside targets of 0.9 and -0.1.

Training adds to the outputs at the beginning; it does not replace them, and between the training images they stay. The
kernel begins at 0. So theorem 3.2 of the paper multiplies the outputs by a small number, and so does `Scaled`.
"""

RIDGES = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2]
"""Of the kernel, relative; leave-one-out chooses. The paper has none."""

FLOW_TIMES = (10, 30, 100, 300, 1000, 3000, 10000, math.inf)
"""Times of the kernel's gradient flow, in largest stable steps; the last one is the end of training."""


def read_images(study: Study, path: str | None) -> Dataset:
    """Read the images of a study; smaller ones are means of blocks of pixels."""
    blocks = 5 if study.images == "cifar10" else 1
    dataset = select(load(study.images, path=path), study.train, study.test, blocks)
    assert dataset.test is not None
    return replace(dataset, train=_shrink(dataset.train, study.pixels), test=_shrink(dataset.test, study.pixels))


def _shrink(split: Split, pixels: int) -> Split:
    n, height, width, channels = split.images.shape
    blocks = split.images.reshape(n, pixels, height // pixels, pixels, width // pixels, channels)
    return Split(blocks.mean((2, 4), dtype=np.float64).astype(np.float32), split.labels)


def network_of(study: Study, pooling: str) -> Sequential:
    """Return the layers of a study, of networks and of their kernel."""
    return presets.cntk(study.depth, pooling=pooling, trained_ends=study.trained_ends or None)


def solve_kernel(study: Study, dataset: Dataset, pooling: str, step: float, store: Path) -> tuple[Kernel, list[Flow]]:
    """Run a kernel, with a ridge by leave-one-out, and follow its gradient flow; the run standardises the images."""
    assert dataset.test is not None
    began = time.process_time()
    run = cntk_pipeline.run(
        {
            "network": {"preset": "cntk"} | ({"options": {"trained_ends": True}} if study.trained_ends else {}),
            "readouts": {"depths": [study.depth], "poolings": [pooling]},
            "solve": {"ridges": RIDGES},
            "inference": {"leave_one_out": True},
            "cluster": {"kind": "serial"},  # so that the processor's seconds of this process are all of them
        },
        data={
            "x_train": dataset.train.images,
            "y_train": dataset.train.labels,
            "x_test": dataset.test.images,
            "y_test": dataset.test.labels,
        },
        store__path=str(store),
        progress=False,
    )
    seconds = time.process_time() - began
    k_train, k_test = (
        run.kernel(part=part, missing="raise").compute().astype(np.float64) for part in ("train", "test")
    )
    targets = one_hot_targets(dataset.train.known_labels, len(dataset.classes))
    fields = {name: value for name, value in vars(study).items() if name != "epochs"} | {"pooling": pooling}
    flows = []
    outputs_at = follow(k_train, k_test, targets, [number * step for number in FLOW_TIMES])
    for number, (train, test) in zip(FLOW_TIMES, outputs_at, strict=True):
        error = float(np.square(train - targets).mean() / np.square(targets).mean())
        accuracy = _accuracy(test, dataset.test.known_labels)
        flows.append(Flow(**fields, time=number, accuracy=accuracy, train_error=round(error, 4)))
    ridge = run.best.ridge
    added = ridge * np.diag(k_train).mean()  # K (K + a)^-1 y differs from y by a (K + a)^-1 y
    missed = added * np.linalg.solve(k_train + added * np.eye(len(k_train)), targets)
    kernel = Kernel(
        **fields,
        accuracy=_accuracy(run.predictions(ridge=ridge), dataset.test.known_labels),
        ridge=ridge,
        train_error=round(float(np.square(missed).mean() / np.square(targets).mean()), 4),
        seconds=round(seconds, 1),
    )
    return kernel, flows


def follow(
    k_train: np.ndarray, k_test: np.ndarray, targets: np.ndarray, times: list[float]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Follow gradient flow on training and test images; `gradient_flow` would factor the matrix for each time again."""
    values, vectors = np.linalg.eigh(k_train)
    values = np.maximum(values, np.finfo(np.float32).eps * values[-1])  # rounding of a float32 kernel
    rotated = vectors.T @ targets
    for until in times:
        learned = -np.expm1(-values * until / targets.size)[:, None] * rotated
        yield vectors @ learned, k_test @ (vectors @ (learned / values[:, None]))


def largest_step(study: Study, dataset: Dataset, pooling: str) -> float:
    """Estimate the largest stable step of gradient descent without momentum from the kernel of `SAMPLE` images."""
    network = network_of(study, pooling)
    kernel = kernel_matrix(network, dataset.train.images[:SAMPLE], dtype="float64", n_jobs=1)
    return maximal_learning_rate(kernel, len(dataset.classes))


def output_scale(study: Study, dataset: Dataset, pooling: str) -> float:
    """Find the number that takes the outputs of random networks to the deviation `START` on the training images."""
    network = network_of(study, pooling)
    variances = kernel_diagonal(network, dataset.train.images, kind="nngp", dtype="float64")
    return float(START / np.sqrt(variances.mean()))


class Scaled(torch.nn.Module):
    """A network with its outputs multiplied by a number."""

    def __init__(self, network: torch.nn.Module, scale: float) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.network(x)


def build(trial: Trial, dataset: Dataset, scale: float) -> Scaled:
    """Build the finite network of a trial, random."""
    network = finite.build(
        network_of(trial, trial.pooling),
        trial.width,
        dataset.train.images.shape[1:],
        outputs=len(dataset.classes),
        seed=trial.seed,
        dtype="float32",
    )
    return Scaled(network, scale)


def descend(network: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, step: float, epochs: int, seed: int) -> None:
    """Train by gradient descent with momentum; the step falls to 0 along a line, so that the noise of batches does too.

    The loss is half of the mean over all n c squares, to which `maximal_learning_rate` belongs.
    """
    optimizer = torch.optim.SGD(network.parameters(), lr=step, momentum=MOMENTUM)
    steps = epochs * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda number: 1 - number / steps)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=order).split(BATCH):
            optimizer.zero_grad()
            loss = (network(x[rows]) - y[rows]).square().mean() / 2
            loss.backward()
            optimizer.step()
            schedule.step()


def parts_of(trial: Trial, dataset: Dataset) -> tuple[Split, Split]:
    """Return the images that a trial is trained on, and those that it is judged by."""
    assert dataset.test is not None
    if trial.part == "test":
        return dataset.train, dataset.test
    rows = np.random.default_rng(0).permutation(trial.train)
    kept, held = rows[trial.train // 5 :], rows[: trial.train // 5]
    return tuple(Split(dataset.train.images[part], dataset.train.known_labels[part]) for part in (kept, held))


def train(trial: Trial, dataset: Dataset, largest: float, scale: float) -> Result:
    """Train a network and judge it."""
    trained, judged = parts_of(trial, dataset)
    targets = one_hot_targets(trained.known_labels, len(dataset.classes))
    x, y = torch.from_numpy(trained.images), torch.from_numpy(targets.astype(np.float32))
    network = build(trial, dataset, scale)
    began = time.process_time()
    descend(network, x, y, trial.share * largest, trial.epochs, trial.seed)
    seconds = time.process_time() - began
    reached = outputs(network, trained.images)
    return Result(
        accuracy=_accuracy(outputs(network, judged.images), judged.known_labels),
        train_accuracy=_accuracy(reached, trained.known_labels),
        train_error=round(float(np.square(reached - targets).mean() / np.square(targets).mean()), 4),
        seconds=round(seconds, 1),
    )


def outputs(network: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """Evaluate a network, some images at a time."""
    with torch.no_grad():
        return np.concatenate([network(part).numpy() for part in torch.from_numpy(images).split(200)])


def _accuracy(found: np.ndarray, labels: np.ndarray) -> float:
    return round(float((found.argmax(1) == labels).mean()), 4)


def compare(study: Study, raw: Dataset, poolings: list[str], widths: list[int], seeds: int, folder: Path) -> None:
    """Compute what the files of a folder do not have yet: the choice of steps, the networks by width, then kernels."""
    dataset = standardize(raw, "float32")[0]
    steps = {pooling: largest_step(study, dataset, pooling) for pooling in poolings}
    scales = {pooling: output_scale(study, dataset, pooling) for pooling in poolings}
    done = read_networks(folder)

    def ensure(trial: Trial) -> None:
        if trial not in done:
            step = steps[trial.pooling] / scales[trial.pooling] ** 2
            done[trial] = train(trial, dataset, step, scales[trial.pooling])
            write_networks(folder, done)
            print(trial, done[trial], flush=True)

    for pooling in poolings:
        while (share := next_share(done, study, pooling)) is not None:
            # The NTK parameterisation makes a step mean the same at all widths, so a narrow network chooses for all.
            ensure(Trial(**vars(study), pooling=pooling, width=CHOICE, seed=0, share=share, part="validation"))
    for width in sorted(widths):
        for pooling in poolings:
            share = choose(done, study, pooling)
            for seed in range(seeds):
                ensure(Trial(**vars(study), pooling=pooling, width=width, seed=seed, share=share, part="test"))
    for pooling in poolings:
        kernels, flows = read_kernels(folder), read_flows(folder)
        if not any(is_of(kernel, study) and kernel.pooling == pooling for kernel in kernels):
            kernel, flow = solve_kernel(study, raw, pooling, steps[pooling], folder / f"{name_of(study)}-{pooling}")
            write_kernels(folder, [*kernels, kernel], [*flows, *flow])


def main() -> None:
    """Compute what is missing, print the table, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of CIFAR-10; without it scikit-learn's digits are taken")
    parser.add_argument("--out", type=Path, default=Path("runs/cnn"), help="folder of the results")
    parser.add_argument("--pixels", type=int, choices=(32, 16, 8), help="side of the images of CIFAR-10, 16 by default")
    parser.add_argument("--depth", type=int, default=3, help="convolutions and the last layer")
    parser.add_argument("--poolings", nargs="+", default=POOLINGS, choices=POOLINGS, help="of kernels and networks")
    parser.add_argument("--trained-ends", action="store_true", help="train the first and the last layer of GAP too")
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64], help="channels of the networks")
    parser.add_argument("--seeds", type=int, default=2, help="networks of each width")
    parser.add_argument("--epochs", type=int, help="passes over the training images")
    parser.add_argument("--threads", type=int, default=1, help="of torch; the seconds are those of all threads")
    given = parser.parse_args()
    if given.data is None and given.pixels is not None:
        parser.error("--pixels is the side of the images of CIFAR-10: give their folder as --data, or leave it out")
    study = DIGITS if given.data is None else replace(CIFAR10, pixels=given.pixels or CIFAR10.pixels)
    study = replace(study, depth=given.depth, epochs=given.epochs or study.epochs, trained_ends=given.trained_ends)
    torch.set_num_threads(given.threads)
    compare(study, read_images(study, given.data), given.poolings, given.widths, given.seeds, given.out)
    kernels, flows, done = read_kernels(given.out), read_flows(given.out), read_networks(given.out)
    print("\n".join(lines(kernels, flows, done, study)))
    figure = given.out / f"{name_of(study)}.svg"
    figure.write_text(svg_of(draw(kernels, flows, done, study)))
    print(f"the figure lies in {figure}")


if __name__ == "__main__":
    main()
