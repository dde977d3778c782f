"""The estimators against the functions of the package and of scikit-learn."""

import pickle
import re
import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, load_linnerud
from sklearn.exceptions import NotFittedError
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, WhiteKernel
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from support.graphs import draw_graphs

from cntk_pipeline import kernel_matrix
from cntk_pipeline.datasets import one_hot_targets
from cntk_pipeline.errors import DataError, NotPositiveDefinite
from cntk_pipeline.estimators import KernelClassifier, KernelRegressor, NetworkKernel, fill_memory
from cntk_pipeline.estimators import question as questions
from cntk_pipeline.estimators import source as sources
from cntk_pipeline.graphs import pack
from cntk_pipeline.layers import Dense, Dropout, LastState, Padded, Recurrent, Relu, Sequential, presets
from cntk_pipeline.regression import gp_posterior, leave_one_out
from cntk_pipeline.regression.probabilities import calibration_error
from cntk_pipeline.sequences import pad

PAGE = Path(__file__).parents[2] / "docs/estimators.md"
DENSE = presets.fully_connected(3, b_std=0.1)
CONVOLUTIONAL = presets.cntk(3, pooling="gap")
DIGITS, LABELS = load_digits(return_X_y=True)
DIGITS = DIGITS / 16


def kernels(network: Any, x: np.ndarray, cut: int, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    whole = kernel_matrix(network, x, **options)
    return whole[:cut, :cut], whole[cut:, :cut]


@pytest.mark.parametrize("estimator", [KernelClassifier, KernelRegressor])
@pytest.mark.parametrize("ridge", ["auto", 1e-3])
def test_a_fit_takes_the_memory_that_the_page_says(estimator: Any, ridge: Any) -> None:
    (said,) = re.findall(r"a fit of n samples takes (\d+) n\^2 bytes", PAGE.read_text())
    x, y = np.random.default_rng(0).standard_normal((600, 16)), np.arange(600) % 10
    model = estimator(presets.fully_connected(1), ridge=ridge, n_jobs=1).fit(x[:50], y[:50])
    tracemalloc.start()
    try:
        model.fit(x, y)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak / 600**2 == pytest.approx(int(said), rel=0.1)


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_a_classifier_is_the_regression_on_one_hot_targets(kind: str) -> None:
    x, y = DIGITS[:150], LABELS[:150]
    train, cross = kernels(DENSE, x, 100, kind=kind, dtype="float64")
    model = KernelClassifier(DENSE, kind=kind, dtype="float64", ridge=1e-3).fit(x[:100], y[:100])
    targets = one_hot_targets(y[:100], 10)
    expected = gp_posterior(train, targets, cross, ridge=1e-3).mean
    np.testing.assert_allclose(model.decision_function(x[100:]), expected, atol=1e-11)
    np.testing.assert_array_equal(model.predict(x[100:]), expected.argmax(1))
    np.testing.assert_allclose(model.leave_one_out_, leave_one_out(train, targets, ridge=1e-3).predictions, atol=1e-10)
    assert model.absolute_ridge_ == pytest.approx(1e-3 * np.trace(train) / 100)


@pytest.mark.parametrize("as_images", [False, True])
def test_images_come_as_features_or_as_they_are(as_images: bool) -> None:
    images = DIGITS[:60].reshape(-1, 8, 8, 1)
    x = images if as_images else DIGITS[:60]
    model = KernelClassifier(CONVOLUTIONAL, image_shape=None if as_images else (8, 8, 1), ridge=1e-3)
    train, cross = kernels(CONVOLUTIONAL, images, 40)
    expected = gp_posterior(train, one_hot_targets(LABELS[:40], 10), cross, ridge=1e-3).mean
    found = model.fit(x[:40], LABELS[:40]).decision_function(x[40:])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_two_classes_of_any_type_have_one_decision_value() -> None:
    x, y = DIGITS[LABELS < 2], np.array(["zero", "one"])[LABELS[LABELS < 2]]
    model = KernelClassifier(DENSE, ridge=1e-3).fit(x[:60], y[:60])
    assert model.classes_.tolist() == ["one", "zero"]
    decision, chances = model.decision_function(x[60:]), model.predict_proba(x[60:])
    assert decision.shape == (len(x) - 60,)
    np.testing.assert_array_equal(model.predict(x[60:]), model.classes_[(decision > 0).astype(int)])
    np.testing.assert_array_equal(chances[:, 1] > 0.5, decision > 0)
    assert model.score(x[60:], y[60:]) > 0.99


@pytest.mark.slow
def test_probabilities_of_digits_are_calibrated() -> None:
    half = len(DIGITS) // 2
    model = KernelClassifier(DENSE).fit(DIGITS[:half], LABELS[:half])
    chances = model.predict_proba(DIGITS[half:])
    assert calibration_error(chances, LABELS[half:], classes=model.classes_) <= 0.02
    assert model.score(DIGITS[half:], LABELS[half:]) > 0.95


@pytest.mark.slow
def test_a_kernel_in_which_no_sample_resembles_another_is_sure_of_nothing() -> None:
    y = [0, 1, 0, 1, 0, 1]
    model = KernelClassifier("precomputed", ridge=0.1).fit(np.eye(6), y)
    one_hot = KernelClassifier(Sequential(Dense())).fit(np.eye(6), y)
    for each in (model, one_hot):
        np.testing.assert_allclose(each.predict_proba([[1e-3, 0, 0, 0, 0, 0]]), 0.5, atol=1e-3)
    sure = model.predict_proba(np.eye(6))
    np.testing.assert_allclose(sure, 0.5, atol=1e-3)
    np.testing.assert_array_equal(sure.argmax(1), y)  # the class is still the predicted one


def test_flips_average_over_mirror_images() -> None:
    x, y = DIGITS[:80], LABELS[:80]
    shape = {"image_shape": (8, 8, 1), "dtype": "float64"}
    model = KernelClassifier(CONVOLUTIONAL, flips=True, ridge=1e-3, **shape).fit(x, y)
    mirrored = x.reshape(-1, 8, 8)[:, :, ::-1].reshape(x.shape)
    np.testing.assert_allclose(model.decision_function(mirrored), model.decision_function(x), atol=1e-10)
    plain = KernelClassifier(CONVOLUTIONAL, ridge=1e-3, **shape).fit(x, y)
    assert np.abs(plain.decision_function(mirrored) - plain.decision_function(x)).max() > 0.1


@pytest.mark.parametrize("load", [load_diabetes, load_linnerud])
def test_a_regressor_is_kernel_ridge_on_centred_targets(load: Any) -> None:
    x, y = load(return_X_y=True)
    x, y = StandardScaler().fit_transform(x)[:200], y[:200]
    cut = len(x) * 3 // 4
    train, cross = kernels(DENSE, x, cut, dtype="float64")
    model = KernelRegressor(DENSE, dtype="float64", ridge=0.5, ridge_mode="absolute").fit(x[:cut], y[:cut])
    mean = y[:cut].mean(0)
    other = KernelRidge(alpha=0.5, kernel="precomputed").fit(train, y[:cut] - mean).predict(cross) + mean
    np.testing.assert_allclose(model.predict(x[cut:]), other, rtol=1e-9)
    assert model.predict(x[cut:]).shape == y[cut:].shape == (len(x) - cut, *y.shape[1:])
    assert model.leave_one_out_.shape == y[:cut].shape


def test_a_regressor_s_deviations_are_those_of_a_gaussian_process() -> None:
    x, y = load_diabetes(return_X_y=True)
    x = StandardScaler().fit_transform(x)
    model = KernelRegressor(DENSE, kind="nngp", dtype="float64", ridge=0.3, ridge_mode="absolute").fit(x[:150], y[:150])
    factor = float(model.signal_variance_)
    prior = ConstantKernel(factor, "fixed") * NetworkKernel(DENSE, kind="nngp", dtype="float64")
    process = GaussianProcessRegressor(prior, alpha=0.3 * factor, optimizer=None).fit(x[:150], y[:150] - y[:150].mean())
    mean, deviation = process.predict(x[150:180], return_std=True)
    found, found_deviation = model.predict(x[150:180], return_std=True)
    np.testing.assert_allclose(found, mean + y[:150].mean(), rtol=1e-8)
    np.testing.assert_allclose(found_deviation, deviation, rtol=1e-7)
    _, covariance = process.predict(x[150:180], return_cov=True)
    np.testing.assert_allclose(model.predict(x[150:180], return_cov=True)[1], covariance, atol=1e-7 * factor)
    with pytest.raises(ValueError, match="at most one of return_std and return_cov"):
        model.predict(x, return_std=True, return_cov=True)


def test_new_samples_are_predicted_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = load_diabetes(return_X_y=True)
    regressor = KernelRegressor(DENSE, ridge=0.1).fit(x[:50], y[:50])
    classifier = KernelClassifier(DENSE, ridge=0.1).fit(x[:50], y[:50] > 150)
    whole = [*regressor.predict(x[50:], return_std=True), classifier.decision_function(x[50:])]
    asked = []

    def counted(network: Any, x1: np.ndarray, x2: np.ndarray | None = None, **options: Any) -> np.ndarray:
        asked.append(len(x1))
        return kernel_matrix(network, x1, x2, **options)

    monkeypatch.setattr(questions.kernels, "kernel_matrix", counted)
    monkeypatch.setattr(sources, "BLOCK_ROWS", 100)
    parts = [*regressor.predict(x[50:], return_std=True), classifier.decision_function(x[50:])]
    for some, every in zip(parts, whole, strict=True):
        np.testing.assert_allclose(some, every, rtol=1e-9)
    assert asked == 2 * [100, 100, 100, 92]


@pytest.mark.parametrize("factor", [1e160, 1e-170, 1e308])
@pytest.mark.parametrize("options", [{"ridge": 0.1}, {}, {"n_centres": 5}])
def test_targets_whose_squares_leave_float64_are_refused(factor: float, options: dict[str, Any]) -> None:
    y = np.stack([np.arange(12.0) % 5 / 5, factor * (np.arange(12) % 3 / 3)], 1)
    network = presets.fully_connected(2)
    with pytest.raises(DataError, match=r"y: expected targets whose squares .* in column 1; give them .* divided by"):
        KernelRegressor(network, **options).fit(np.eye(12), y)
    y[:, 1] = factor / 2  # a constant target has no square but that of its rounding
    if factor < 1:
        KernelRegressor(network, **options).fit(np.eye(12) + 1, y)


def test_several_outputs_have_a_deviation_each() -> None:
    x, y = load_linnerud(return_X_y=True)
    mean, deviation = KernelRegressor(DENSE).fit(x, y).predict(x[:5], return_std=True)
    assert mean.shape == deviation.shape == (5, 3)
    alone = KernelRegressor(DENSE, ridge=0.1).fit(x, y[:, 1])
    together = KernelRegressor(DENSE, ridge=0.1).fit(x, y)
    for one, several in zip(alone.predict(x, return_std=True), together.predict(x, return_std=True), strict=True):
        np.testing.assert_allclose(several[:, 1], one, rtol=1e-10)
    covariance = together.predict(x[:5], return_cov=True)[1]
    assert covariance.shape == (5, 5, 3)


def test_a_kernel_serves_support_vectors_and_gaussian_processes() -> None:
    x, y = DIGITS[:240], LABELS[:240] % 2
    train, cross = kernels(DENSE, x, 200)
    expected = SVC(kernel="precomputed", C=10).fit(train, y[:200]).decision_function(cross)
    found = SVC(kernel=NetworkKernel(DENSE), C=10).fit(x[:200], y[:200]).decision_function(x[200:])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    process = GaussianProcessClassifier(ConstantKernel() * NetworkKernel(DENSE, kind="nngp"), random_state=0)
    assert process.fit(x[:200], y[:200]).score(x[200:], y[200:]) > 0.9


def test_the_fit_of_a_support_vector_machine_knows_samples_from_their_copies() -> None:
    network = Sequential(Dense(), Relu(), Dropout(0.5), Dense())
    x, y = DIGITS[:90], LABELS[:90] % 2
    train, cross = kernel_matrix(network, x[:60], dtype="float64"), kernel_matrix(network, x, x[:60], dtype="float64")
    kernel = NetworkKernel(network, dtype="float64")
    expected = SVC(kernel="precomputed", C=10).fit(train, y[:60]).decision_function(cross)
    found = SVC(kernel=kernel, C=10).fit(x[:60], y[:60]).decision_function(x)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    np.testing.assert_array_equal(np.diagonal(kernel(x, x)), kernel.diag(x))
    np.testing.assert_array_equal(kernel(x, x.copy()), kernel_matrix(network, x, x.copy(), dtype="float64"))


def test_a_kernel_of_a_network_needs_one() -> None:
    kernel = NetworkKernel("precomputed")  # type: ignore[arg-type]
    for call in (lambda: kernel(X), lambda: kernel(X, X[:3]), lambda: kernel.diag(X)):
        with pytest.raises(ValueError, match=r"kernels of a network, got network='precomputed': give a layer"):
            call()


def test_a_gaussian_process_computes_each_matrix_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = load_diabetes(return_X_y=True)
    asked = []

    def counted(network: Any, x1: np.ndarray, x2: np.ndarray | None = None, **options: Any) -> np.ndarray:
        asked.append((len(x1), None if x2 is None else len(x2)))
        return kernel_matrix(network, x1, x2, **options)

    monkeypatch.setattr(questions.kernels, "kernel_matrix", counted)
    prior = ConstantKernel() * NetworkKernel(presets.fully_connected(2, b_std=0.2)) + WhiteKernel()
    process = GaussianProcessRegressor(prior, normalize_y=True).fit(x[:100], y[:100])
    assert process.kernel_.theta.shape == (2,)
    assert not np.allclose(process.kernel_.theta, 0)  # they were fitted, in several steps
    process.predict(x[100:130], return_std=True)
    assert asked == [(100, None), (30, 100)]


@pytest.mark.parametrize("model", [KernelClassifier("precomputed"), KernelRegressor("precomputed")])
def test_precomputed_kernels_are_cut_on_both_axes(model: Any) -> None:
    x, y = DIGITS[:90], LABELS[:90]
    direct = clone(model).set_params(network=DENSE)
    matrix = kernel_matrix(DENSE, x)
    np.testing.assert_allclose(cross_val_score(model, matrix, y, cv=3), cross_val_score(direct, x, y, cv=3), atol=1e-6)


def test_an_estimator_is_cloned_pickled_and_searched_over_networks(tmp_path: Any) -> None:
    x, y = DIGITS[:120], LABELS[:120]
    model = KernelClassifier(DENSE, image_shape=(8, 8, 1)).fit(x, y)
    assert clone(model).get_params() == model.get_params()
    joblib.dump(model, tmp_path / "model")
    for copy in (pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model")):
        np.testing.assert_array_equal(copy.predict_proba(x), model.predict_proba(x))
    search = GridSearchCV(
        make_pipeline(StandardScaler(), KernelClassifier(DENSE)),
        {"kernelclassifier__network": [presets.fully_connected(1), DENSE], "kernelclassifier__kind": ["ntk", "nngp"]},
        cv=3,
    )
    assert search.fit(x, y).best_score_ > 0.85


@pytest.mark.slow
def test_workers_of_joblib_give_the_same_scores() -> None:
    x, y = DIGITS[:90], LABELS[:90]
    serial = cross_val_score(KernelClassifier(DENSE), x, y, cv=3)
    np.testing.assert_array_equal(cross_val_score(KernelClassifier(DENSE), x, y, cv=3, n_jobs=2), serial)


X, Y = DIGITS[:20], LABELS[:20]


@pytest.mark.parametrize("kind", [KernelClassifier, KernelRegressor])
@pytest.mark.parametrize(
    "later",
    [{"kind": "nngp"}, {"network": CONVOLUTIONAL}, {"network": "precomputed"}, {"dtype": "float64"}, {"flips": True}],
)
def test_parameters_that_are_set_after_a_fit_are_those_of_the_next_one(kind: Any, later: dict[str, Any]) -> None:
    model = kind(DENSE, ridge=0.1).fit(X, Y)
    expected = model.predict(DIGITS[20:40])
    np.testing.assert_array_equal(model.set_params(**later, n_jobs=1).predict(DIGITS[20:40]), expected)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict(DIGITS[20:40]), expected)


def test_memory_and_threads_may_be_set_after_a_fit(tmp_path: Path) -> None:
    model = KernelRegressor(DENSE, ridge=0.1).fit(X, Y)
    expected = model.predict(DIGITS[20:40])
    np.testing.assert_allclose(model.set_params(memory=tmp_path).predict(DIGITS[20:40]), expected, rtol=1e-5)
    assert list(tmp_path.rglob("*.npz"))
    with pytest.raises(ValueError, match="n_jobs must be a whole number other than 0"):
        model.set_params(n_jobs=0).predict(X)


@pytest.mark.parametrize("model", [KernelClassifier(DENSE, ridge=0.1), KernelRegressor("precomputed", ridge=0.1)])
def test_a_model_that_an_earlier_version_has_pickled_predicts(model: Any) -> None:
    x = X if model.network is DENSE else kernel_matrix(DENSE, X)
    model = clone(model).fit(x, Y)
    expected = model.predict(x)
    del model._source
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(x), expected)


@pytest.mark.parametrize("kind", [KernelClassifier, KernelRegressor])
def test_a_fit_that_fails_leaves_the_model_as_it_was(kind: Any) -> None:
    pandas = pytest.importorskip("pandas")
    names = [f"pixel{k}" for k in range(64)]
    table = pandas.DataFrame(X, columns=names)
    model = kind(DENSE, ridge=0.1).fit(table, Y)
    expected = model.predict(table)
    with pytest.raises(ValueError, match="a ridge must be a finite number of at least 0"):
        model.set_params(ridge=-1.0).fit(X[:, :30], Y)
    assert model.n_features_in_ == 64
    assert model.feature_names_in_.tolist() == names
    np.testing.assert_array_equal(model.predict(table), expected)
    fresh = kind(DENSE, ridge=-1.0)
    with pytest.raises(ValueError, match="a ridge must be a finite number of at least 0"):
        fresh.fit(X, Y)
    with pytest.raises(NotFittedError):
        fresh.predict(X)
    assert not hasattr(fresh, "n_features_in_")


@pytest.mark.parametrize("kind", [KernelClassifier, KernelRegressor])
@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"kind": "bogus"}, ValueError, "kind must be one of .*, got 'bogus'"),
        ({"dtype": "f2"}, ValueError, "f2"),
        ({"n_jobs": 0}, ValueError, "n_jobs must be a whole number other than 0"),
        ({"flips": "x"}, TypeError, "flips must be True or False, got 'x'"),
        ({"image_shape": 3}, TypeError, "image_shape must be .*got 3"),
        ({"image_shape": (8, 8, True)}, TypeError, "image_shape must be .*got .*True"),
        (
            {"flips": True},
            ValueError,
            "flips=True is about the kernel of a network, and with network='precomputed'",
        ),
        ({"image_shape": (8, 8, 1)}, ValueError, r"image_shape=\(8, 8, 1\) is about the kernel of a network"),
        ({"memory": "x"}, ValueError, "memory='x' is about the kernel of a network"),
    ],
)
def test_parameters_beside_a_given_kernel_are_looked_at(
    kind: Any, parameters: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        kind("precomputed", **parameters).fit(kernel_matrix(DENSE, X), Y)


@pytest.mark.parametrize("options", [{}, {"n_centres": 5}])
def test_a_network_that_trains_no_layer_is_refused_before_its_pairs(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Sequential(Dense(trained=False), Relu(), Dense(rate=0.0))
    assert not kernel_matrix(network, X).any()  # as a kernel it is a legitimate value
    monkeypatch.setattr(questions.kernels, "kernel_matrix", None)
    monkeypatch.setattr(questions.kernels, "kernel_diagonal", None)
    with pytest.raises(ValueError, match=r"no layer of the network is trained, .*zero everywhere: give kind='nngp'"):
        KernelRegressor(network, **options).fit(X, Y)


def test_missing_labels_are_named() -> None:
    pandas = pytest.importorskip("pandas")
    texts = ["p", "q"] * 10
    for missing in (pandas.NA, None, np.nan):
        gap = pandas.Series([*texts[:3], missing, *texts[4:]], dtype=object)
        for y in (gap, gap.tolist(), gap.astype("string"), gap.astype("category")):
            with pytest.raises(DataError, match=r"y\[3\]: expected a .*, got (<NA>|None|nan), a missing one; drop"):
                KernelClassifier(DENSE).fit(X, y)
    with pytest.raises(DataError, match=r"y\[2\]: expected a value, got <NA>, a missing one"):
        KernelRegressor(DENSE).fit(X, pandas.Series([1, 2, pandas.NA, *range(17)], dtype=object))
    with pytest.raises(DataError, match=r"y\[2, 0\]: expected a value, got None, a missing one"):
        KernelRegressor(DENSE).fit(X, [[1.0], [2.0], [None], *([3.0] for _ in range(17))])
    with pytest.raises(ValueError, match="y: expected classes of one type, numbers or texts, got Python objects, such"):
        KernelClassifier(DENSE).fit(X, np.array(["p", 1] * 10, object))


@pytest.mark.parametrize(
    ("of", "remedy"),
    [(np.array, r"give y\.astype\(str\)"), (lambda y: np.array(y, object), r"\.decode\(\) for label in y")],
)
def test_labels_of_bytes_are_named(of: Callable[[list[bytes]], np.ndarray], remedy: str) -> None:
    with pytest.raises(DataError, match=f"y: expected numbers or texts, got .*bytes.*{remedy}"):
        KernelClassifier(DENSE).fit(X, of([b"p", b"q"] * 10))


DATES = np.arange(20).astype("M8[D]")


@pytest.mark.parametrize("kind", [KernelClassifier, KernelRegressor])
@pytest.mark.parametrize("unit", ["M8[D]", "m8[s]"])
def test_missing_dates_are_named(kind: Any, unit: str) -> None:
    y = np.arange(20).astype(unit)
    y[3] = "NaT"
    for given in (y, y.astype(object), pytest.importorskip("pandas").Series(y)):
        with pytest.raises(DataError, match=r"y\[3\]: expected a value, got .*(NaT|None).*, a missing one; drop"):
            kind(DENSE).fit(X, given)


@pytest.mark.parametrize("y", [DATES, DATES - DATES[0], Y.astype(str), Y.astype(str).astype(object), DATES.astype("O")])
def test_targets_that_are_no_numbers_are_refused(y: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"^y: expected real numbers, got dtype .*: give "):
        KernelRegressor(DENSE).fit(X, y)


def test_complex_targets_are_refused_in_the_words_of_scikit_learn() -> None:
    with pytest.raises(ValueError, match="Complex data not supported"):
        KernelRegressor(DENSE).fit(X, Y + 1j)


def test_targets_of_python_s_numbers_are_taken() -> None:
    y = [*map(Fraction, range(10)), *map(Decimal, range(10))]
    expected = KernelRegressor(DENSE, ridge=0.1).fit(X, np.r_[:10, :10]).predict(X)
    np.testing.assert_array_equal(KernelRegressor(DENSE, ridge=0.1).fit(X, y).predict(X), expected)


@pytest.mark.parametrize(
    ("x", "told"),
    [
        (X + 1j, r"X must hold real numbers, got dtype complex128|Complex data not supported"),
        (X.astype("M8[s]"), r"X must hold real numbers, got dtype datetime64\[s\]: give numbers"),
        (X.astype(str), r"X must hold real numbers, got dtype <U|arrays of bytes/strings"),
    ],
)
@pytest.mark.parametrize("kept", [False, True])
def test_samples_that_are_no_numbers_are_refused_with_and_without_a_memory(
    x: np.ndarray, told: str, kept: bool, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"memory": tmp_path / "memory"} if kept else {}
    x = x if x.dtype.kind != "U" else np.full(x.shape, "a")
    for call in (
        lambda: KernelClassifier(DENSE, **options).fit(x, Y),
        lambda: KernelRegressor(DENSE, **options).fit(x, Y),
        lambda: NetworkKernel(DENSE, **options)(x),
    ):
        with pytest.raises(ValueError, match=told):
            call()
    with pytest.raises(DataError, match=r"Y must hold real numbers, got dtype"):
        NetworkKernel(DENSE, **options)(X, x)
    with pytest.raises(DataError, match=r"x must hold real numbers, got dtype"):
        fill_memory(tmp_path / "memory", [DENSE], x)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept", [False, True])
def test_a_number_that_is_not_finite_is_named_at_its_place(kept: bool, tmp_path: Path) -> None:
    kernel = NetworkKernel(DENSE, memory=tmp_path if kept else None)
    kernel(X[:10])
    broken = X.copy()
    broken[13, 5] = np.nan
    with pytest.raises(DataError, match=r"^X holds nan at index \(13, 5\): inputs must be finite"):
        kernel(broken)
    with pytest.raises(DataError, match=r"^Y holds nan at index \(13, 5\): inputs must be finite"):
        kernel(X, broken)
    with pytest.raises(DataError, match=r"^x holds nan at index \(13, 5\): inputs must be finite"):
        fill_memory(tmp_path, [DENSE], broken)


@pytest.mark.parametrize("options", [{}, {"kind": "nngp"}, {"memory": "memory"}, {"flips": True}, {"n_centres": 3}])
def test_grey_images_are_refused_by_their_own_shape(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    grey = X.reshape(-1, 8, 8)
    told = r"^X must be of shape \(n, H, W, C\) or \(n, features\), got \(20, 8, 8\): grey images are X\[\.\.\., None\]"
    with pytest.raises(DataError, match=told):
        KernelClassifier(CONVOLUTIONAL, **options).fit(grey, Y)
    with pytest.raises(DataError, match=told.replace("X", "x")):
        fill_memory("memory", [CONVOLUTIONAL], grey)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_features_that_may_be_pixels_are_refused_with_image_shape(kind: str) -> None:
    with pytest.raises(
        ValueError, match=r"vectors of shape .*; give image_shape=\(height, width, channels\) if features"
    ):
        KernelClassifier(CONVOLUTIONAL, kind=kind).fit(X, Y)
    with pytest.raises(ValueError, match="Relu needs") as caught:
        KernelClassifier(Sequential(Relu(), Dense()), kind=kind).fit(X, Y)
    assert "image_shape" not in str(caught.value)
    with pytest.raises(
        DataError, match=r"^X\.reshape\(-1, 1, 8, 8\): .* channels first; give X\.reshape\(-1, 1, 8, 8\)\.tr"
    ):
        KernelClassifier(CONVOLUTIONAL, image_shape=(1, 8, 8)).fit(X, Y)


def test_features_and_images_of_one_shape_are_the_same_samples() -> None:
    images, model = X.reshape(-1, 8, 8, 1), KernelClassifier(CONVOLUTIONAL, image_shape=(8, 8, 1), ridge=0.1)
    expected = model.fit(images, Y).decision_function(images)
    np.testing.assert_array_equal(model.decision_function(X), expected)
    np.testing.assert_array_equal(model.fit(X, Y).decision_function(images), expected)
    with pytest.raises(ValueError, match=r"asks for X of shape \(n, 64\) or \(n, 8, 8, 1\), got \(20, 8, 8\)"):
        model.predict(X.reshape(-1, 8, 8))
    with pytest.raises(ValueError, match="X has 63 features, but KernelClassifier is expecting 64 features"):
        model.predict(X[:, 1:])


def test_errors_of_a_given_kernel_name_the_argument() -> None:
    kernel = kernel_matrix(DENSE, X)
    with pytest.raises(ValueError, match=r"^X must be symmetric"):
        KernelClassifier("precomputed").fit(np.triu(kernel), Y)
    with pytest.raises(NotPositiveDefinite, match=r"^X is not positive definite"):
        KernelClassifier("precomputed").fit(-kernel, Y)


@pytest.mark.parametrize("kind", [KernelClassifier, KernelRegressor])
@pytest.mark.parametrize("shape", [(5, 20, 20), (5, 20, 1), (2, 5, 4, 20)])
def test_a_given_kernel_has_two_axes(kind: Any, shape: tuple[int, ...]) -> None:
    model = kind("precomputed").fit(kernel_matrix(DENSE, X), Y)
    with pytest.raises(ValueError, match=rf"Found array with dim {len(shape)}, (while dim <= 2 is req|expected <= 2)"):
        model.predict(np.zeros(shape))


@pytest.mark.parametrize("ridge", ["auto", 0.1, [0.1, 1.0]])
def test_an_unknown_mode_of_ridges_is_named_before_pairs_are_computed(
    ridge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions.kernels, "kernel_matrix", None)
    with pytest.raises(ValueError, match=r"ridge_mode must be 'relative' .* got 'rel'"):
        KernelClassifier(DENSE, ridge=ridge, ridge_mode="rel").fit(X, Y)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"network": [Dense(), Relu(), Dense()]}, TypeError, r"got a list of layers: give Sequential\(\*layers\)"),
        ({"network": "resnet"}, ValueError, r"there is no network 'resnet': give a layer, like layers\.presets"),
        ({"network": 3}, TypeError, r"network must be a layer of cntk_pipeline\.layers, .*, got 3"),
        ({"network": CONVOLUTIONAL}, ValueError, r"needs images of shape \(H, W, C\)"),
        ({"kind": np.array(["ntk", "nngp"])}, ValueError, r"kind must be one of .*, got array"),
        ({"kind": "nptk"}, ValueError, r"kind must be one of .*, got 'nptk'"),
        ({"dtype": "float16"}, ValueError, r"float16"),
        ({"ridge": -1}, ValueError, r"at least 0, got -1"),
        ({"ridge": "best"}, ValueError, r"or 'auto', got 'best'"),
        ({"ridge": None}, ValueError, r"or 'auto', got None"),
        ({"ridge": True}, ValueError, r"or 'auto', got True"),
        ({"ridge": [True, 0.1]}, ValueError, r"at least 0, got True"),
        ({"ridge": np.array([True, False])}, ValueError, r"at least 0, got np\.True_"),
        ({"ridge": None, "n_centres": 3}, ValueError, r"or 'auto', got None"),
        ({"ridge": [0.1, None]}, ValueError, r"at least 0, got None"),
        ({"ridge_mode": "rel"}, ValueError, r"rel"),
        ({"image_shape": (8, 8)}, TypeError, r"image_shape must be \(height, width, channels\), .*got \(8, 8\)"),
        ({"image_shape": (4, 8, 1)}, ValueError, r"asks for X of shape \(n, 32\) or \(n, 4, 8, 1\), got \(20, 64\)"),
        ({"flips": "no"}, TypeError, r"flips must be True or False, got 'no'"),
        ({"flips": 2}, TypeError, r"flips must be True or False, got 2"),
        (
            {"flips": True},
            ValueError,
            r"X of shape \(20, 64\) holds vectors: give image_shape=\(height, width, channels",
        ),
        ({"n_jobs": 0}, ValueError, r"n_jobs must be a whole number other than 0"),
        ({"n_jobs": 1.5}, ValueError, r"n_jobs must be a whole number other than 0, .*got 1\.5"),
        ({"memory": 3}, TypeError, r"memory must be the path of a folder or of a run directory, or None, got 3"),
    ],
)
@pytest.mark.parametrize("kind", [KernelClassifier, KernelRegressor])
def test_a_wrong_parameter_is_named_when_it_is_used(
    kind: Any, parameters: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = kind(**({"network": DENSE} | parameters))  # as scikit-learn wants it, making it checks nothing
    with pytest.raises(error, match=message):
        model.fit(X, Y)


@pytest.mark.parametrize("kind", [KernelClassifier, KernelRegressor])
def test_truth_values_count_as_zero_and_one(kind: Any, tmp_path: Path) -> None:
    x = X > 0.4
    expected = kind(DENSE, ridge=0.1).fit(x.astype(float), Y).predict(x.astype(float))
    np.testing.assert_array_equal(kind(DENSE, ridge=0.1).fit(x, Y).predict(x), expected)
    kept = kind(DENSE, ridge=0.1, memory=tmp_path)
    np.testing.assert_allclose(kept.fit(x, Y).predict(x.astype(float)), expected, rtol=1e-4)
    np.testing.assert_array_equal(NetworkKernel(DENSE)(x), kernel_matrix(DENSE, x.astype(float)))


def test_what_does_not_fit_the_fit_is_named() -> None:
    model = KernelClassifier(DENSE)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        model.predict(X)
    with pytest.raises(ValueError, match=r"at least two classes, got one class only: 3"):
        model.fit(X, np.full(20, 3))
    with pytest.raises(ValueError, match=r"Unknown label type: continuous"):
        model.fit(X, Y + 0.5)
    model.fit(X, Y)
    with pytest.raises(ValueError, match=r"X has 63 features, but KernelClassifier is expecting 64 features"):
        model.predict(X[:, 1:])
    images = KernelClassifier(CONVOLUTIONAL).fit(X.reshape(-1, 8, 8, 1), Y)
    with pytest.raises(ValueError, match=r"samples of shape \(8, 4, 2\), but the fit was given .* \(8, 8, 1\)"):
        images.predict(X.reshape(-1, 8, 4, 2))
    with pytest.raises(ValueError, match=r"samples of shape \(2, 8, 4\), but the fit was given .* \(8, 8, 1\)"):
        images.predict(X.reshape(-1, 2, 8, 4))
    with pytest.raises(ValueError, match=r"needs images of shape \(H, W, C\), got vectors of shape \(9,\)"):
        images.predict(X[:, :9])
    with pytest.raises(ValueError, match=r"samples of shape \(8, 8, 1\), but the fit was given .* \(64,\)"):
        model.predict(X.reshape(-1, 8, 8, 1))
    given = KernelRegressor("precomputed")
    with pytest.raises(ValueError, match=r"asks for a square kernel matrix .* got shape \(20, 64\)"):
        given.fit(X, Y)
    given.fit(kernel_matrix(DENSE, X), Y)
    with pytest.raises(ValueError, match=r"kernel of new samples with themselves, which network='precomputed' does"):
        given.predict(kernel_matrix(DENSE, X), return_std=True)


def test_a_kernel_without_hyperparameters_has_an_empty_gradient() -> None:
    kernel = NetworkKernel(DENSE)
    values, gradient = kernel(X, eval_gradient=True)
    np.testing.assert_array_equal(values, kernel_matrix(DENSE, X))
    assert gradient.shape == (20, 20, 0)
    np.testing.assert_array_equal(kernel.diag(X), np.diag(values))
    assert kernel == clone(kernel)
    assert not kernel.is_stationary()
    with pytest.raises(ValueError, match="a gradient can only be evaluated where Y is None"):
        kernel(X, X, eval_gradient=True)


@pytest.mark.parametrize("kind", [KernelClassifier, KernelRegressor])
def test_a_fit_that_fails_leaves_no_fit_or_the_one_before(kind: Any) -> None:
    zeros, later = np.zeros((20, 64)), Y + 10
    model = kind(presets.fully_connected(2), ridge=0.0)
    with pytest.raises(NotPositiveDefinite):
        model.fit(zeros, Y)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        model.predict(X)
    model.set_params(ridge=1e-2).fit(X, Y)
    before = model.predict(X)
    with pytest.raises(NotPositiveDefinite):
        model.fit(zeros, later)
    np.testing.assert_array_equal(model.predict(X), before)


@pytest.mark.parametrize("kind", [KernelClassifier, KernelRegressor])
@pytest.mark.parametrize("count", [None, 10])
def test_a_fit_has_samples_of_its_own(kind: Any, count: int | None) -> None:
    own = X.copy()
    model = kind(DENSE, n_centres=count, dtype="float64").fit(own, Y)
    before = model.predict(DIGITS[:40])
    own *= -3
    np.testing.assert_array_equal(model.predict(DIGITS[:40]), before)


LENGTHS = [3, 4, 5, 6, 2, 9]
OF_GRAPHS, OF_SEQUENCES = presets.gntk(2), Sequential(Padded(), Recurrent(Relu()), LastState(), Dense())


def pack_graphs(wanted: slice, features: int = 2) -> np.ndarray:
    return pack(*zip(*draw_graphs(LENGTHS, features, seed=3)[wanted], strict=True))


def pad_sequences(wanted: slice, features: int = 2) -> np.ndarray:
    random = np.random.default_rng(3)
    return pad([random.standard_normal((steps, features)) for steps in LENGTHS][wanted])


@pytest.mark.parametrize("memory", [False, True], ids=["computed", "kept"])
@pytest.mark.parametrize(
    ("network", "draw"), [(OF_GRAPHS, pack_graphs), (OF_SEQUENCES, pad_sequences)], ids=["graphs", "sequences"]
)
def test_new_graphs_and_sequences_may_be_smaller_and_larger_than_those_of_the_fit(
    network: Any, draw: Callable[..., np.ndarray], memory: bool, tmp_path: Path
) -> None:
    fitted, y = draw(slice(4)), np.array([0.3, -1.0, 2.0, 0.5])
    whole = kernel_matrix(network, draw(slice(6)), dtype="float64")
    options: dict[str, Any] = {"dtype": "float64", "memory": tmp_path if memory else None}
    given = KernelRegressor("precomputed", ridge=1e-2).fit(whole[:4, :4], y)
    model = KernelRegressor(network, ridge=1e-2, **options).fit(fitted, y)
    classifier = KernelClassifier(network, ridge=1e-2, **options).fit(fitted, y > 0)
    for row in (4, 5):
        new = draw(slice(row, row + 1))
        assert new.shape != fitted[:1].shape
        mean, deviation = model.predict(new, return_std=True)
        np.testing.assert_allclose(mean, given.predict(whole[row : row + 1, :4]), rtol=1e-8)
        assert 0 < deviation[0] < np.sqrt(whole[row, row] * model.signal_variance_)
        assert classifier.predict(new).shape == (1,)
        found = NetworkKernel(network, **options)(new, fitted)
        np.testing.assert_allclose(found, whole[row : row + 1, :4], rtol=1e-10)
    with pytest.raises(ValueError, match=r"X has samples of shape \(1, .*, but the fit was given samples of shape"):
        model.predict(draw(slice(1), features=3))
