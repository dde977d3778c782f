"""Runs tasks on a cluster that exists on paper, event by event, and says where the time of its slots went.

The model of `simulate`, for tasks that wait for one another:

* The driver keeps ``window`` tasks a slot in flight, the first by priority. Handing over is a serial server: each task
  takes ``dispatch_seconds`` of it, then waits for a slot, first come, first served, as in Dask.
* A task has three phases: it opens (reads what its sums begin with), computes while a thread reads tiles, and writes.
  A phase ends when both its bytes and its seconds of a core are through, so reads hide behind products. A task of a
  factor has given its slot away when it writes, as `release_slot` does; then its seconds are those of the disk.
* Bytes flow through the shared store. All flows share its bandwidth, or what their nodes can take, equally at every
  moment; events happen where a flow ends, so this is exact. Flows are taken to spread evenly over the nodes.
* A node's page cache holds tiles, and forgets the block row that was used longest ago. A slot checks each tile once. A
  task asks for all its tiles when it begins.
"""

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import astuple, dataclass

FULL_SHARE = 0.8
"""A resource in use for this share of the time is the bottleneck: first the cores' arithmetic, then the store."""


@dataclass(frozen=True)
class Cluster:
    """Where tasks run.

    Attributes
    ----------
    slots, slots_per_node : int
        Tasks at once, in all and on a node.
    store_bandwidth, node_bandwidth : float
        Bytes a second, of the shared store in all and of one node to it.
    dispatch_seconds : float
        Of driver and scheduler, a task.
    window : int
        Tasks in flight, a slot.
    node_tiles : float
        Tiles that a node's page cache holds.
    """

    slots: int
    slots_per_node: int = 32
    store_bandwidth: float = math.inf
    node_bandwidth: float = math.inf
    dispatch_seconds: float = 0.0
    window: int = 2
    node_tiles: float = math.inf

    @property
    def nodes(self) -> int:
        """How many nodes the slots are on."""
        return -(-self.slots // self.slots_per_node)

    @property
    def total_bandwidth(self) -> float:
        """Bytes a second with all slots reading or writing."""
        return self.shared_bandwidth(self.slots) * self.slots

    def shared_bandwidth(self, flows: int) -> float:
        """Return the bytes a second of one of some flows, which are spread over the nodes."""
        nodes = min(flows, -(-self.slots // self.slots_per_node))
        return min(self.store_bandwidth, self.node_bandwidth * nodes) / flows


@dataclass(frozen=True)
class Phase:
    """Bytes through the store and seconds of a core, at the same time."""

    bytes: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Span:
    """The tiles ``start`` to ``stop`` of a block row."""

    row: int
    start: int
    stop: int


@dataclass(frozen=True)
class Step:
    """What a task takes.

    Attributes
    ----------
    ideal_seconds : float
        Of its arithmetic alone, at the rate of the largest product.
    opening, computing, writing : Phase
        Its phases; the bytes of ``reads`` come on top of the second.
    reads : tuple of Span
        Tiles read while it computes, as far as they are not cached.
    makes : Span, optional
        The tile that it leaves in its node's cache.
    writes_in_slot : bool
        Whether no other task has the slot while it writes.
    """

    ideal_seconds: float
    opening: Phase
    computing: Phase
    writing: Phase
    reads: tuple[Span, ...] = ()
    makes: Span | None = None
    writes_in_slot: bool = True


@dataclass(frozen=True)
class Graph:
    """Tasks that wait for one another.

    Attributes
    ----------
    steps : sequence of Step
        One a task.
    ranks : sequence of int
        Smaller runs first among the ready.
    waits : sequence of int
        How many tasks each waits for.
    releases : sequence of sequence of int
        Those that wait for each.
    tile_bytes, check_seconds : float
        Of one tile that is read.
    """

    steps: Sequence[Step]
    ranks: Sequence[int]
    waits: Sequence[int]
    releases: Sequence[Sequence[int]]
    tile_bytes: float = 0.0
    check_seconds: float = 0.0


@dataclass(frozen=True)
class Shares:
    """Where the time of all slots went; the sum is 1.

    Attributes
    ----------
    products : float
        Arithmetic at full rate.
    task_cost : float
        A core's time for anything else.
    store : float
        Bytes that nothing hid.
    dispatch : float
        Idle, with tasks on their way.
    dependencies : float
        Idle, with none that could begin.
    tail : float
        Idle, after the last task began.
    """

    products: float
    task_cost: float
    store: float
    dispatch: float
    dependencies: float
    tail: float


_NAMES = ("products", "task cost", "store bandwidth", "dispatch", "critical path", "tail")


@dataclass(frozen=True)
class Outcome:
    """How a stage went.

    Attributes
    ----------
    seconds, tasks
        In all.
    read_bytes, written_bytes : float
        Through the store.
    shares : Shares
        Where the slots' time went.
    store_use : float
        Bytes moved, of those that the store and the nodes could have moved.
    """

    seconds: float
    tasks: int
    read_bytes: float
    written_bytes: float
    shares: Shares
    store_use: float

    @property
    def efficiency(self) -> float:
        """Arithmetic at full rate over the time of all slots."""
        return self.shares.products

    @property
    def bottleneck(self) -> str:
        """What to mend first: what is in full use, else where most of the slots' time is lost.

        Slots also wait for tasks that wait for the store, so its use counts before the losses.
        """
        if self.efficiency >= FULL_SHARE:
            return "products"
        if self.store_use >= FULL_SHARE:
            return "store bandwidth"
        losses = astuple(self.shares)[1:]
        return _NAMES[1 + losses.index(max(losses))]


def simulate(graph: Graph, cluster: Cluster) -> Outcome:
    """Run a graph of tasks, by the model above."""
    return _Simulation(graph, cluster).run()


class _Cache:
    """Which tiles of which block rows a memory holds: one span a row; the row used longest ago is forgotten first."""

    def __init__(self, capacity: float) -> None:
        self._capacity, self._held = capacity, 0
        self._spans: OrderedDict[int, tuple[int, int]] = OrderedDict()

    def take(self, span: Span) -> int:
        """Hold a span; return how many of its tiles were missing."""
        start, stop = self._spans.pop(span.row, (span.start, span.start))
        self._held -= stop - start
        present = max(0, min(stop, span.stop) - max(start, span.start))
        touching = start <= span.stop and span.start <= stop
        joined = (min(start, span.start), max(stop, span.stop)) if touching else (span.start, span.stop)
        self._spans[span.row] = joined
        self._held += joined[1] - joined[0]
        while self._held > self._capacity:
            first, last = self._spans.popitem(last=False)[1]
            self._held -= last - first
        return span.stop - span.start - present


class _Simulation:
    """The state of one call of `simulate`; tasks are counted as in the graph."""

    def __init__(self, graph: Graph, cluster: Cluster) -> None:
        self.graph, self.cluster = graph, cluster
        self.now, self.served = 0.0, 0.0  # bytes that a flow would have got that was there from the start
        self.timers: list[tuple[float, int, bool]] = []  # seconds, task, whether it is on its way to a slot
        self.flows: list[tuple[float, int]] = []  # where `served` will be at its end, task
        self.waits = list(graph.waits)
        self.ready = [(graph.ranks[task], task) for task, count in enumerate(self.waits) if not count]
        heapq.heapify(self.ready)
        self.in_flight = self.on_their_way = self.begun = 0
        self.dispatcher_free = 0.0
        self.at_hand: deque[int] = deque()
        self.idle = deque(range(cluster.slots))
        self.unlimited = math.isinf(cluster.shared_bandwidth(1))
        self.phases: dict[int, list[Phase]] = {}
        self.halves: dict[int, int] = {}
        self.slot_of: dict[int, int] = {}
        self.nodes = [_Cache(cluster.node_tiles) for _ in range(cluster.nodes)]
        self.checked = [_Cache(math.inf) for _ in range(cluster.slots)]
        self.core_seconds = self.busy_seconds = self.read_bytes = self.written_bytes = 0.0
        self.idle_seconds = {"dispatch": 0.0, "dependencies": 0.0, "tail": 0.0}

    def run(self) -> Outcome:
        self._submit()
        self._begin()
        while self.timers or self.flows:
            rate = self.cluster.shared_bandwidth(len(self.flows)) if self.flows else 1.0
            flow_ends = self.now + max(0.0, self.flows[0][0] - self.served) / rate if self.flows else math.inf
            timer_ends = self.timers[0][0] if self.timers else math.inf
            self._pass(min(flow_ends, timer_ends) - self.now, rate)
            if timer_ends <= flow_ends:
                _, task, arriving = heapq.heappop(self.timers)
                if arriving:
                    self.on_their_way -= 1
                    self.at_hand.append(task)
                else:
                    self._end_half(task)
            else:
                self.served, task = heapq.heappop(self.flows)
                self._end_half(task)
            self._begin()
        return self._outcome()

    def _pass(self, seconds: float, rate: float) -> None:
        """Let time pass, and note why slots are idle meanwhile."""
        self.now += seconds
        self.served += seconds * rate
        reason = "dispatch" if self.on_their_way else "dependencies"
        if self.begun == len(self.graph.steps):
            reason = "tail"
        self.idle_seconds[reason] += seconds * len(self.idle)
        self.busy_seconds += seconds * (self.cluster.slots - len(self.idle))

    def _submit(self) -> None:
        while self.ready and self.in_flight < self.cluster.window * self.cluster.slots:
            _, task = heapq.heappop(self.ready)
            self.in_flight += 1
            self.on_their_way += 1
            self.dispatcher_free = max(self.dispatcher_free, self.now) + self.cluster.dispatch_seconds
            heapq.heappush(self.timers, (self.dispatcher_free, task, True))

    def _begin(self) -> None:
        while self.at_hand and self.idle:
            task, slot = self.at_hand.popleft(), self.idle.popleft()
            self.begun += 1
            self.slot_of[task] = slot
            step, node = self.graph.steps[task], self.nodes[slot // self.cluster.slots_per_node]
            fetched = sum(node.take(span) for span in step.reads) * self.graph.tile_bytes
            checked = sum(self.checked[slot].take(span) for span in step.reads) * self.graph.check_seconds
            computing = Phase(step.computing.bytes + fetched, step.computing.seconds + checked)
            self.phases[task] = [step.writing, computing, step.opening]
            self.read_bytes += step.opening.bytes + computing.bytes
            self.written_bytes += step.writing.bytes
            self.core_seconds += step.opening.seconds + computing.seconds
            if step.writes_in_slot:
                self.core_seconds += step.writing.seconds
            self.halves[task] = 0
            self._next_phase(task)

    def _next_phase(self, task: int) -> None:
        while self.phases[task] and not self.halves[task]:
            phase = self.phases[task].pop()
            if not self.phases[task] and not self.graph.steps[task].writes_in_slot:
                self.idle.append(self.slot_of[task])
            if phase.bytes and not self.unlimited:
                heapq.heappush(self.flows, (self.served + phase.bytes, task))
                self.halves[task] += 1
            if phase.seconds:
                heapq.heappush(self.timers, (self.now + phase.seconds, task, False))
                self.halves[task] += 1
        if not self.halves[task]:
            self._finish(task)

    def _end_half(self, task: int) -> None:
        self.halves[task] -= 1
        if not self.halves[task]:
            self._next_phase(task)

    def _finish(self, task: int) -> None:
        del self.phases[task], self.halves[task]
        slot = self.slot_of.pop(task)
        made = self.graph.steps[task].makes
        if made is not None:
            self.nodes[slot // self.cluster.slots_per_node].take(made)
        if self.graph.steps[task].writes_in_slot:
            self.idle.append(slot)
        self.in_flight -= 1
        for waiter in self.graph.releases[task]:
            self.waits[waiter] -= 1
            if not self.waits[waiter]:
                heapq.heappush(self.ready, (self.graph.ranks[waiter], waiter))
        self._submit()

    def _outcome(self) -> Outcome:
        ideal = sum(step.ideal_seconds for step in self.graph.steps)
        idle = self.idle_seconds
        lost = (self.core_seconds - ideal, self.busy_seconds - self.core_seconds)
        spent = (ideal, *lost, idle["dispatch"], idle["dependencies"], idle["tail"])
        shares = Shares(*(part / (self.cluster.slots * self.now) for part in spent))
        use = (self.read_bytes + self.written_bytes) / (self.cluster.total_bandwidth * self.now)
        return Outcome(self.now, len(self.graph.steps), self.read_bytes, self.written_bytes, shares, use)
