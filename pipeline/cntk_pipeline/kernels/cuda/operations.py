"""One operation of a program as calls of the templates of ``planes.cuh``; ``{i}`` stands for its number."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cntk_pipeline.kernels.cuda.layout import Layout, lane_columns, segment
from cntk_pipeline.kernels.cuda.wrapping import wrap_weights
from cntk_pipeline.kernels.program import Code, Grid, Operation, Program, Stage

_PARAMETERS, _PLACES = "parameters_of[{i}]", "places_of[{i}]"


@dataclass(frozen=True)
class Setting:
    """What the operations of a stage have in common.

    Attributes
    ----------
    program, layout, stage
        Theirs.
    grids : mapping of Grid to str
        The names of the stage's grids.
    """

    program: Program
    layout: Layout
    stage: Stage
    grids: dict[Grid, str]


def register_name(part: str, register: int, grid: Grid) -> str:
    """Name the rows of S or of T in a register; of another height they are another array."""
    return f"{part}{register}_{grid.height}"


def write_operation(setting: Setting, op: Operation, dual: str) -> tuple[str, ...]:
    """Write an operation as lines of C.

    Parameters
    ----------
    dual : str
        The name of the struct of its activation.
    """
    return WRITERS[op.code](setting, op, dual)


def _parts(op: Operation) -> list[tuple[str, str]]:
    """Name the source and the target, of S and, where it is needed, of T."""
    return [
        (register_name(part, op.source, op.grid), register_name(part, op.target, op.target_grid))
        for part in "st"[: 1 + op.tangent]
    ]


def _size(grid: Grid) -> str:
    return f"{grid.height}, {grid.width}"


def _input(setting: Setting, op: Operation, dual: str) -> tuple[str, ...]:
    s, t = (register_name(part, op.target, op.target_grid) for part in "st")
    channels, grid = setting.program.input_shape[2], setting.grids[op.target_grid]
    return (f"input<{_size(op.target_grid)}, {channels}>(a, pair, {grid}, {_PARAMETERS}, {s}, {t});",)


def _weigh(setting: Setting, op: Operation, dual: str) -> tuple[str, ...]:
    windows = "1, 1, 0, 0, 1, 1, false"
    if op.windows is not None:
        rows, columns = op.windows
        windows = (
            f"{rows.window}, {columns.window}, {rows.before}, {columns.before}, {rows.stride}, "
            f"{columns.stride}, {str(rows.circular).lower()}"
        )
    layout, here, to = setting.layout, setting.grids[op.grid], setting.grids[op.target_grid]
    own = int(op.own) if op.own in (0, 1) else 2
    level = "level_masked" if op.masked else "level"
    registers = [register_name(part, op.source, op.grid) for part in "st"]
    registers += [register_name(part, op.target, op.target_grid) for part in "st"]
    return (
        f"weigh<Windows<{windows}>, {_size(op.grid)}, {_size(op.target_grid)}, {segment(setting.stage)}, "
        f"{str(op.tangent).lower()}, {own}, {str(op.extra != 0).lower()}, {dual}>({here}, {to}, {_PARAMETERS},\n"
        f"        Activation<{dual}, {op.target_grid.width}, {lane_columns(setting.stage)}>(a, pair, {to}, {_PLACES}, "
        f"{level}, {_PARAMETERS}, {layout.left_size}, {layout.right_size}), {', '.join(registers)});",
    )


def _add(setting: Setting, op: Operation, dual: str) -> tuple[str, ...]:
    second = [register_name(part, op.other, op.grid) for part in "st"]
    return tuple(f"add({a}, {b}, {c});" for (a, c), b in zip(_parts(op), second, strict=False))


def _mask(setting: Setting, op: Operation, dual: str) -> tuple[str, ...]:
    return tuple(f"mask(at_zero & (pair.same == 2), {_PARAMETERS}, {a}, {b});" for a, b in _parts(op))


def _reduce(setting: Setting, op: Operation, dual: str) -> tuple[str, ...]:
    assert op.weights is not None
    axes = zip(op.weights, (op.grid.height, op.grid.width), strict=True)
    plain = all(np.all(wrap_weights(weights, size, setting.stage.circular) == 1) for weights, size in axes)
    template = f"{_size(op.grid)}, {setting.layout.group}, {str(not plain).lower()}"
    return tuple(
        f"reduce<{template}>({setting.grids[op.grid]}, weights, {_PLACES}, {_PARAMETERS}, {a}, sums, pair, {part});"
        for part, (a, _) in enumerate(_parts(op))
    )


def _load_sum(setting: Setting, op: Operation, dual: str) -> tuple[str, ...]:
    template = f"{setting.layout.pair_groups}, {setting.layout.slots}"
    return tuple(
        f"{b}[0][0] = load_sum<{template}>(sums, pair.first_group, 2 * {_PLACES}[0] + {part});"
        for part, (_, b) in enumerate(_parts(op))
    )


def _load(setting: Setting, op: Operation, dual: str) -> tuple[str, ...]:
    targets, grid = setting.layout.tensors[op.slot].targets, setting.grids[op.target_grid]
    return tuple(
        f"load<{_size(op.target_grid)}>({grid}, a.tensors, pair.tensors + {target}, {b});"
        for target, (_, b) in zip(targets, _parts(op), strict=False)
    )


def _save(setting: Setting, op: Operation, dual: str) -> tuple[str, ...]:
    sources, grid = setting.layout.tensors[op.slot].sources, setting.grids[op.grid]
    return tuple(
        f"save<{_size(op.grid)}>({grid}, a.tensors, pair.tensors + {source}, {a});"
        for source, (a, _) in zip(sources, _parts(op), strict=False)
    )


def _output(setting: Setting, op: Operation, dual: str) -> tuple[str, ...]:
    value, grid = _parts(op)[-1][0], setting.grids[op.grid]
    place = f"pair.number * {setting.program.readout_count} + {_PLACES}[0]"
    return (f"set_where(pair.counts & {grid}.counts[0] & at_zero, a.readouts, {place}, widen({value}[0][0]));",)


WRITERS: dict[Code, Callable[[Setting, Operation, str], tuple[str, ...]]] = {
    Code.INPUT: _input,
    Code.LOAD: _load,
    Code.LOAD_SUM: _load_sum,
    Code.WEIGH: _weigh,
    Code.ADD: _add,
    Code.MASK: _mask,
    Code.POOL: _save,
    Code.REDUCE: _reduce,
    Code.OUTPUT: _output,
}
"""How each operation is written; one that is not here is refused."""
