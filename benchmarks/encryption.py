"""What TLS costs a task: calls that do nothing, on a local cluster with and without it, in turns.

    python benchmarks/encryption.py [--tasks 2000] [--turns 5]

Prints the ratio of the medians. A tile takes seconds, so that a tenth of a millisecond more is nothing to a run.
"""

import argparse
import statistics
import time

from cntk_pipeline.clusters import CLUSTERS, Executor
from cntk_pipeline.config import ClusterConfig

WORKERS, WINDOW, WARM_UP = 2, 6, 200


def nothing(*_: object) -> None:
    """Do nothing."""


def milliseconds_per_task(executor: Executor, count: int) -> float:
    """Run calls that do nothing, a few in flight at once as the driver has them."""
    began = time.perf_counter()
    sent = ended = 0
    while ended < count:
        while sent < count and sent - ended < WINDOW:
            executor.submit(("nothing", sent, count), nothing, "run", sent)
            sent += 1
        ended += len(executor.wait(1.0))
    return (time.perf_counter() - began) / count * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    measured: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(arguments.turns):
        for tls in (True, False) if turn % 2 else (False, True):
            with CLUSTERS["local"].executor(ClusterConfig(workers=WORKERS, tls=tls), nothing) as executor:
                milliseconds_per_task(executor, WARM_UP)
                measured[tls].append(milliseconds_per_task(executor, arguments.tasks))
    with_tls, without = statistics.median(measured[True]), statistics.median(measured[False])
    for name, values in (("TLS", measured[True]), ("plain", measured[False])):
        print(f"{name:5} " + " ".join(f"{value:.2f}" for value in sorted(values)) + " ms a task")
    print(f"ratio of the medians {with_tls / without:.3f}, {with_tls - without:+.2f} ms a task")


if __name__ == "__main__":
    main()
