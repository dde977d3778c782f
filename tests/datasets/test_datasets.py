import pytest

from cntk_pipeline.datasets import DATASETS, Loader, load
from cntk_pipeline.errors import ConfigError


@pytest.mark.parametrize("name", ["digits", "cifar10", "npz", "folder"])
def test_the_table_names_a_final_loader(name):
    assert issubclass(DATASETS[name], Loader)
    assert DATASETS[name].__final__


def test_an_unknown_source_brings_the_nearest_name():
    with pytest.raises(
        ConfigError, match="one of digits, cifar10, npz, folder, got 'cifar-10'; did you mean 'cifar10'"
    ):
        load("cifar-10")


def test_a_source_like_no_other_brings_the_list():
    with pytest.raises(ConfigError, match=r"got 'qqq'; choose one of them as data.source"):
        load("qqq")


@pytest.mark.parametrize("source", ["npz", "folder"])
def test_a_source_of_files_needs_a_path(source):
    with pytest.raises(ConfigError, match=f"data source '{source}': expected a path, got none; set data.path to an? "):
        load(source)
