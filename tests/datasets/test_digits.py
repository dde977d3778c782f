import importlib.util

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cntk_pipeline.datasets import load
from cntk_pipeline.errors import ConfigError


def test_digits_are_real_images_of_sixteen_gray_levels():
    digits = load("digits")
    assert digits.train.images.shape == (1797, 8, 8, 1)
    assert digits.train.images.dtype == np.float32
    assert (digits.train.images.min(), digits.train.images.max()) == (0, 16)
    assert digits.test is None


def test_every_digit_occurs():
    digits = load("digits")
    assert digits.classes == tuple("0123456789")
    # Counts from the description that scikit-learn ships with the data.
    assert np.bincount(digits.train.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.parametrize("found", [True, False], ids=["from its file", "by scikit-learn"])
def test_digits_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch, found: bool) -> None:
    if not found:
        monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    expected, digits = load_digits(), load("digits").train
    np.testing.assert_array_equal(digits.images, expected.images[..., None])
    np.testing.assert_array_equal(digits.labels, expected.target)
    assert digits.images.dtype == np.float32


def test_digits_take_no_path():
    with pytest.raises(ConfigError, match=r"'digits': expected no path, got '/data'; remove data.path"):
        load("digits", "/data")
