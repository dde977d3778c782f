"""Deals out tasks that wait for nothing, by the model of `schedule`, but by their counts: they may be millions.

List scheduling is exact here, for few durations. All slots are taken to read and write at once, which equal tasks that
begin together do; where durations differ, that is an upper bound, wrong by at most the time spent on the store.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from schedule import Cluster, Outcome, Phase, Shares, Step


@dataclass(frozen=True)
class Group:
    """Equal tasks that wait for nothing."""

    count: int
    step: Step


def share_out(groups: Sequence[Group], cluster: Cluster) -> Outcome:
    """Run tasks that wait for nothing, longest first, by their counts."""
    tasks = sum(group.count for group in groups)
    bandwidth = cluster.shared_bandwidth(min(cluster.slots, tasks))
    timed = sorted(((_duration(group.step, bandwidth), group) for group in groups), key=lambda pair: -pair[0])
    # The first task of each slot comes when the dispatcher has served those before it.
    loads = cluster.dispatch_seconds * np.arange(1, cluster.slots + 1.0)
    for seconds, group in timed:
        loads = _deal(loads, group.count, seconds)
    dealt = float(loads.max())
    seconds = max(dealt, tasks * cluster.dispatch_seconds + timed[-1][0])
    ideal = sum(group.count * group.step.ideal_seconds for group in groups)
    core = sum(group.count * _core_seconds(group.step) for group in groups)
    busy = sum(group.count * taken for taken, group in timed)
    dispatch = min(tasks, cluster.slots) * cluster.dispatch_seconds * (cluster.slots + 1) / 2
    dispatch += (seconds - dealt) * cluster.slots
    tail = cluster.slots * seconds - busy - dispatch
    spent = (ideal, core - ideal, busy - core, dispatch, 0.0, tail)
    read = sum(group.count * (group.step.opening.bytes + group.step.computing.bytes) for group in groups)
    written = sum(group.count * group.step.writing.bytes for group in groups)
    shares = Shares(*(part / (cluster.slots * seconds) for part in spent))
    use = (read + written) / (cluster.total_bandwidth * seconds)
    return Outcome(seconds, tasks, read, written, shares, use)


def _phases(step: Step) -> tuple[Phase, Phase, Phase]:
    return step.opening, step.computing, step.writing


def _core_seconds(step: Step) -> float:
    return sum(phase.seconds for phase in _phases(step))


def _duration(step: Step, bandwidth: float) -> float:
    return sum(max(phase.seconds, phase.bytes / bandwidth) for phase in _phases(step))


def _deal(loads: np.ndarray, count: int, seconds: float) -> np.ndarray:
    """Give each of some equal tasks to the slot that is free first; return when each slot is free then.

    The starts on a slot with load l would be l, l + d, ...; the first ``count`` of all slots' starts are taken.
    """

    def started(until: float) -> np.ndarray:
        return np.maximum(0, np.floor((until - loads) / seconds) + 1)

    low, high = float(loads.min()) - seconds, float(loads.max()) + seconds * (count / len(loads) + 1)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if started(middle).sum() <= count else (low, middle)
    taken = started(low)
    rest = int(count - taken.sum())
    taken[np.argsort(loads + taken * seconds, kind="stable")[:rest]] += 1
    return np.where(taken > 0, loads + taken * seconds, loads)
