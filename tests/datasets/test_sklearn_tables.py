import numpy as np
import pytest
from sklearn import datasets

from cntk_pipeline.datasets import load
from cntk_pipeline.datasets.sklearn_tables import TABLES
from cntk_pipeline.errors import ConfigError


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_vectors_the_labels_and_the_names_of_scikit_learn(name):
    expected = getattr(datasets, f"load_{name}")()
    data = load("sklearn", name)
    np.testing.assert_array_equal(data.train.images, expected.data)
    np.testing.assert_array_equal(np.squeeze(data.train.labels), expected.target)
    assert data.features == tuple(expected.feature_names)
    assert data.test is None
    named = [str(each) for each in expected.get("target_names", ["target"])]
    assert list(data.classes) == named


def test_the_task_is_that_of_the_table():
    assert load("sklearn", "diabetes").task == load("sklearn", "linnerud").task == "regression"
    assert load("sklearn", "wine").task == "classification"
    assert load("sklearn", "digits", task="regression").train.labels[:3].tolist() == [[0.0], [1.0], [2.0]]


@pytest.mark.parametrize("name", [None, "california"])
def test_another_table_is_refused_with_the_list(name):
    with pytest.raises(ConfigError, match=r"'sklearn': expected one of iris, wine, .*linnerud, got .*; set data.path"):
        load("sklearn", name)
