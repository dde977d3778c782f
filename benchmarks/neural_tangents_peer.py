"""Runs neural-tangents for `peers.py`, in an interpreter of its own: imports nothing of this project.

Usage: ``python neural_tangents_peer.py NETWORK FOLDER`` with ``x1.npy`` and ``x2.npy`` in the folder. Compiles, writes
the tile's NTK to ``values.npy`` there and prints its device and versions as a line of JSON. Then each line on standard
input asks for one more evaluation, answered by a line of JSON with its seconds, so that others can be timed in between.
"""

import json
import platform
import sys
import time
from pathlib import Path

import jax
import jaxlib
import neural_tangents
import numpy as np
from neural_tangents import stax

DEPTH = 11  # convolutions plus one, as in Arora et al. 2019


def convolutions(count: int) -> list:
    """Make convolutions of 3 x 3 without bias, a ReLU behind each."""
    return [layer for _ in range(count) for layer in (stax.Conv(1, (3, 3), padding="SAME", W_std=2**0.5), stax.Relu())]


def halve() -> list:
    """Average over windows of 2 x 2."""
    return [stax.AvgPool((2, 2), strides=(2, 2))]


NETWORKS = {
    "CNTK-V": [*convolutions(DEPTH - 1), stax.Flatten()],
    "CNTK-GAP": [*convolutions(DEPTH - 1), stax.GlobalAvgPool()],
    "Myrtle-5": [
        *(*convolutions(2), *halve()),
        *(*convolutions(1), *halve()),
        *(*convolutions(1), *halve()),
        stax.GlobalAvgPool(),
    ],
}


def main() -> None:
    """Compile one network, then evaluate it as often as asked."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    x1, x2 = (np.load(folder / file) for file in ("x1.npy", "x2.npy"))
    kernel = jax.jit(stax.serial(*NETWORKS[name], stax.Dense(1))[2], static_argnums=(2,))
    np.save(folder / "values.npy", np.asarray(kernel(x1, x2, "ntk")))
    versions = {
        "device": f"{jax.devices()[0].platform} {jax.devices()[0].device_kind}",
        "neural-tangents": neural_tangents.__version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    print(json.dumps(versions), flush=True)
    for _ in sys.stdin:
        start, busy = time.perf_counter(), time.process_time()
        kernel(x1, x2, "ntk").block_until_ready()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "cores": (time.process_time() - busy) / seconds}), flush=True)


if __name__ == "__main__":
    main()
