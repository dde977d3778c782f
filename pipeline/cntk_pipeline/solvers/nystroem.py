"""Images as the centres see them: the features ``b(x) = L^-1 k(x)``, whose products stand for the kernel.

k(x) holds the kernel of x with the m centres, and ``L L^T`` their own kernel, so that ``b(x)^T b(z)`` is the Nystroem
approximation of the kernel: exact where x or z is a centre. Behind them come ``v(x) = M^-1 b(x)`` with ``M M^T = B^T
B + ridge I``, B being the features of all training images, a row each. L and M are lower triangular: the first entries
of b and v belong to the first centres alone. (Quinonero-Candela and Rasmussen 2005, JMLR 6, section 5.)
"""

from typing import Literal

import numpy as np

from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers.blas import solve_right
from cntk_pipeline.solvers.systems import Bounds, System, SystemKernel, read_targets
from cntk_pipeline.storage.tiled_array import Array


def read_features(run: RunDirectory, system: System, part: Literal["train", "test"], rows: Bounds) -> Array:
    """Evaluate the features of some images, ``(images, m)``."""
    kernel, every = SystemKernel(run, system), (0, run.column_cut.count)
    block = kernel.train(rows, every) if part == "train" else kernel.test(rows, every)
    solve_right(run.solved(system.fingerprint, "centre_factor").read(0, 0), block)
    return block


def whiten(run: RunDirectory, system: System, features: Array) -> Array:
    """Turn features b into v, ``(images, m)``."""
    whitened = features.copy()
    solve_right(run.solved(system.fingerprint, "normal_factor").read(0, 0), whitened)
    return whitened


def residual_of_centres(run: RunDirectory, system: System, rows: Bounds) -> Array:
    """Evaluate ``K_i^T (K_i alpha - Y_i)`` for the rows i of some training images, ``(m, classes)``, in float64.

    The sum over all images, with the ridge's part, is what the coefficients should make zero; see `relative_residual`.
    """
    block = SystemKernel(run, system).train(rows, (0, run.column_cut.count))
    alpha = run.solved(system.fingerprint, "coefficients").read(0, 0)
    return np.asarray(block.T @ (block @ alpha - read_targets(run, rows)))


def relative_residual(run: RunDirectory, system: System) -> float:
    """Evaluate ``||(B^T B + ridge I) beta - B^T Y|| / ||B^T Y||`` with ``beta = L^T alpha``, from the stored kernel.

    The products of B are sums over the array "residual"; only L comes from the solve.
    """
    import scipy.linalg

    solve, cut = system.fingerprint, run.train_cut
    residual, lower = run.solved(solve, "residual"), run.solved(solve, "centre_factor").read(0, 0)
    total = sum((residual.read(piece, 0) for piece in range(1, cut.pieces)), residual.read(0, 0).copy())
    beta = lower.T @ run.solved(solve, "coefficients").read(0, 0)
    gradient = scipy.linalg.solve_triangular(lower, total, lower=True) + system.absolute_ridge * beta
    wanted = run.solved(solve, "normal_factor").read(0, 0) @ run.solved(solve, "forward").read(0, 0).T
    return float(np.linalg.norm(gradient) / (np.linalg.norm(wanted) or 1.0))
