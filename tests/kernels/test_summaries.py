"""A summary is a text wherever it is shown."""

import pytest
import rich.console

from cntk_pipeline.kernels import summary
from cntk_pipeline.layers import presets


def test_a_summary_is_the_same_text_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    table = summary(presets.cntk(3, pooling="gap"), (8, 8, 1))
    elsewhere = str(table)
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)  # the library then shows a table at once
    assert str(table) == elsewhere
    assert elsewhere.splitlines()[-1].startswith("8,193 plane entries a pair in 2 stages")
