"""Times kernels of graphs beside a plain version of the same recursion in NumPy and SciPy, on one core.

Run: ``python benchmarks/molecules.py [FOLDER]``, a folder of the TUDataset collection; without one, graphs of the sizes
of MUTAG are drawn. The plain version is what a paper's code is like: a loop over pairs, sparse adjacency matrices whose
Kronecker product mixes the pairs of nodes, and the arc-cosine formulas of NumPy. It computes some of the pairs.
"""

import argparse
import time

import numpy as np
import scipy.sparse

from cntk_pipeline import kernel_matrix
from cntk_pipeline.datasets import load
from cntk_pipeline.graphs import Graphs, pack, unpack
from cntk_pipeline.layers.presets import gntk

Array = np.ndarray
PAIRS = 400
"""Of the plain version; the others take as long."""


def draw_molecules(count: int) -> Array:
    """Draw graphs of 10 to 28 nodes in rings and chains, with seven classes of nodes."""
    rng = np.random.default_rng(0)
    edges, features = [], []
    for size in rng.integers(10, 29, count):
        pairs = {(node - 1, node) for node in range(1, size)} | {(node, node + 5) for node in range(0, size - 5, 6)}
        edges.append(sorted(pairs | {(b, a) for a, b in pairs}))
        features.append(np.eye(7)[rng.choice(7, size, p=[0.7, 0.1, 0.1, 0.04, 0.03, 0.02, 0.01])])
    return pack(edges, features)


def matrices_of(graphs: Graphs) -> list[tuple[Array, Array]]:
    """List the adjacency matrix of each graph, with 1 on the diagonal, sparse, and its features."""
    found = []
    for begin, end in zip(graphs.offsets[:-1], graphs.offsets[1:], strict=True):
        starts = graphs.starts[begin : end + 1]
        neighbours = graphs.neighbours[starts[0] : starts[-1]]
        own = (np.ones(len(neighbours)), neighbours, starts - starts[0])
        adjacency = scipy.sparse.csr_array(own, shape=(end - begin,) * 2) + scipy.sparse.eye_array(end - begin)
        found.append((adjacency, graphs.features[begin:end]))
    return found


def deviations_of(adjacency: Array, features: Array, depth: int, dense_layers: int) -> list[Array]:
    """List the standard deviations of the nodes before each activation."""
    mix = scipy.sparse.kron(adjacency, adjacency)
    covariance, found = features @ features.T, []
    for _ in range(depth):
        covariance = (mix @ covariance.reshape(-1)).reshape(covariance.shape)
        for _ in range(dense_layers):
            found.append(np.sqrt(np.diagonal(covariance)))
            covariance, _ = rectify(covariance, found[-1], found[-1])
    return found


def rectify(covariance: Array, x: Array, z: Array) -> tuple[Array, Array]:
    """Evaluate both arc-cosine kernels."""
    norms = np.outer(x, z)
    cosine = np.clip(covariance / norms, -1, 1)
    angle = np.pi - np.arccos(cosine)
    return norms * (cosine * angle + np.sqrt(1 - cosine**2)) / np.pi, angle / np.pi


def plain_value(x: tuple[Array, Array, list[Array]], z: tuple[Array, Array, list[Array]], dense_layers: int) -> float:
    """Evaluate the NTK of a pair of graphs."""
    mix = scipy.sparse.kron(x[0], z[0])
    covariance = x[1] @ z[1].T
    tangent = covariance
    for layer, (left, right) in enumerate(zip(x[2], z[2], strict=True)):
        if layer % dense_layers == 0:
            covariance, tangent = ((mix @ values.reshape(-1)).reshape(values.shape) for values in (covariance, tangent))
        covariance, slope = rectify(covariance, left, right)
        tangent = tangent * slope + covariance
    return 2 * float(tangent.sum())


def main() -> None:
    """Print the time of a pair in both ways, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?")
    asked = parser.parse_args()
    packed = load("tudataset", asked.folder).train.images if asked.folder else draw_molecules(188)
    graphs = unpack(packed)
    count = len(graphs)
    print(f"{count} graphs of {graphs.sizes.mean():.1f} nodes, at most {graphs.sizes.max()}")
    print("depth  dense layers  plain us a pair  package us a pair  ratio  package s in all  largest difference")
    rows, cols = np.random.default_rng(0).integers(0, count, (2, PAIRS))
    for depth, dense_layers in ((1, 1), (1, 2), (3, 2), (4, 3)):
        network = gntk(depth, dense_layers=dense_layers)
        kernel_matrix(network, packed[:20], dtype="float64", n_jobs=1)
        seconds = []
        for _ in range(5):
            began = time.process_time()
            kernel = kernel_matrix(network, packed, dtype="float64", n_jobs=1)
            seconds.append(time.process_time() - began)
        began = time.process_time()
        known = [(a, f, deviations_of(a, f, depth, dense_layers)) for a, f in matrices_of(graphs)]
        known_seconds = time.process_time() - began
        began = time.process_time()
        plain = [plain_value(known[row], known[col], dense_layers) for row, col in zip(rows, cols, strict=True)]
        pairs = count * (count + 1) / 2
        own, other = (time.process_time() - began) / PAIRS + known_seconds / pairs, min(seconds) / pairs
        error = np.abs(kernel[rows, cols] / plain - 1).max()
        print(
            f"{depth:5}  {dense_layers:12}  {1e6 * own:15.0f}  {1e6 * other:17.1f}  {own / other:5.0f}  "
            f"{min(seconds):16.3f}  {error:18.1e}"
        )


if __name__ == "__main__":
    main()
