"""Names of earlier versions and of other libraries: an import of one says what to write, and `hasattr` is False.

Seen to fail: without the finder, with a bare "No module named"; without `pipeline.py`, where `import pipeline`
succeeded in a checkout; with a `LayerError` that is no `AttributeError`, where `hasattr` raised it.
"""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cntk_pipeline import inference, layers, regression
from cntk_pipeline.errors import LayerError
from cntk_pipeline.missing import MOVED

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("old", MOVED)
def test_an_old_module_says_where_it_is_now_and_that_is_there(old: str) -> None:
    new = f"cntk_pipeline.{MOVED[old]}"
    with pytest.raises(ImportError, match=f"^cntk_pipeline.{re.escape(old)} has moved: import {re.escape(new)}$"):
        importlib.import_module(f"cntk_pipeline.{old}")
    assert importlib.util.find_spec(new)


def test_a_module_that_never_was_is_not_found_as_ever() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'cntk_pipeline.never'"):
        importlib.import_module("cntk_pipeline.never")
    with pytest.raises(ImportError, match="cannot import name 'never'"):
        from cntk_pipeline import never  # type: ignore[attr-defined]  # noqa: F401


@pytest.mark.parametrize("statement", ["import pipeline", "from pipeline.layers import Relu", "import pipeline.store"])
def test_the_old_name_of_the_package_says_the_new_one_in_a_checkout(statement: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "pipeline")}
    done = subprocess.run(
        [sys.executable, "-c", statement], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "ImportError: the package `pipeline` is called cntk_pipeline now: write" in done.stderr


@pytest.mark.parametrize("name", [name for name in regression.__all__ if not hasattr(inference, name)])
def test_functions_for_kernels_in_memory_say_that_they_are_in_another_room(name: str) -> None:
    line = f"{name} works in memory: write `from cntk_pipeline.regression import {name}`"
    with pytest.raises(AttributeError, match=line):
        getattr(inference, name)
    with pytest.raises(ImportError, match=line):
        exec(f"from cntk_pipeline.inference import {name}")


def test_a_refused_layer_is_no_attribute_and_its_import_has_the_reason() -> None:
    assert getattr(layers, "LSTM", None) is None
    for error in (LayerError, AttributeError):
        with pytest.raises(error, match=r"there is no layer LSTM, since .*no closed form"):
            _ = layers.LSTM
    with pytest.raises(LayerError, match=r"there is no layer LSTM, since .*no closed form"):
        from cntk_pipeline.layers import LSTM  # noqa: F401
