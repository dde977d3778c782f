"""The results that a workflow asks for, and the table of all results."""

from collections.abc import Sequence, Set
from functools import cache
from typing import Any

from pydantic import AliasChoices, Field, create_model

from cntk_pipeline.config import InferenceConfig, RunConfig, Section, read_options
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.inference.base import Product, Result
from cntk_pipeline.inference.calibration import CalibrationResult
from cntk_pipeline.inference.ensemble import EnsembleResult
from cntk_pipeline.inference.evidence import EvidenceResult
from cntk_pipeline.inference.learning_curve import LearningCurveResult
from cntk_pipeline.inference.leave_one_out import LeaveOneOutResult
from cntk_pipeline.inference.posterior_covariance import PosteriorCovarianceResult
from cntk_pipeline.inference.posterior_variance import PosteriorVarianceResult
from cntk_pipeline.inference.spectrum import SpectrumResult
from cntk_pipeline.inference.whitened import WHITENED
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Owner
from cntk_pipeline.solvers import System, SystemSize, centres_of, computes_tiles, has_exact_factor, options_of
from cntk_pipeline.tasks import StageForecast

RESULTS: dict[str, Result] = {
    "leave_one_out": LeaveOneOutResult(),
    "evidence": EvidenceResult(),
    "calibration": CalibrationResult(),
    "learning_curve": LearningCurveResult(),
    "posterior_variance": PosteriorVarianceResult(),
    "posterior_covariance": PosteriorCovarianceResult(),
    "spectrum": SpectrumResult(),
    "ensemble": EnsembleResult(),
}
"""Results by their key in ``[inference]``."""

EXACT_FACTOR = 'take solver = "cholesky" with factor_dtype = "float64"'
"""The remedy where a result needs the factor itself, not only the coefficients."""


def owners() -> list[Owner]:
    """List the owners of the stages of all results, in the order in which a plan and a status show them."""
    return [WHITENED, *(result.owner for result in RESULTS.values())]


@cache
def _options_model() -> type[Section]:
    """Make the model of ``[inference]`` from the table: each key with the type of its value."""
    fields: dict[str, Any] = {
        key: (result.option | None, Field(default=None, validation_alias=AliasChoices(key, *result.earlier_keys)))
        for key, result in RESULTS.items()
    }
    return create_model("InferenceOptions", __base__=Section, **fields)


def asked_of(config: InferenceConfig) -> dict[str, Any]:
    """Read the results that a workflow asks for, with their values, in the order of the table.

    Raises
    ------
    ConfigError
        If a key is unknown or a value invalid, or a result is asked for twice, by its key and by an earlier one.
    """
    for key, result in RESULTS.items():
        given = [name for name in (key, *result.earlier_keys) if name in config.options]
        if len(given) > 1:
            raise ConfigError(
                f"inference.{given[1]} is the earlier name of inference.{given[0]}: leave out one of them"
            )
    options = read_options(_options_model(), config, "inference")
    return {key: value for key, value in options if value}


def require_options(config: RunConfig) -> None:
    """Check the keys of ``[solve]`` and ``[inference]`` that belong to a solver or a result, and no others.

    Raises
    ------
    ConfigError
        If a key is unknown or a value invalid, or a result needs another solver.
    """
    asked, _ = asked_of(config.inference), options_of(config.solve)
    measure = config.solve.choose_by
    if measure is not None and measure not in asked:
        raise ConfigError(
            f'solve.choose_by = "{measure}" compares inference.{measure} of all systems: set {measure} = true under '
            "[inference]"
        )
    for key in asked:
        RESULTS[key].require_solve(config.solve)
    wanted = [f"inference.{key}" for key in asked if RESULTS[key].needs_factor]
    if config.solve.ridges == "auto" and not has_exact_factor(config.solve):
        raise ConfigError(
            f'solve.ridges = "auto" compares the leave-one-out of factors: {EXACT_FACTOR}, or give ridges'
        )
    if asked and not wanted and computes_tiles(config.solve):
        raise ConfigError(
            f"inference.{next(iter(asked))} reads the whole kernel of the training images, of which "
            "solve.kernel_bytes stores a part: leave out one of them"
        )
    if centres_of(config.solve) is not None:
        for key in asked:
            if not RESULTS[key].knows_centres:
                raise ConfigError(
                    f'inference.{key} needs the kernel of all training images, of which solver = "centres" computes '
                    'some columns: leave it out, or take solver = "cholesky"'
                )
        return
    if wanted and not has_exact_factor(config.solve):
        verb = "needs" if len(wanted) == 1 else "need"
        raise ConfigError(f"{' and '.join(wanted)} {verb} the factor of the solve: {EXACT_FACTOR}")


def require_results(
    config: InferenceConfig, train: int, kinds: Set[str], has_test_labels: bool, has_classes: bool
) -> None:
    """Refuse results that do not fit the training images, the kinds of read-outs, the labels, or the task.

    Raises
    ------
    ConfigError
        If a result does not fit. The message names the requirement.
    """
    for key, value in asked_of(config).items():
        if RESULTS[key].needs_test_labels and not has_test_labels:
            raise ConfigError(
                f"inference.{key} compares predictions with labels of the test images, and they have none: leave it out"
            )
        if RESULTS[key].needs_classes and not has_classes:
            raise ConfigError(
                f"inference.{key} needs a classification with one class an image, of at least two classes, and this is "
                "none: leave it out"
            )
        RESULTS[key].require(value, train, kinds)


def needs_test_kernel(config: InferenceConfig) -> bool:
    """Tell whether a result reads K(test, test); only then it is computed."""
    return any(RESULTS[key].needs_test_kernel for key in asked_of(config))


def requested_products(run: RunDirectory, system: System, config: InferenceConfig, order: int) -> list[Product]:
    """List the products that a workflow asks for one system, each once, after the products it needs."""
    products: dict[Any, Product] = {}
    for key, value in asked_of(config).items():
        for product in RESULTS[key].of_system(run, system, value, order):
            products.setdefault(product.stage, product)
    return list(products.values())


def run_products(run: RunDirectory, config: InferenceConfig) -> list[Product]:
    """List the products that belong to no system."""
    asked = asked_of(config)
    return [product for key in asked for product in RESULTS[key].of_run(run, asked)]


def forecast_results(config: InferenceConfig, size: SystemSize, systems: int, readouts: int) -> Sequence[StageForecast]:
    """Forecast all results of a run: one row per kind of stage, in the order of the table."""
    asked = asked_of(config)
    rows: dict[str, StageForecast] = {}
    for key in asked:
        for row in RESULTS[key].forecast(asked, size):
            rows.setdefault(row.kind, row * systems)
        for row in RESULTS[key].forecast_run(asked, size, readouts):
            rows.setdefault(row.kind, row)
    return list(rows.values())
