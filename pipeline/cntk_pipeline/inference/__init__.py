"""Results of a kernel that a run has stored, tile by tile. ``RESULTS`` is the door of this room: results by their key.

The same for a kernel in memory is in `cntk_pipeline.regression`.
"""

from typing import Any

from cntk_pipeline import regression
from cntk_pipeline.inference.auto_ridge import (
    RIDGE_PATH,
    Capacity,
    choose_ridge,
    forecast_choice,
    path_product,
    show_choices,
)
from cntk_pipeline.inference.base import Product, Result, Shown, share_text
from cntk_pipeline.inference.ensemble import EnsembleRecord, blocks
from cntk_pipeline.inference.leave_one_out import inverse_need
from cntk_pipeline.inference.remedies import add_remedies
from cntk_pipeline.inference.requested import (
    RESULTS,
    asked_of,
    forecast_results,
    needs_test_kernel,
    owners,
    requested_products,
    require_options,
    require_results,
    run_products,
)

__all__ = [
    "RESULTS",
    "RIDGE_PATH",
    "Capacity",
    "EnsembleRecord",
    "Product",
    "Result",
    "Shown",
    "add_remedies",
    "asked_of",
    "blocks",
    "choose_ridge",
    "forecast_choice",
    "forecast_results",
    "inverse_need",
    "needs_test_kernel",
    "owners",
    "path_product",
    "requested_products",
    "require_options",
    "require_results",
    "run_products",
    "share_text",
    "show_choices",
]


def __getattr__(name: str) -> Any:
    """Say where the functions for kernels in memory are, which earlier versions had here."""
    if name in regression.__all__:
        raise ImportError(f"{name} works in memory: write `from cntk_pipeline.regression import {name}`")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
