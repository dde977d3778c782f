"""The seconds of a pair that were counted, not measured: for the size of tiles where no device is at hand."""

import numpy as np

from cntk_pipeline.kernels.program import Program

LEAST_SECONDS = {
    "sm_80": (2.33e-12, 13.1e-12),
    "sm_89": (3.00e-12, 270e-12),
    "sm_90": (1.53e-12, 4.31e-12),
}
"""The least seconds of a plane entry in float32 and float64 on A100, L4 and H100, of ``benchmarks/gpu_model.py``."""

OTHERWISE = "sm_90"
"""The architecture whose seconds stand for those that were not counted."""

REAL = 2.0
"""What a kernel is expected to take of the least seconds, which leave out each wait for memory."""


def count_pair_seconds(program: Program, dtype: np.dtype, architecture: str) -> float:
    """Return the seconds of a pair on a device, as counted.

    Parameters
    ----------
    dtype : dtype
        Of planes.
    architecture : str
        As ``sm_90``.
    """
    seconds = LEAST_SECONDS.get(architecture, LEAST_SECONDS[OTHERWISE])[dtype == np.float64]
    return REAL * program.plane_entries * seconds
