"""The source text of the kernel of a program: CUDA C for one dtype, with all of the program's numbers in it.

``planes.cuh`` has the loops, as templates; here they are called in the program's order. Equal runs of operations, as of
a deep network, become a loop, or the text would not fit into the instruction cache of a device.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files

import numpy as np

from cntk_pipeline.kernels.cuda.formulas import number, print_dual
from cntk_pipeline.kernels.cuda.layout import Layout, lane_columns, segment
from cntk_pipeline.kernels.cuda.operations import Setting, register_name, write_operation
from cntk_pipeline.kernels.cuda.rolling import Call, roll
from cntk_pipeline.kernels.cuda.wrapping import Tiles, gather_terms, wrap_visits, wrap_weights
from cntk_pipeline.kernels.program import Array, Code, Grid, Operation, Program, Stage
from cntk_pipeline.layers import ClosedForm

MOST_MARKS = 30
"""Sets of tiles that are told apart by a bit each. Beyond, an operation runs on all tiles: its sums are the same."""


def read_text(name: str) -> str:
    """Read a file of C that is kept beside this one."""
    return files("cntk_pipeline.kernels.cuda").joinpath(name).read_text()


def write_source(program: Program, layout: Layout, device: str | None = None) -> str:
    """Write the kernel of a program.

    Parameters
    ----------
    program : Program
        One that `require_supported` lets pass.
    layout : Layout
        Of its threads and of its memory.
    device : str, optional
        The text that says what a lane is, in the place of ``device.cuh``.
    """
    return _Writer(program, layout).write(read_text("device.cuh") if device is None else device)


@dataclass
class _Writer:
    """The parts of the text while it is written."""

    program: Program
    layout: Layout
    tables: list[str] = field(default_factory=list)
    duals: dict[type[ClosedForm], str] = field(default_factory=dict)
    phases: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    known_tables: dict[bytes, int] = field(default_factory=dict)
    weights: list[float] = field(default_factory=list)

    def write(self, device: str) -> str:
        operations = [op for stage in self.program.stages for op in stage.operations]
        first = 0
        for index, stage in enumerate(self.program.stages):
            self._write_stage(index, stage, first)
            first += len(stage.operations)
        layout, real = self.layout, "float" if self.layout.dtype == np.float32 else "double"
        duals = "\n".join(print_dual(function, name, layout.dtype) for function, name in self.duals.items())
        return "\n".join(
            [
                f"typedef {real} real;",
                f"#define WARPS {layout.warps}",
                device,
                read_text("planes.cuh"),
                duals,
                _table(
                    "PARAMETERS", "real", "parameters_of", [self._parameters(op) for op in operations], layout.dtype
                ),
                _table("PARAMETERS", "int", "places_of", [self._places(k, op) for k, op in enumerate(operations)]),
                _table("TABLE", "real", "weights", self.weights or [0.0], layout.dtype),
                *self.tables,
                _FIND_PAIR.format(
                    lanes=layout.pair_lanes,
                    group=layout.group,
                    slots=max(1, layout.slots),
                    pairs=layout.pairs,
                    tensors=layout.tensor_size,
                ),
                *self.functions,
                _KERNEL.format(
                    sums=layout.sum_size,
                    pairs=layout.pairs,
                    tensors=layout.tensor_size * layout.pairs,
                    phases="\n".join(f"    PHASE({phase})" for phase in self.phases),
                ),
            ]
        )

    def _parameters(self, op: Operation) -> list[float]:
        constants = op.function.constants if isinstance(op.function, ClosedForm) else ()
        return [op.scale, op.bias, op.own, *constants, *[0.0] * (3 - len(constants)), op.extra]

    def _places(self, index: int, op: Operation) -> list[int]:
        if op.code is Code.REDUCE and op.weights is not None:
            circular = self._stage_of(index).circular
            sizes = (op.grid.height, op.grid.width)
            tables = [wrap_weights(w, size, circular) for w, size in zip(op.weights, sizes, strict=True)]
            return [op.slot, *(self._place_weights(table) for table in tables)]
        if op.code in (Code.LOAD_SUM, Code.OUTPUT):
            return [op.slot, 0, 0]
        if index in self.layout.statistics:
            place = self.layout.statistics[index]
            return [place.left, place.right, 0]
        return [0, 0, 0]

    def _stage_of(self, index: int) -> Stage:
        for stage in self.program.stages:
            if index < len(stage.operations):
                return stage
            index -= len(stage.operations)
        raise IndexError(index)

    def _place_weights(self, table: Array) -> int:
        key = table.astype(self.layout.dtype).tobytes()
        if key not in self.known_tables:
            self.known_tables[key] = len(self.weights)
            self.weights += table.ravel().tolist()
        return self.known_tables[key]

    def _write_stage(self, index: int, stage: Stage, first: int) -> None:
        tiles, layout, columns = wrap_visits(stage), self.layout, lane_columns(stage)
        bits = _mark_bits(tiles)
        self.tables.append(_table("TABLE", "int", f"tiles_{index}", tiles.numbers.tolist()))
        words = [sum(int(tiles.marks[k, t]) << b for k, b in bits.items()) for t in range(len(tiles.numbers))]
        self.tables.append(_table("TABLE", "int", f"marks_{index}", words))
        grids = {g: f"grid_{n}" for n, g in enumerate(_grids(stage))}
        body = [
            f"const Grid<{columns}> {name} = make_grid<{columns}, {g.height}, {g.width}, {g.step[0]}, {g.step[1]}>"
            "(dy, dx, lane, counts);"
            for g, name in grids.items()
        ]
        body += [f"lane_real {name}[{size}][{columns}];" for name, size in sorted(_registers(stage))]
        pattern = {k: tiles.marks[k].tobytes() for k in range(len(stage.operations))}
        guards = {k: next((b for j, b in bits.items() if pattern[j] == pattern[k]), None) for k in pattern}
        setting = Setting(self.program, layout, stage, grids)
        operations = enumerate(stage.operations)
        calls = [Call(write_operation(setting, op, self._dual(op)), guards[k]) for k, op in operations]
        body += roll(calls, first)
        self.functions.append(
            _STAGE.format(
                index=index,
                width=stage.width,
                segment=segment(stage),
                segments=layout.pair_lanes // segment(stage),
                count=len(tiles.numbers),
                rounds=-(-len(tiles.numbers) * segment(stage) // layout.pair_lanes),
                body="\n".join(f"    {line}" for line in body),
            )
        )
        self.phases.append(f"stage_{index}(a, batch, warp, sums)")
        for op in stage.operations:
            if op.code is Code.POOL:
                self._write_pool(stage, op)

    def _write_pool(self, stage: Stage, op: Operation) -> None:
        assert op.terms is not None
        tensor, place = self.program.tensors[op.slot], self.layout.tensors[op.slot]
        axes = ((op.grid.height, tensor.height), (op.grid.width, tensor.width))
        gathered = [
            gather_terms(terms, size, pooled, stage.circular, tensor.circular)
            for terms, (size, pooled) in zip(op.terms, axes, strict=True)
        ]
        names: list[str] = []
        for axis, found, scale in zip(("rows", "columns"), gathered, (op.scale, 1.0), strict=True):
            name = f"{axis}_{op.slot}"
            self.tables.append(_table("TABLE", "int", name, found.places.ravel().tolist()))
            weights = (found.weights * scale).ravel().tolist()
            self.tables.append(_table("TABLE", "real", f"{name}_weights", weights, self.layout.dtype))
            names += [name, f"{name}_weights"]
        sizes = f"{op.grid.height}, {op.grid.width}, {tensor.height}, {tensor.width}"
        terms_text = ", ".join(str(found.places.shape[1]) for found in gathered)
        lines = [
            f"  pool<{sizes}, {terms_text}, {self.layout.pair_lanes}>(pair, {', '.join(names)}, "
            f"a.tensors, pair.tensors + {source}, a.tensors, pair.tensors + {target});"
            for source, target in zip(place.sources, place.targets, strict=True)
        ]
        self.functions.append(_POOL.format(slot=op.slot, calls="\n".join(lines)))
        self.phases.append(f"pool_{op.slot}(a, batch, warp)")

    def _dual(self, op: Operation) -> str:
        """Name the struct of an operation's dual, which is printed once."""
        if not isinstance(op.function, ClosedForm):
            return "NoDual"
        return self.duals.setdefault(type(op.function), f"{type(op.function).__name__}Dual{len(self.duals)}")


def _registers(stage: Stage) -> set[tuple[str, int]]:
    """List the arrays of a tile's registers by name and rows."""
    found = set()
    for op in stage.operations:
        reads = [(op.source, op.grid), (op.target, op.target_grid)]
        reads += [(op.other, op.grid)] if op.code is Code.ADD else []
        found |= {(register_name(part, r, g), g.height) for r, g in reads if r >= 0 for part in "st"}
    return found


def _grids(stage: Stage) -> list[Grid]:
    found: dict[Grid, None] = {}
    for op in stage.operations:
        found |= {op.grid: None} if op.source >= 0 else {}
        found |= {op.target_grid: None} if op.target >= 0 else {}
    return list(found)


def _mark_bits(tiles: Tiles) -> dict[int, int]:
    """Give each set of tiles that is not all of them a bit, by the first operation that has it."""
    bits: dict[bytes, tuple[int, int]] = {}
    for k, marks in enumerate(tiles.marks):
        if not marks.all() and marks.tobytes() not in bits and len(bits) < MOST_MARKS:
            bits[marks.tobytes()] = (k, len(bits))
    return dict(bits.values())


def _table(kind: str, element: str, name: str, values: Sequence, dtype: np.dtype | None = None) -> str:
    """Write a table of numbers, or of rows of numbers."""
    write = str if dtype is None else (lambda value: number(value, dtype))
    if values and isinstance(values[0], list):
        rows = ",\n  ".join("{" + ", ".join(map(write, row)) + "}" for row in values)
        return f"{kind} {element} {name}[{len(values)}][{len(values[0])}] = {{\n  {rows}}};"
    return f"{kind} {element} {name}[{len(values)}] = {{{', '.join(map(write, values))}}};"


_FIND_PAIR = """
DEVICE Pair find_pair(const Arguments& a, int batch, int warp) {{
  Pair pair;
  const lane_int member = warp * 32 + lane_number();
  const lane_int index = member / {lanes};
  pair.lane = member % {lanes};
  pair.group = (member / {group}) * {slots};
  pair.first_group = (index * ({lanes} / {group})) * {slots};
  pair.tensors = index * {tensors};
  pair.number = batch * {pairs} + index;
  pair.counts = pair.number < a.pair_count;
  const lane_int known = pair.number * as_integer(pair.counts);
  pair.left = read_integer(a.pairs, known * 3);
  pair.right = read_integer(a.pairs, known * 3 + 1);
  pair.same = read_integer(a.pairs, known * 3 + 2);
  return pair;
}}
"""

_STAGE = """
DEVICE void stage_{index}(const Arguments& a, int batch, int warp, double* sums) {{
  const Pair pair = find_pair(a, batch, warp);
  const lane_int lane = pair.lane % {segment};
  for (int round = 0; round < {rounds}; ++round) {{
    lane_int number = pair.lane / {segment} + round * {segments};
    const lane_truth counts = number < {count};
    number = number * as_integer(counts);
    const lane_int tile = read_integer(tiles_{index}, number), marks = read_integer(marks_{index}, number);
    const lane_int dy = tile / {width}, dx = tile % {width};
    const lane_truth at_zero = tile == 0;
    const lane_int level = as_integer(at_zero & (pair.same > 0)), level_masked = as_integer(at_zero & (pair.same == 2));
{body}
  }}
}}
"""

_POOL = """
DEVICE void pool_{slot}(const Arguments& a, int batch, int warp) {{
  const Pair pair = find_pair(a, batch, warp);
{calls}
}}
"""

_KERNEL = """
DEVICE void clear(double* sums, int warp) {{
  for (int first = 32 * warp; first < {sums}; first += 32 * WARPS) {{
    const lane_int entry = first + lane_number();
    set_where(entry < {sums}, sums, entry, widen(spread(0)));
  }}
}}

KERNEL(const real* left_pixels, const real* right_pixels, const real* left_statistics, const real* right_statistics,
       const int* pairs, int pair_count, int level_size, double* readouts, real* tensors) {{
  SHARED double sums[{sums}];
  const Arguments a = {{left_pixels, right_pixels, left_statistics, right_statistics, pairs, pair_count, level_size,
                       readouts, tensors + (long long)BLOCK * {tensors}}};
  BATCHES(batch, (pair_count + {pairs} - 1) / {pairs}) {{
    PHASE(clear(sums, warp))
{phases}
  }}
}}
"""
