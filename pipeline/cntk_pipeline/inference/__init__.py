"""Results of a kernel in a run's store, tile by tile. ``RESULTS`` is the interface of this package: results by key.

The same results for a kernel in memory are in `cntk_pipeline.regression`.
"""

from typing import Any

from cntk_pipeline import regression
from cntk_pipeline.inference.auto_ridge import (
    RIDGE_PATH,
    RIDGE_PHASE,
    Capacity,
    choose_ridges,
    forecast_choice,
    path_product,
    show_choices,
)
from cntk_pipeline.inference.base import Product, Shown
from cntk_pipeline.inference.ensemble import blocks
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
from cntk_pipeline.missing import explain_missing

__all__ = [
    "RESULTS",
    "RIDGE_PATH",
    "RIDGE_PHASE",
    "Capacity",
    "Product",
    "Shown",
    "add_remedies",
    "asked_of",
    "blocks",
    "choose_ridges",
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
    "show_choices",
]


def _in_memory(name: str) -> str | None:
    """Give the new place of a function for kernels in memory; earlier versions had them here."""
    if name not in regression.__all__:
        return None
    return f"{name} works in memory: write `from cntk_pipeline.regression import {name}`"


def __getattr__(name: str) -> Any:
    raise AttributeError(_in_memory(name) or f"module {__name__!r} has no attribute {name!r}")


def _import_error(name: str) -> ImportError | None:
    room, _, last = name.rpartition(".")
    line = _in_memory(last) if room == __name__ else None
    return ImportError(line, name=name) if line else None


explain_missing(_import_error)
