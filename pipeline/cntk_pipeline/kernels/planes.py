"""Loops over one plane: the covariances of a left image with a block of right images at one offset.

A plane has the right images as its innermost axis, the 16 *lanes*, so a loop over pixels handles one value of 16
lanes a turn (`kernels.lanes`). Around its pixels lie ``halo`` pixels of zeros on the left, on the right and
below, which windows read instead of asking where the plane ends.

Windows are summed along rows into a ring of a few rows, so that the result may overwrite its source: planes then fit
into half the cache. For windows of 3 x 3, sums and activation are one loop over the pixels of a row, which keeps the
last columns in registers; other windows are summed by a loop of their own.

Planes come as pointers to their first pixel: an array passed to a function costs 10 to 20 ns, as much as a pixel.
"""

from typing import Any

from cntk_pipeline.kernels.jit import jit_inner
from cntk_pipeline.kernels.lanes import LANES, address, broadcast, load, load_repeated, multiply_add, store, widen
from cntk_pipeline.kernels.program import Array


@jit_inner
def clear_rim(plane_out: Any, stride: int, shape: tuple[int, int], halo: int) -> None:
    """Set the zeros around the pixels of a plane: left, right and below.

    Parameters
    ----------
    plane_out : pointer
        Its first pixel.
    stride : int
        Elements of a row.
    shape : (int, int)
        Height and width of the plane in pixels.
    halo : int
        Columns on either side, and rows below.
    """
    zero = broadcast(0.0, plane_out)
    for i in range(shape[0]):
        for j in range(halo):
            store(plane_out, i * stride + (j - halo) * LANES, zero)
            store(plane_out, i * stride + (shape[1] + j) * LANES, zero)
    for i in range(shape[0], shape[0] + halo):
        for j in range(-halo, shape[1] + halo):
            store(plane_out, i * stride + j * LANES, zero)


@jit_inner
def wrap_rim(plane_out: Any, stride: int, shape: tuple[int, int], halo: int) -> None:
    """Set the columns on either side to those of the other end; see `clear_rim`."""
    for i in range(shape[0]):
        for j in range(halo):
            row = i * stride
            store(plane_out, row + (j - halo) * LANES, load(plane_out, row + (shape[1] + j - halo) * LANES))
            store(plane_out, row + (shape[1] + j) * LANES, load(plane_out, row + j * LANES))


@jit_inner
def sum_windows(
    source: Any,
    target_out: Any,
    ring: Any,
    stride: int,
    shape: tuple[int, int],
    target_shape: tuple[int, int],
    windows: tuple[tuple[int, int, int], tuple[int, int, int]],
    circular: bool,
) -> None:
    """Sum a plane over windows of any size, stride and padding.

    Parameters
    ----------
    source, target_out : pointer
        The first pixels of planes, which may be the same unless ``circular``.
    ring : pointer
        Scratch of as many rows as the window is high.
    stride : int
        Elements of a row, of planes and ring.
    shape, target_shape : (int, int)
        Height and width of the planes in pixels.
    windows : ((int, int, int), (int, int, int))
        Of rows and of columns: size, stride, and how far the first one reaches outside.
    circular : bool
        Rows outside are those at the other end; the rim must hold the columns likewise.
    """
    height, down, above = windows[0]
    width, right, before = windows[1]
    entering = -above if circular else 0
    for i in range(target_shape[0]):
        first, last = i * down - above, i * down - above + height
        if not circular:
            first, last = max(first, 0), min(last, shape[0])
        entering = max(entering, first)
        while entering < last:
            row = (entering % shape[0]) * stride
            for j in range(target_shape[1]):
                m = row + (j * right - before) * LANES
                total = load(source, m)
                for k in range(1, width):
                    total = total + load(source, m + k * LANES)
                store(ring, (entering % height) * stride + j * LANES, total)
            entering += 1
        for j in range(target_shape[1]):
            total = load(ring, (first % height) * stride + j * LANES)
            for k in range(first + 1, last):
                total = total + load(ring, (k % height) * stride + j * LANES)
            store(target_out, i * stride + j * LANES, total)


@jit_inner
def add_planes(first: Any, second: Any, target_out: Any, stride: int, shape: tuple[int, int]) -> None:
    """Write the sum of two planes, which may be one of them."""
    for i in range(shape[0]):
        for j in range(shape[1]):
            m = i * stride + j * LANES
            store(target_out, m, load(first, m) + load(second, m))


@jit_inner
def multiply_planes(
    first: Any, second: Any, target_out: Any, tangent_step: int, parts: int, stride: int, shape: tuple[int, int]
) -> None:
    """Write the product of two registers' S, one of which the target may be; ``T' = T1 S2 + S1 T2`` if ``parts`` is 2.

    Parameters
    ----------
    tangent_step : int
        Elements from S to T in a register.
    """
    for i in range(shape[0]):
        for j in range(shape[1]):
            m = i * stride + j * LANES
            a, b = load(first, m), load(second, m)
            store(target_out, m, a * b)
            if parts == 2:
                t = load(first, tangent_step + m) * b
                # The source may be the target, whose S is overwritten by now; its T is not.
                store(target_out, tangent_step + m, multiply_add(a, load(second, tangent_step + m), t))


@jit_inner
def scale_plane(source: Any, target_out: Any, stride: int, shape: tuple[int, int], factors: Any) -> None:
    """Multiply every pixel by 16 factors, one a lane."""
    lanes = load(factors, 0)
    for i in range(shape[0]):
        for j in range(shape[1]):
            m = i * stride + j * LANES
            store(target_out, m, lanes * load(source, m))


@jit_inner
def shift_plane(source: Any, target_out: Any, stride: int, shape: tuple[int, int], amount: Any) -> None:
    """Add a number to every pixel."""
    lanes = broadcast(amount, target_out)
    for i in range(shape[0]):
        for j in range(shape[1]):
            m = i * stride + j * LANES
            store(target_out, m, load(source, m) + lanes)


@jit_inner
def gate_plane(
    source: Any, target_out: Any, stride: int, shape: tuple[int, int], left: Any, left_step: int, right: Any, row: int
) -> None:
    """Multiply each position by a factor of the left image and one of each right image.

    Parameters
    ----------
    left, right : pointer
        The factors at the plane's first position; of the left image one a position if ``left_step`` is 1, else one for
        each lane.
    row : int
        Factors from a row to the next.
    """
    for i in range(shape[0]):
        for j in range(shape[1]):
            m, k = i * stride + j * LANES, i * row + j
            factors = load_repeated(left, k) if left_step == 1 else load(left, k * LANES)
            store(target_out, m, factors * load(right, k * LANES) * load(source, m))


@jit_inner
def fill_plane(lanes: Any, target_out: Any, stride: int, shape: tuple[int, int]) -> None:
    """Write the 16 numbers of the lanes, of any dtype, to every pixel."""
    for i in range(shape[0]):
        for j in range(shape[1]):
            for lane in range(LANES):
                target_out[i * stride + j * LANES + lane] = lanes[lane]


@jit_inner
def copy_plane(source: Any, source_stride: int, target_out: Any, target_stride: int, shape: tuple[int, int]) -> None:
    """Copy pixels between planes whose rows may differ in length."""
    for i in range(shape[0]):
        for j in range(shape[1]):
            store(target_out, i * target_stride + j * LANES, load(source, i * source_stride + j * LANES))


@jit_inner
def add_plane_sum(
    plane: Any,
    stride: int,
    shape: tuple[int, int],
    weights: tuple[Any, Any],
    scale: float,
    sums_out: Any,
) -> None:
    """Add ``scale`` times the weighted sum over a plane to 16 float64 at ``sums_out``, lane by lane.

    A row is summed in the plane's dtype (at most W terms), rows and offsets in float64, always in this order.

    Parameters
    ----------
    plane : pointer
        Its first pixel.
    stride : int
        Elements from a row to the next.
    shape : (int, int)
        Height and width of the plane in pixels.
    weights : (pointer, pointer)
        Of each row, and of each column, in the plane's dtype; a pixel's weight is their product.
    """
    total = load(sums_out, 0)
    for i in range(shape[0]):
        row = weights[1][0] * load(plane, i * stride)
        for j in range(1, shape[1]):
            row = multiply_add(weights[1][j], load(plane, i * stride + j * LANES), row)
        total = multiply_add(scale * weights[0][i], widen(row), total)
    store(sums_out, 0, total)


@jit_inner
def pool_plane(
    plane: Any,
    stride: int,
    row_terms: tuple[Array, Array],
    column_terms: tuple[Array, Array],
    layout: tuple[Any, Any, int],
    buffer: Any,
    width: int,
    tensor_out: Any,
) -> None:
    """Add a plane to what its pixels belong to in the covariances of the pooled images.

    The pooled covariances of an offset are sums over several offsets here. A *term* says that a run of rows (or of
    columns) of this plane belongs to one row (or column) of the plane of one pooled offset.

    Parameters
    ----------
    plane : pointer
        Its first pixel.
    stride : int
        Elements from a row to the next.
    row_terms, column_terms : (array, array)
        For the rows and columns of this plane: ``(terms, 4)`` integers, index of the pooled offset, row in its plane,
        first row here, the one behind the last; and ``(terms,)`` weights.
    layout : (pointer, pointer, int)
        Of the tensor: pixels from ``tensor_out`` to the plane of a pooled offset, by the indices of its row and column,
        -1 where nothing needs it; pixels in a row of a plane, by the column's index; column offsets.
    buffer : pointer
        Scratch for one row.
    width : int
        Of this plane in pixels.
    tensor_out : pointer
        The first pixel of the pooled covariances.
    """
    rows, row_weights = row_terms
    columns, column_weights = column_terms
    starts, widths, column_count = layout
    for r in range(rows.shape[0]):
        first, last = rows[r, 2], rows[r, 3]
        summed = address(plane, first * stride)
        if last - first > 1:
            for j in range(width):
                total = load(plane, first * stride + j * LANES)
                for i in range(first + 1, last):
                    total = total + load(plane, i * stride + j * LANES)
                store(buffer, j * LANES, total)
            summed = buffer
        pooled, start, first_pixel, weight = -1, 0, 0, row_weights[r]
        for c in range(columns.shape[0]):
            if columns[c, 0] != pooled:
                pooled = columns[c, 0]
                start = starts[rows[r, 0] * column_count + pooled]
                first_pixel = start + rows[r, 1] * widths[pooled]
            if start < 0:
                continue
            total = load(summed, columns[c, 2] * LANES)
            for j in range(columns[c, 2] + 1, columns[c, 3]):
                total = total + load(summed, j * LANES)
            m = (first_pixel + columns[c, 1]) * LANES
            store(tensor_out, m, multiply_add(weight * column_weights[c], total, load(tensor_out, m)))
