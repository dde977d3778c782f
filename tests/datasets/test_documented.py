"""The table of formats in docs/data.md: each example is read, from files that this test writes."""

import re
import tomllib
from pathlib import Path

import pytest
from support.formats import write_formats

from cntk_pipeline.config.problem import DataConfig
from cntk_pipeline.datasets import DATASETS, make_loader, select

DOCS = Path(__file__).parents[2] / "docs" / "data.md"
ROWS = [line.split(" | ")[1] for line in DOCS.read_text().splitlines() if "`source = " in line and line.startswith("|")]
EXAMPLES = ["\n".join(re.findall(r"`(.+?)`", row)) for row in ROWS]


@pytest.fixture
def files(tmp_path, write_binary):
    """Write the files of all examples."""
    write_formats(tmp_path)
    write_binary(tmp_path / "cifar")
    return tmp_path


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.replace("\n", ", "))
def test_the_example_of_a_format_is_read(files, monkeypatch, example):
    monkeypatch.chdir(files)
    keys = tomllib.loads(example)
    table = DataConfig.model_validate(keys)
    data = make_loader(table.source, table.options | {"path": table.path, "task": table.task}).load()
    if table.train is not None:
        data = select(data, table.train, table.test, table.train_blocks)
        assert len(data.train) == table.train
    assert len(data.train) >= 2
    if keys.get("target") == "price" or keys.get("path") == "diabetes":
        assert data.task == "regression"
    if "resize" in keys:
        assert data.train.images.shape[1:] == (32, 32, 3)


def test_every_source_has_an_example():
    assert {tomllib.loads(example)["source"] for example in EXAMPLES} == set(DATASETS)
