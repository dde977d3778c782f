"""Networks as one graph of results, in which equal prefixes are one: the first half of lowering."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce

from cntk_pipeline.errors import LayerError
from cntk_pipeline.kernels.program import Code, Grid, Mixing
from cntk_pipeline.layers import Graph, Pointwise, Presence, Windows
from cntk_pipeline.layers.positions import Correlation
from cntk_pipeline.layers.presence import Gate


@dataclass(frozen=True, order=True)
class StageKey:
    """What tells stages apart: ``level`` counts the poolings before; size and kind are those of its offsets."""

    level: int
    height: int
    width: int
    circular: bool = False


@dataclass(frozen=True)
class Node:
    """An intermediate result: an operation on others. Equal nodes are the same result.

    Attributes
    ----------
    code : Code
        POOL, REDUCE and ATTEND end a stage; their result is loaded in a later one.
    sources : tuple of int
        Nodes; of ATTEND the values, and the keys where they are others.
    stage : StageKey
        Where the operation runs.
    result : StageKey
        The stage in which the result is at hand.
    grid : Grid
        Positions of the result.
    windows : (Windows, Windows), optional
        Of rows and of columns, of WEIGH and POOL; None where each position is one.
    normalize_edges : bool
        Whether POOL divides by the positions of a window inside the image, and AGGREGATE the rows of its matrix by
        their sums.
    function : Pointwise, optional
        Of APPLY, and of RECUR at each step.
    chain : tuple of (Windows, Windows, bool)
        Poolings before the sum of REDUCE: windows of rows, of columns, and whether edges are normalised.
    traced : bool
        Whether REDUCE sums over equal positions alone.
    masked : bool
        Whether a MASK lies before.
    mixing : Mixing, optional
        Of ATTEND, how logits become attention.
    correlation : Correlation, optional
        Of EMBED, that of the vectors of two positions.
    scale, bias, own, extra : float
        Numbers of the operation, see `Code`; as of `Operation`.
    recurrence, backward
        Of RECUR: the variance of the weights between steps, and whether the last step comes first.
    present : Presence, optional
        Which positions of the result are there, where some may be absent.
    gate : Gate, optional
        Of GATE, how positions are weighed.
    """

    code: Code
    sources: tuple[int, ...]
    stage: StageKey
    result: StageKey
    grid: Grid
    windows: tuple[Windows, Windows] | None = None
    normalize_edges: bool = False
    function: Pointwise | None = None
    chain: tuple[tuple[Windows, Windows, bool], ...] = ()
    traced: bool = False
    masked: bool = False
    mixing: Mixing | None = None
    correlation: Correlation | None = None
    scale: float = 1.0
    bias: float = 0.0
    own: float = 0.0
    extra: float = 0.0
    recurrence: float = 0.0
    backward: bool = False
    present: Presence | None = None
    gate: Gate | None = None

    @property
    def is_multiple(self) -> bool:
        """Whether it multiplies its source by a number and does nothing else."""
        return self.code is Code.WEIGH and _is_pointwise(self.windows) and self.bias == self.own == self.extra == 0

    @property
    def is_positionwise(self) -> bool:
        """Whether it looks at one pair of positions alone."""
        if self.code is Code.WEIGH:
            return _is_pointwise(self.windows)
        return self.code in (Code.APPLY, Code.ADD, Code.MULTIPLY, Code.MASK)

    @property
    def is_gated(self) -> bool:
        """Whether no position is absent, or absent ones were weighed by 0."""
        return self.present is None or (self.gate is not None and self.gate.windows is None)

    @property
    def is_empty_where_absent(self) -> bool:
        """Whether what it holds at absent positions is 0."""
        return self.is_gated or self.code in (Code.INPUT, Code.RECUR)


_UNAWARE = (
    "a layer mixes positions and does not know that some may be absent: call Graph.gate before, as GlobalAvgPool does, "
    "or leave Padded() and Masked() out"
)


def _is_pointwise(windows: tuple[Windows, Windows] | None) -> bool:
    return windows is None or all(w == Windows.single(w.size) for w in (replace(v, circular=False) for v in windows))


@dataclass
class NetworkGraph(Graph):
    """Nodes in an order in which sources come first, without repetitions."""

    nodes: list[Node] = field(default_factory=list)
    index: dict[Node, int] = field(default_factory=dict)

    def add_node(self, node: Node) -> int:
        """Return the number of a node, a new one where there is none like it."""
        if any(self.nodes[source].masked for source in node.sources):
            node = replace(node, masked=True)
        if node.sources:
            node = replace(node, present=self._presence_of(node))
        if node not in self.index:
            self.index[node] = len(self.nodes)
            self.nodes.append(node)
        return self.index[node]

    def _presence_of(self, node: Node) -> Presence | None:
        """Tell which positions of a node are there, from those of its sources."""
        if node.code is Code.REDUCE and node.result.height == node.result.width == 1:
            return None
        known = [present for source in node.sources if (present := self.nodes[source].present) is not None]
        if not known:
            return None
        present = reduce(Presence.either, known)
        return present if node.windows is None else present.behind(*node.windows)

    def add_input(self, size: tuple[int, int], scale: float) -> int:
        """Add the images themselves."""
        key = StageKey(0, *size)
        return self.add_node(Node(Code.INPUT, (), key, key, Grid(*size), scale=scale))

    def rescale(self, source: int, factor: float) -> int:
        node = self.nodes[source]
        if node.code in (Code.INPUT, Code.POOL, Code.REDUCE):
            return self.add_node(replace(node, scale=node.scale * factor))
        return self._follow(Code.WEIGH, source, node.grid, scale=factor)

    def weigh(
        self,
        source: int,
        rows: Windows,
        columns: Windows,
        scale: float,
        bias: float = 0.0,
        own: float = 0.0,
        extra: float = 0.0,
    ) -> int:
        windows, numbers = (rows, columns), {"scale": scale, "bias": bias, "own": own, "extra": extra}
        if _is_pointwise(windows):
            return self._follow(Code.WEIGH, source, self.nodes[source].grid, **numbers)
        source = self._without_needless_gate(source)
        if rows.circular:
            # Every window of stride 1, then those that the stride keeps.
            dense = tuple(replace(w, stride=1, count=w.size) for w in windows)
            around = self._move(source, circular=True)
            node = self._follow(Code.WEIGH, around, self.nodes[around].grid, windows=dense, **numbers)
            if rows.stride == columns.stride == 1:
                return node
            kept_rows, kept_columns = (replace(w, window=1, before=0, circular=False) for w in windows)
            return self._pool(node, kept_rows, kept_columns)
        flat = self._move(source, circular=False)
        step = self.nodes[flat].grid.step
        grid = Grid(rows.count, columns.count, (step[0] * rows.stride, step[1] * columns.stride))
        return self._follow(Code.WEIGH, flat, grid, windows=windows, **numbers)

    def pool(
        self, source: int, rows: Windows, columns: Windows, scale: float = 1.0, normalize_edges: bool = False
    ) -> int:
        self._require_gated(source)
        present = self.nodes[source].present
        if normalize_edges and present is not None and not _is_pointwise((rows, columns)):
            sums = self._pool(source, rows, columns, scale)
            gate = Gate("share", present, (rows, columns))
            return self._follow(Code.GATE, sums, self.nodes[sums].grid, gate=gate)
        if rows.count == columns.count == 1 and not (rows.part or columns.part):
            return self._reduce(source, scale, ((rows, columns, normalize_edges),), traced=False)
        if _is_pointwise((rows, columns)):
            return source if scale == 1 else self.rescale(source, scale)
        return self._pool(source, rows, columns, scale, normalize_edges)

    def trace(self, source: int, scale: float) -> int:
        self._require_gated(source)
        return self._reduce(source, scale, (), traced=True)

    def total(self, source: int) -> int:
        self._require_gated(source)
        return self._reduce(source, 1.0, (), traced=False, grid=self.nodes[source].grid)

    def apply(self, source: int, function: Pointwise) -> int:
        return self._follow(Code.APPLY, source, self.nodes[source].grid, function=function)

    def mask(self, source: int, factor: float) -> int:
        return self._follow(Code.MASK, source, self.nodes[source].grid, scale=factor, masked=True)

    def add(self, first: int, second: int) -> int:
        return self._join(Code.ADD, first, second)

    def multiply(self, first: int, second: int) -> int:
        return self._join(Code.MULTIPLY, first, second)

    def embed(self, source: int, correlation: Correlation, variance: float, own: float) -> int:
        # Around a circle an offset is that of two pairs of positions, with vectors of two correlations.
        flat = self._move(source, circular=False)
        grid = self.nodes[flat].grid
        return self._follow(Code.EMBED, flat, grid, correlation=correlation, scale=variance, own=own)

    def recur(
        self,
        source: int,
        function: Pointwise,
        recurrence: float,
        scale: float,
        bias: float = 0.0,
        own: float = 0.0,
        backward: bool = False,
        padded: bool = False,
    ) -> int:
        self._require_aware(source, padded)
        flat = self._move(source, circular=False)
        numbers = {"scale": scale, "bias": bias, "own": own, "recurrence": recurrence, "backward": backward}
        return self._follow(Code.RECUR, flat, self.nodes[flat].grid, function=function, **numbers)

    def attend(
        self,
        source: int,
        gain: float,
        keys: int | None = None,
        mechanism: str = "softmax",
        plus_identity: bool = False,
        padded: bool = False,
    ) -> int:
        self._require_aware(source, padded)
        grid = self.nodes[source].grid
        mixed = (source,) if keys is None else (source, keys)
        level = 1 + max(self.nodes[k].result.level for k in mixed)
        whole = tuple(self._hand_over(k, False, level) for k in mixed)
        stage = self.nodes[whole[0]].result
        return self.add_node(
            Node(
                Code.ATTEND,
                whole,
                stage,
                replace(stage, level=stage.level + 1),
                Grid(grid.height, grid.width),
                mixing=Mixing(mechanism, plus_identity),
                scale=gain,
            )
        )

    def pad(self, source: int, present: Presence) -> int:
        node = self.nodes[source]
        if node.code is not Code.INPUT:
            raise LayerError("what says which positions are there needs the inputs themselves: put it first")
        return self.add_node(replace(node, present=present))

    def gate(self, source: int, weights: str) -> int:
        node = self.nodes[source]
        if node.present is None or (weights == "present" and node.is_gated):
            return source
        return self._follow(Code.GATE, source, node.grid, gate=Gate(weights, node.present))

    def _require_gated(self, source: int) -> None:
        """Refuse sums over absent positions, of a layer that does not know of them."""
        if not self.nodes[source].is_gated:
            raise LayerError(_UNAWARE)

    def _require_aware(self, source: int, padded: bool) -> None:
        """Refuse a layer that does not know whether positions may be absent."""
        if (self.nodes[source].present is not None) != padded:
            raise LayerError(_UNAWARE)

    def _without_needless_gate(self, source: int) -> int:
        """Return what windows read, which must be 0 at absent positions: without a gate where it is so already."""
        node = self.nodes[source]
        if not node.is_empty_where_absent:
            raise LayerError(_UNAWARE)
        is_plain = node.gate is not None and node.gate.weights == "present"
        is_needless = is_plain and self.nodes[node.sources[0]].is_empty_where_absent
        return node.sources[0] if is_needless else source

    def aggregate(self, source: int, average: bool) -> int:
        return self._follow(Code.AGGREGATE, source, self.nodes[source].grid, normalize_edges=average)

    def _follow(self, code: Code, source: int, grid: Grid, **fields: object) -> int:
        """Add a node in the stage of its source's result."""
        stage = self.nodes[source].result
        return self.add_node(Node(code, (source,), stage, stage, grid, **fields))  # type: ignore[arg-type]

    def _join(self, code: Code, first: int, second: int) -> int:
        """Add a node of two sources of one size, in a stage where both are at hand."""
        one, other = self.nodes[first].present, self.nodes[second].present
        if one is not None and other is not None and one != other:  # each is nothing where it is absent itself
            first, second = self.gate(first, "present"), self.gate(second, "present")
        a, b = self.nodes[first], self.nodes[second]
        if (a.result, a.grid) != (b.result, b.grid):
            first, second = self._meet(first, second)
            a = self.nodes[first]
        return self.add_node(Node(code, (first, second), a.result, a.result, a.grid))

    def _pool(
        self,
        source: int,
        rows: Windows,
        columns: Windows,
        scale: float = 1.0,
        normalize_edges: bool = False,
        circular: bool = False,
        level: int = 0,
    ) -> int:
        """Add a pooling; its result is at hand in the next stage, or a later ``level``."""
        node = self.nodes[source]
        result = StageKey(max(level, node.result.level + 1), rows.count, columns.count, circular)
        return self.add_node(
            Node(
                Code.POOL,
                (source,),
                node.result,
                result,
                Grid(rows.count, columns.count),
                windows=(rows, columns),
                normalize_edges=normalize_edges,
                scale=scale,
            )
        )

    def _reduce(
        self,
        source: int,
        scale: float,
        chain: tuple[tuple[Windows, Windows, bool], ...],
        traced: bool,
        grid: Grid | None = None,
    ) -> int:
        """Add a weighted sum over all positions, of what lies before poolings and multiples: they are weights too.

        The sum is at hand at each position of ``grid``; without one, of a vector.
        """
        node = self.nodes[source]
        while node.code is Code.POOL or node.is_multiple:
            scale *= node.scale
            if node.code is Code.POOL and node.windows is not None:
                chain = ((*node.windows, node.normalize_edges), *chain)
            source = node.sources[0]
            node = self.nodes[source]
        height, width = (1, 1) if grid is None else (grid.height, grid.width)
        result, behind = StageKey(node.result.level + 1, height, width), Grid(height, width)
        return self.add_node(
            Node(Code.REDUCE, (source,), node.result, result, behind, chain=chain, traced=traced, scale=scale)
        )

    def _hand_over(self, source: int, circular: bool, level: int = 0) -> int:
        """Make a result at hand in a later stage, unchanged."""
        grid = self.nodes[source].grid
        rows, columns = Windows.single(grid.height), Windows.single(grid.width)
        return self._pool(source, rows, columns, circular=circular, level=level)

    def _move(self, source: int, circular: bool) -> int:
        """Make a result at hand in a stage whose offsets are taken modulo the size, or are not."""
        # Branches meet again, and networks are deep: each node is moved once, behind its sources, without recursion.
        moved: dict[int, int] = {}
        waiting = [source]
        while waiting:
            k = waiting[-1]
            node = self.nodes[k]
            goes_along = node.result.circular != circular and self._moves_with_sources(node)
            before = [each for each in node.sources if each not in moved] if goes_along else []
            if before:
                waiting += reversed(before)
            else:
                moved[k] = self._move_one(k, circular, moved)
                waiting.pop()
        return moved[source]

    @staticmethod
    def _moves_with_sources(node: Node) -> bool:
        return node.is_positionwise and node.grid.step == (1, 1)

    def _move_one(self, source: int, circular: bool, moved: Mapping[int, int]) -> int:
        node = self.nodes[source]
        if node.result.circular == circular:
            return source
        stage = replace(node.result, circular=circular)
        if node.code is Code.INPUT:
            return self.add_node(replace(node, stage=stage, result=stage))
        if node.code in (Code.POOL, Code.ATTEND):
            return self.add_node(replace(node, result=stage))
        if self._moves_with_sources(node):
            sources = tuple(moved[k] for k in node.sources)
            places = {(self.nodes[k].result, self.nodes[k].grid) for k in sources}
            if len(places) == 1:
                (result, grid) = places.pop()
                return self.add_node(replace(node, sources=sources, stage=result, result=result, grid=grid))
        return self._hand_over(source, circular)

    def _meet(self, first: int, second: int) -> tuple[int, int]:
        """Make two results of one size at hand in one stage."""
        level = max(self._level_at_hand(k) for k in (first, second))
        moved = []
        for k in (first, second):
            at_hand = self._is_plain(k) and self.nodes[k].result.level == level
            moved.append(k if at_hand else self._hand_over(k, False, level))
        return moved[0], moved[1]

    def _is_plain(self, k: int) -> bool:
        node = self.nodes[k]
        size = (node.grid.height, node.grid.width)
        return not node.result.circular and size == (node.result.height, node.result.width)

    def _level_at_hand(self, k: int) -> int:
        """The level of a result where it is, or of the next stage where it must be handed over."""
        return self.nodes[k].result.level + (not self._is_plain(k))
