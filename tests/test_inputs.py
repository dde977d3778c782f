"""Arrays from elsewhere: what would be read as something else is refused, in a data set and in memory alike."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from cntk_pipeline import kernel_matrix
from cntk_pipeline.datasets import Dataset, Split, as_split, assemble, load
from cntk_pipeline.errors import DataError
from cntk_pipeline.estimators import KernelClassifier, KernelRegressor, NetworkKernel, fill_memory
from cntk_pipeline.inputs import as_array, require_channels_last
from cntk_pipeline.layers import Conv, Dense, GlobalAvgPool, Relu, Sequential
from cntk_pipeline.regression import choose_centres, gp_posterior
from cntk_pipeline.regression.probabilities import fit_probabilities

NETWORK = Sequential(Conv(3), Relu(), GlobalAvgPool(), Dense())
MASKED = np.ma.masked_greater(np.arange(12.0).reshape(3, 4), 9)
DENSE = Sequential(Dense(), Relu(), Dense())
CHANNELS_FIRST = [(4, 3, 32, 32), (4, 1, 8, 8), (4, 4, 8, 8), (4, 3, 6, 9), (2, 2, 5, 5)]
CHANNELS_LAST = [
    (4, 8, 8, 3),
    (4, 32, 32, 1),
    (4, 1, 1, 512),
    (4, 3, 3, 64),
    (4, 1, 100, 8),
    (4, 3, 4, 5),
    (4, 5, 5, 5),
]


@pytest.mark.parametrize("shape", CHANNELS_FIRST)
def test_channels_first_are_refused_with_what_to_write_in_a_file_and_in_memory(shape, tmp_path):
    np.savez(tmp_path / "data.npz", x_train=np.zeros(shape), y_train=np.arange(shape[0]) % 2)
    told = rf"channels first; give {{}}\.transpose\(0, 2, 3, 1\)\. If these are {shape[1]} rows of {shape[2]} pixels"
    with pytest.raises(DataError, match=told.format("x_train")):
        load("npz", str(tmp_path / "data.npz"))
    with pytest.raises(DataError, match=told.format("x1")):
        kernel_matrix(NETWORK, np.zeros(shape))
    with pytest.raises(DataError, match=told.format("x2")):
        kernel_matrix(NETWORK, np.zeros((1, 8, 8, 3)), np.zeros(shape))


@pytest.mark.parametrize("shape", CHANNELS_LAST)
def test_channels_last_are_taken(shape):
    require_channels_last("x1", shape)


def test_a_strip_that_is_laid_on_its_side_has_the_same_kernel():
    strips = np.random.default_rng(0).standard_normal((3, 3, 7, 4))  # its channels are too few to be a side
    sides = strips.transpose(0, 2, 1, 3)
    np.testing.assert_allclose(
        kernel_matrix(NETWORK, strips, dtype="float64"), kernel_matrix(NETWORK, sides, dtype="float64"), rtol=1e-12
    )


def test_masked_images_are_refused_in_memory_and_in_a_data_set():
    pixels = np.ma.masked_greater(np.arange(12.0).reshape(3, 4), 9)
    told = "expected a plain array, got a masked one, 2 of whose 12 values are masked; drop"
    with pytest.raises(DataError, match=f"x1: {told}"):
        kernel_matrix(Sequential(Dense(), Relu(), Dense()), pixels)
    with pytest.raises(DataError, match=f"images: {told}"):
        as_split(pixels, [0, 1, 0])


def test_masked_labels_are_refused():
    with pytest.raises(DataError, match="labels: expected a plain array, got a masked one, 1 of whose 3 values"):
        as_split(np.zeros((3, 4)), np.ma.masked_equal([0, 1, 2], 2))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("X", lambda: KernelClassifier(DENSE).fit(MASKED, [0, 1, 1])),
        ("y", lambda: KernelClassifier(DENSE).fit(MASKED.data, np.ma.masked_equal([0, 1, 2], 2))),
        ("X", lambda: KernelClassifier(DENSE).fit(MASKED.data, [0, 1, 1]).predict(MASKED)),
        ("X", lambda: KernelRegressor(DENSE).fit(MASKED, [0, 1, 1])),
        ("y", lambda: KernelRegressor(DENSE).fit(MASKED.data, MASKED[:, 1:])),
        ("X", lambda: KernelRegressor(DENSE).fit(MASKED.data, [0, 1, 1]).predict(MASKED)),
        ("X", lambda: NetworkKernel(DENSE)(MASKED)),
        ("Y", lambda: NetworkKernel(DENSE)(MASKED.data, MASKED)),
        ("X", lambda: NetworkKernel(DENSE).diag(MASKED)),
        ("x", lambda: fill_memory("nowhere", [DENSE], MASKED)),
        ("k_train", lambda: gp_posterior(np.ma.masked_equal(np.eye(3), 1), [0, 1, 1], np.eye(3))),
        ("y", lambda: gp_posterior(np.eye(3), MASKED, np.eye(3))),
        ("k_test_train", lambda: gp_posterior(np.eye(4), np.eye(4), MASKED)),
        ("labels", lambda: fit_probabilities(MASKED.data, np.ma.masked_equal([0, 1, 2], 2))),
        ("diagonal", lambda: choose_centres(MASKED[2], np.outer, 1)),
        ("pets: train images", lambda: Dataset("pets", ("a",), Split(MASKED, np.zeros(3, np.int64)))),
        ("pets: train labels", lambda: Dataset("pets", ("a",), Split(MASKED.data, np.ma.masked_equal([0, 1, 2], 2)))),
    ],
)
def test_masked_arrays_are_refused_wherever_arrays_are_taken(name, call):
    with pytest.raises(DataError, match=f"^{name}: expected a plain array, got a masked one"):
        call()


SPARSE = csr_array(np.eye(4))


@pytest.mark.parametrize(
    "call",
    [
        lambda: kernel_matrix(DENSE, SPARSE),
        lambda: NetworkKernel(DENSE)(SPARSE),
        lambda: fill_memory("nowhere", [DENSE], SPARSE),
        lambda: KernelClassifier(DENSE).fit(SPARSE, [0, 1, 1, 0]),
        lambda: KernelRegressor(DENSE).fit(np.eye(4), SPARSE),
        lambda: gp_posterior(SPARSE, np.eye(4), np.eye(4)),
        lambda: as_split(SPARSE, [0, 1, 1, 0]),
    ],
)
def test_sparse_arrays_are_refused_with_the_remedy(call):
    with pytest.raises(DataError, match=r"expected a dense array, got a sparse csr_array: give its \.toarray\(\)"):
        call()


@pytest.mark.parametrize("missing", [float("nan"), np.float32("nan")])
def test_a_missing_text_is_no_class(missing):
    labels = ["a", "b", missing]
    with pytest.raises(DataError, match=r"^labels\[2\]: expected a text, got nan, a missing one; drop its row"):
        as_split(np.zeros((3, 2)), labels)
    with pytest.raises(DataError, match=r"^labels\[1\]: expected a text"):
        as_split(np.zeros((2, 2)), [["a"], [missing]])
    with pytest.raises(DataError, match=r"^y\[2\]: expected a text"):
        KernelClassifier(DENSE).fit(np.eye(3), labels)
    assert as_split(np.zeros((3, 2)), ["a", "nan", "b"]).labels.tolist() == ["a", "nan", "b"]


@pytest.mark.parametrize("kind", ["object", "str", "category"])
def test_a_column_of_text_of_pandas_is_text(kind):
    pandas = pytest.importorskip("pandas")
    labels = pandas.Series(["dog", "cat", "dog"], dtype=kind)
    data = assemble("pets", as_split(np.zeros((3, 2)), labels))
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [1, 0, 1]
    assert as_array("labels", labels).dtype == "<U3"


def test_a_missing_label_among_text_is_named():
    labels = np.array(["dog", "cat", None, "dog"], dtype=object)
    told = (
        r"expected numbers or .* got Python objects, such as None at number 2, of shape \(4,\); drop the rows without"
    )
    with pytest.raises(DataError, match=told):
        assemble("pets", as_split(np.zeros((4, 2)), labels))


@pytest.mark.parametrize("ragged", [[[0.0, 1.0], [2.0]], [np.zeros((2, 2)), np.zeros((2, 3))]])
def test_lists_of_unequal_lengths_are_refused(ragged):
    with pytest.raises(DataError, match=r"x1: expected .* whose entries are of one length, got a list"):
        kernel_matrix(NETWORK, ragged)
    with pytest.raises(DataError, match=r"images: expected .* whose entries are of one length, got a list"):
        as_split(ragged, [0, 1])
    with pytest.raises(DataError, match=r"labels: expected .* whose entries are of one length, got a list"):
        as_split(np.zeros((2, 2)), ragged)
