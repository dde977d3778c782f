"""Loops over one plane: the covariances of a left image with a block of right images at one offset.

A plane has the right images as its innermost axis, the 16 *lanes*, so a loop over pixels handles one value of 16
lanes a turn (`pipeline.kernels.lanes`). Around its pixels lie ``halo`` pixels of zeros on the left, on the right and
below, which windows read instead of asking where the plane ends.

Windows are summed along rows into a ring of a few rows, so that the result may overwrite its source: planes then fit
into half the cache. For windows of 3 x 3, sums and activation are one loop over the pixels of a row, which keeps the
last columns in registers; other windows are summed by a loop of their own.

What belongs to the left image is one scalar a pixel; for pairs of an image with itself it differs by lane.
`load_left` hides the difference.

Planes come as pointers to their first pixel: an array passed to a function costs 10 to 20 ns, as much as a pixel.
"""

from typing import Any

from pipeline.kernels.duals import relu_duals
from pipeline.kernels.jit import jit
from pipeline.kernels.lanes import LANES, address, broadcast, load, load_left, store, widen
from pipeline.kernels.program import Array


@jit
def clear_rims(planes_out: Array, shape: tuple[int, int], halo: int) -> None:
    """Set the zeros around the pixels of all planes: left, right and below.

    Parameters
    ----------
    planes_out : ``(registers, 2, rows, (columns + 2 halo) * lanes)``.
    shape : height and width of the planes in pixels.
    """
    zero = broadcast(0.0, planes_out)
    stride = planes_out.shape[3]
    for q in range(planes_out.shape[0] * 2):
        plane = address(planes_out, q * planes_out.shape[2] * stride)
        for i in range(shape[0]):
            for j in range(halo):
                store(plane, i * stride + j * LANES, zero)
                store(plane, i * stride + (halo + shape[1] + j) * LANES, zero)
        for i in range(shape[0], shape[0] + halo):
            for j in range(shape[1] + 2 * halo):
                store(plane, i * stride + j * LANES, zero)


@jit
def sum_windows(
    source: Any, target_out: Any, ring: Any, stride: int, shape: tuple[int, int], window: tuple[int, int]
) -> None:
    """Sum a plane over windows of any size.

    With padding "SAME" a window reaches ``(size - 1) // 2`` pixels up and left, and the rest down and right.

    Parameters
    ----------
    source, target_out : the first pixels of planes, which may be the same.
    ring : scratch of as many rows as the window is high.
    stride : elements of a row, of planes and ring.
    shape : height and width of the plane in pixels.
    window : height and width of the window in pixels.
    """
    above, below = (window[0] - 1) // 2, window[0] // 2
    left = (window[1] - 1) // 2
    for i in range(-below, shape[0]):
        entering = i + below
        if entering < shape[0]:
            for j in range(shape[1]):
                first = entering * stride + (j - left) * LANES
                total = load(source, first)
                for k in range(1, window[1]):
                    total = total + load(source, first + k * LANES)
                store(ring, (entering % window[0]) * stride + j * LANES, total)
        if i >= 0:
            top = max(0, i - above)
            for j in range(shape[1]):
                total = load(ring, (top % window[0]) * stride + j * LANES)
                for k in range(top + 1, min(shape[0], i + below + 1)):
                    total = total + load(ring, (k % window[0]) * stride + j * LANES)
                store(target_out, i * stride + j * LANES, total)


def _layer(convolve: bool, activate: bool, tangent: bool) -> Any:
    """Compile a loop over a plane's pixels for one kind of layer, so that no pixel asks what its layer does."""

    def layer_plane(
        source: Any,
        target_out: Any,
        ring: Any,
        steps: tuple[int, int, int],
        shape: tuple[int, int],
        factors: tuple[float, float, float],
        left_gain: Any,
        left_inverse: Any,
        right_gain: Any,
        right_inverse: Any,
        image_width: int,
    ) -> None:
        """Apply a linear layer, ReLU where the layer has one, to a register.

        ``S = scale * window_sum(S) + bias`` and ``T = scale * window_sum(T) + own * S``, the windows being 3 x 3 or
        one pixel; then ``S' = k1(rho) * gains`` and ``T' = k0(rho) / 2 * T``. A gain is the standard deviation after
        ReLU, an inverse that of the one before it (0 for a variance of 0).

        Parameters
        ----------
        source, target_out : the first pixels of S; they may be the same register.
        ring : scratch of two rows for S and for T.
        steps : elements from a row to the next, from S to T in a register, from S to T in the ring.
        shape : height and width of the plane in pixels.
        factors : scale, bias, own.
        left_gain, left_inverse, right_gain, right_inverse : at the first pixels of the pair of images.
        image_width : pixels from a row to the next in these four.
        """
        stride, tangent_step, ring_step = steps
        scale, bias, own = broadcast(factors[0], source), broadcast(factors[1], source), broadcast(factors[2], source)
        # The 1/2 of the ReLU's derivative costs nothing in these two factors.
        share = broadcast(0.5 if activate else 1.0, source)
        zero = broadcast(0.0, source)
        tangent_scale, tangent_own = share * scale, share * own
        source_t, target_t, ring_t = (
            address(source, tangent_step),
            address(target_out, tangent_step),
            address(ring, ring_step),
        )
        if convolve:
            for j in range(shape[1]):
                m = j * LANES
                s = load(source, m - LANES) + load(source, m) + load(source, m + LANES)
                store(ring, m, s)
                store(ring, stride + m, zero)
                if tangent:
                    t = load(source_t, m - LANES) + load(source_t, m) + load(source_t, m + LANES)
                    store(ring_t, m, t)
                    store(ring_t, stride + m, zero)
        for i in range(shape[0]):
            row, below = i * stride, (i + 1) * stride
            # The ring holds the sums of row i - 1, which those of row i + 1 replace, and of row i.
            here, other = (i % 2) * stride, ((i + 1) % 2) * stride
            if convolve:
                s_left, s_middle = load(source, below - LANES), load(source, below)
                if tangent:
                    t_left, t_middle = load(source_t, below - LANES), load(source_t, below)
            for j in range(shape[1]):
                m = j * LANES
                if convolve:
                    s_right = load(source, below + m + LANES)
                    s_below = s_left + s_middle + s_right
                    s = load(ring, other + m) + load(ring, here + m) + s_below
                    store(ring, other + m, s_below)
                    s_left, s_middle = s_middle, s_right
                    if tangent:
                        t_right = load(source_t, below + m + LANES)
                        t_below = t_left + t_middle + t_right
                        t = load(ring_t, other + m) + load(ring_t, here + m) + t_below
                        store(ring_t, other + m, t_below)
                        t_left, t_middle = t_middle, t_right
                else:
                    s = load(source, row + m)
                    if tangent:
                        t = load(source_t, row + m)
                covariance = scale * s + bias
                if tangent:
                    t = tangent_scale * t + tangent_own * covariance
                if activate:
                    x, z = i * image_width + j, (i * image_width + j) * LANES
                    rho = covariance * (load_left(left_inverse, x) * load(right_inverse, z))
                    k0, k1 = relu_duals(rho)
                    covariance = k1 * (load_left(left_gain, x) * load(right_gain, z))
                    if tangent:
                        t = t * k0
                store(target_out, row + m, covariance)
                if tangent:
                    store(target_t, row + m, t)

    return jit(layer_plane)


linear_plane = _layer(convolve=False, activate=False, tangent=False)
linear_plane_with_tangent = _layer(convolve=False, activate=False, tangent=True)
relu_plane = _layer(convolve=False, activate=True, tangent=False)
relu_plane_with_tangent = _layer(convolve=False, activate=True, tangent=True)
convolved_plane = _layer(convolve=True, activate=False, tangent=False)
convolved_plane_with_tangent = _layer(convolve=True, activate=False, tangent=True)
convolved_relu_plane = _layer(convolve=True, activate=True, tangent=False)
convolved_relu_plane_with_tangent = _layer(convolve=True, activate=True, tangent=True)


@jit
def input_plane(
    left: Any,
    right: Any,
    target_out: Any,
    steps: tuple[int, int],
    shape: tuple[int, int],
    image: tuple[int, int, int],
    scale: float,
) -> None:
    """Write ``S' = scale * sum_c x z`` of the raw images at one offset, and ``T' = 0``.

    Parameters
    ----------
    left, right : at the first pixels of the pair of images, channel 0.
    target_out : the first pixel of S in a register.
    steps : elements from a row to the next, from S to T.
    shape : height and width of the plane in pixels.
    image : channels, pixels from a channel to the next, pixels from a row to the next.
    """
    zero, factor = broadcast(0.0, target_out), broadcast(scale, target_out)
    for i in range(shape[0]):
        for j in range(shape[1]):
            total = zero
            for c in range(image[0]):
                pixel = c * image[1] + i * image[2] + j
                total = total + load_left(left, pixel) * load(right, pixel * LANES)
            store(target_out, i * steps[0] + j * LANES, factor * total)
            store(target_out, steps[1] + i * steps[0] + j * LANES, zero)


@jit
def add_plane_sum(plane: Any, stride: int, shape: tuple[int, int], weight: float, sums_out: Any) -> None:
    """Add ``weight`` times the sum over a plane to 16 float64 at ``sums_out``, lane by lane.

    A row is summed in the plane's dtype (at most W terms), rows and offsets in float64, always in this order.

    Parameters
    ----------
    plane : its first pixel.
    stride : elements from a row to the next.
    shape : height and width of the plane in pixels.
    """
    total, factor = load(sums_out, 0), broadcast(weight, sums_out)
    for i in range(shape[0]):
        row = load(plane, i * stride)
        for j in range(1, shape[1]):
            row = row + load(plane, i * stride + j * LANES)
        total = total + factor * widen(row)
    store(sums_out, 0, total)
