"""Programs as numbers: what compiled code finds at each place."""

import numpy as np
import pytest
from support.tolerances import DTYPES

from cntk_pipeline.kernels import lower
from cntk_pipeline.kernels.program import Code
from cntk_pipeline.kernels.tables import (
    Entry,
    Kind,
    StageEntry,
    TensorEntry,
    lay_out_statistics,
    make_tables,
    make_visit_tables,
)
from cntk_pipeline.layers import (
    AvgPool,
    Conv,
    Dense,
    Flatten,
    Gelu,
    GlobalAvgPool,
    LeakyRelu,
    Polynomial,
    Relu,
    SelfAttention,
    Sequential,
)

NETWORK = Sequential(
    Conv(3, strides=2, w_std=1.5, b_std=0.5), LeakyRelu(0.5), AvgPool((2, 1), 1), Conv(3), Gelu(), SelfAttention(),
    Relu(), Conv((2, 1), padding="CIRCULAR", trained=False), Polynomial((1.0, 2.0)), Flatten(), Dense(),
)  # fmt: skip
PROGRAM = lower([(NETWORK, "ntk"), (Sequential(Conv(3), Relu(), GlobalAvgPool()), "nngp")], (6, 8, 3))
OPERATIONS = [op for stage in PROGRAM.stages for op in stage.operations]
TABLES = make_tables(PROGRAM, np.dtype("float32"))


def test_operations_are_written_field_by_field():
    assert len(TABLES.codes) == len(OPERATIONS)
    for row, op in zip(TABLES.codes, OPERATIONS, strict=True):
        assert (row[Entry.CODE], row[Entry.SOURCE], row[Entry.OTHER], row[Entry.TARGET], row[Entry.SLOT]) == (
            op.code, op.source, op.other, op.target, op.slot,
        )  # fmt: skip
        assert row[Entry.TANGENT] == op.tangent
        assert (row[Entry.HEIGHT], row[Entry.WIDTH]) == (op.grid.height, op.grid.width)
        assert (row[Entry.STEP_ROWS], row[Entry.STEP_COLUMNS]) == op.grid.step
        assert (row[Entry.TO_HEIGHT], row[Entry.TO_WIDTH]) == (op.target_grid.height, op.target_grid.width)
        assert (row[Entry.TO_STEP_ROWS], row[Entry.TO_STEP_COLUMNS]) == op.target_grid.step
        if op.windows is not None:
            rows, columns = op.windows
            assert list(row[Entry.ROW_WINDOW : Entry.CLEAR]) == [
                rows.window, rows.stride, rows.before, columns.window, columns.stride, columns.before,
            ]  # fmt: skip


def test_windows_are_summed_by_the_loop_of_their_kind():
    kinds = [Kind(row[Entry.KIND]) for row, op in zip(TABLES.codes, OPERATIONS, strict=True) if op.window != (1, 1)]
    assert sorted(kinds) == [Kind.PLAIN_3X3, Kind.PLAIN_3X3, Kind.WINDOWS, Kind.CIRCULAR]
    pixels = [row for row, op in zip(TABLES.codes, OPERATIONS, strict=True) if op.window == (1, 1)]
    assert all(row[Entry.KIND] == Kind.PIXEL for row in pixels)


def test_the_rim_is_cleared_where_planes_are_smaller_than_those_of_their_stage():
    cleared = [op.grid.step for row, op in zip(TABLES.codes, OPERATIONS, strict=True) if row[Entry.CLEAR]]
    assert (2, 2) in cleared
    plain = make_tables(
        lower([(Sequential(*[Conv(3), Relu()] * 3, GlobalAvgPool()), "ntk")], (4, 4, 1)), np.dtype("f8")
    )
    assert not plain.codes[:, Entry.CLEAR].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_factors_are_the_layers_numbers_in_the_dtype_of_planes(dtype):
    tables = make_tables(PROGRAM, np.dtype(dtype))
    leaky = next(k for k, op in enumerate(OPERATIONS) if isinstance(op.function, LeakyRelu))
    np.testing.assert_array_equal(tables.exact_params[leaky], [1.5**2 / 9, 0.25, 1, 0.5, 0.25, 0.625, 0, 0])
    np.testing.assert_array_equal(tables.params, tables.exact_params.astype(dtype))
    assert tables.params.dtype == tables.weights.dtype == tables.term_weights.dtype == dtype


def test_statistics_lie_one_behind_the_other():
    layout = lay_out_statistics(PROGRAM)
    # A series has its inverse deviation twice and a coefficient a term; attention has a row of numbers a position.
    counts = {type(OPERATIONS[s.operation].function or OPERATIONS[s.operation].code): s.count for s in layout}
    assert counts == {LeakyRelu: 2, Relu: 2, Gelu: 3, Polynomial: 4, Code: 1}
    (mixer,) = (s for s in layout if OPERATIONS[s.operation].code is Code.ATTEND)
    assert (mixer.height, mixer.width) == (2 * 4, 2 * 4)
    left = right = 0
    for s in layout:
        assert (s.start, s.right_start) == (left, right)
        assert s.right_area == s.height * s.width * (4 if s.circular else 1)
        left, right = left + s.count * s.area, right + s.count * s.right_area
        row = TABLES.codes[s.operation]
        assert list(row[Entry.LEFT : Entry.TERMS]) == [s.start, s.right_start, s.area, s.right_area]
    assert any(s.circular for s in layout)
    (series,) = (row for row, op in zip(TABLES.codes, OPERATIONS, strict=True) if isinstance(op.function, Polynomial))
    assert series[Entry.TERMS] == 2


def test_tensors_lie_one_behind_the_other_with_room_for_both_parts():
    begin = 0
    for row, tensor in zip(TABLES.tensors, PROGRAM.tensors, strict=True):
        assert (row[TensorEntry.BEGIN], row[TensorEntry.SIZE]) == (begin, tensor.size)
        rows, columns = row[TensorEntry.ROW_COUNT], row[TensorEntry.COLUMN_COUNT]
        starts = TABLES.starts[row[TensorEntry.STARTS] :][: rows * columns].reshape(rows, columns)
        np.testing.assert_array_equal(starts, tensor.starts)
        np.testing.assert_array_equal(TABLES.widths[row[TensorEntry.WIDTHS] :][:columns], tensor.widths)
        begin += 2 * tensor.size


def test_poolings_and_sums_find_their_terms_and_weights():
    poolings = 0
    for row, op in zip(TABLES.codes, OPERATIONS, strict=True):
        for entry, axis in zip((Entry.ROW_TABLE, Entry.COLUMN_TABLE), op.terms or (), strict=False):
            bounds = TABLES.bounds[row[entry] :][: len(axis.bounds)]
            np.testing.assert_array_equal(TABLES.terms[bounds[0] : bounds[-1]], axis.terms)
            np.testing.assert_array_equal(np.diff(bounds), np.diff(axis.bounds))
            # The rows' weights carry the scale of the whole.
            scale = op.scale if entry == Entry.ROW_TABLE else 1
            found = TABLES.term_weights[bounds[0] : bounds[-1]]
            np.testing.assert_array_equal(found, (axis.weights * scale).astype("float32"))
            poolings += 1
        for entry, weights in zip((Entry.ROW_TABLE, Entry.COLUMN_TABLE), op.weights or (), strict=False):
            found = TABLES.weights[row[entry] :][: weights.size]
            np.testing.assert_array_equal(found, weights.ravel().astype("float32"))
    assert poolings >= 4


@pytest.mark.parametrize("of_self", [False, True])
def test_visits_of_a_stage_are_its_own(of_self):
    found = make_visit_tables(PROGRAM, of_self)
    operation = 0
    for row, stage in zip(found.stages, PROGRAM.stages, strict=True):
        visits = stage.self_visits if of_self else stage.visits
        assert (row[StageEntry.FIRST], row[StageEntry.LAST]) == (operation, operation + len(stage.operations))
        operation += len(stage.operations)
        first, last = row[StageEntry.FIRST_VISIT], row[StageEntry.LAST_VISIT]
        np.testing.assert_array_equal(found.offsets[first:last], visits.offsets)
        marks = found.marks[row[StageEntry.FIRST_MARK] :][: visits.marks.size]
        np.testing.assert_array_equal(marks.reshape(-1, len(stage.operations)), visits.marks.T)
        assert (row[StageEntry.HEIGHT], row[StageEntry.WIDTH]) == (stage.height, stage.width)
        assert (row[StageEntry.CIRCULAR], row[StageEntry.HALO], row[StageEntry.REGISTERS]) == (
            stage.circular, stage.halo, stage.register_count,
        )  # fmt: skip
    assert operation == len(OPERATIONS)
