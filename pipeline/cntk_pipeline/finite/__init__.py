"""Finite networks: the networks of the algebra at a width, as modules of torch, and the kernels that they have.

torch is imported when a network is built, not before.
"""

from typing import TYPE_CHECKING

from cntk_pipeline.lazy import lazy_names

if TYPE_CHECKING:
    from cntk_pipeline.finite.building import build, count_weights
    from cntk_pipeline.finite.empirical import empirical_kernel
    from cntk_pipeline.finite.layerwise import empirical_kernels

__all__ = ["build", "count_weights", "empirical_kernel", "empirical_kernels"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "build": "building",
        "count_weights": "building",
        "empirical_kernel": "empirical",
        "empirical_kernels": "layerwise",
    },
)
