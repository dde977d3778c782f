"""Results of a kernel in a run's store, tile by tile. ``RESULTS`` is the interface of this package: results by key.

The same results for a kernel in memory are in `cntk_pipeline.regression`.
"""

import sys
from types import ModuleType
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
from cntk_pipeline.inference.base import Product, Result, Shown
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
from cntk_pipeline.missing import explain_missing

__all__ = [
    "RESULTS",
    "RIDGE_PATH",
    "RIDGE_PHASE",
    "Capacity",
    "EnsembleRecord",
    "Product",
    "Result",
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


class _ResultFile(ModuleType):
    """The file of a result, in whose place earlier versions had a function for kernels in memory."""

    def __call__(self, *arguments: object, **named: object) -> None:
        raise TypeError(_in_memory(self.__name__.rpartition(".")[2]))


explain_missing(_import_error)
for _name in regression.__all__:
    if _file := sys.modules.get(f"{__name__}.{_name}"):
        _file.__class__ = _ResultFile
