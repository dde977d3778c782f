import pytest

from cntk_pipeline.datasets import DATASETS, Loader, load
from cntk_pipeline.errors import ConfigError


@pytest.mark.parametrize("name", DATASETS)
def test_the_table_names_a_final_loader(name):
    assert issubclass(DATASETS[name], Loader)
    assert DATASETS[name].__final__


def test_an_unknown_source_brings_the_nearest_name():
    with pytest.raises(ConfigError, match=r"one of digits, cifar10, npz, .*, got 'cifar-10'; did you mean 'cifar10'"):
        load("cifar-10")


def test_a_source_like_no_other_brings_the_list():
    with pytest.raises(ConfigError, match=r"got 'qqq'; choose one of them as data.source"):
        load("qqq")


@pytest.mark.parametrize("source", ["npz", "folder"])
def test_a_source_of_files_needs_a_path(source):
    with pytest.raises(ConfigError, match=f"data source '{source}': expected a path, got none; set data.path to an? "):
        load(source)


def test_a_key_of_another_source_is_refused_with_the_source_that_has_it():
    with pytest.raises(
        ConfigError, match=r"unknown key data.layout: it belongs to source = 'npz' or 'npy' or 'table', not to 'dig"
    ):
        load("digits", options={"layout": "channels_first"})


def test_an_unknown_key_brings_the_nearest_one():
    with pytest.raises(ConfigError, match=r"unknown key data.layuot: did you mean 'layout'\?"):
        load("npz", "x.npz", options={"layuot": "channels_first"})


def test_an_unknown_key_is_compared_with_the_general_keys_too():
    with pytest.raises(ConfigError, match=r"unknown key data.tran: did you mean 'train'\?"):
        load("digits", options={"tran": 3})
    with pytest.raises(ConfigError, match=r"unknown key data.zzz: known are source, train, .*, path, task"):
        load("digits", options={"zzz": 3})


def test_a_wrong_value_of_a_key_is_named():
    with pytest.raises(
        ConfigError, match=r"data.layout: Input should be 'channels_last', .* or 'sequences', got 'first'"
    ):
        load("npz", "x.npz", options={"layout": "first"})


@pytest.mark.parametrize("source", ["digits", "cifar10"])
def test_a_source_of_classes_is_no_regression(source):
    with pytest.raises(
        ConfigError, match=f"data source '{source}': expected data.task = .auto. or .classification.*leave"
    ):
        load(source, task="regression")
