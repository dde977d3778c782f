"""Random graphs."""

import numpy as np

Array = np.ndarray


def draw_graphs(sizes: list[int], features: int, seed: int = 0) -> list[tuple[Array, Array]]:
    """Draw connected graphs: of each its adjacency matrix, and Gaussian features."""
    rng = np.random.default_rng(seed)
    found = []
    for size in sizes:
        adjacency = np.zeros((size, size), int)
        for node in range(1, size):
            for other in {int(rng.integers(node)), int(rng.integers(node))}:
                adjacency[node, other] = adjacency[other, node] = 1
        found.append((adjacency, rng.standard_normal((size, features)).astype(np.float32)))
    return found
