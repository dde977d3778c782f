"""What a workflow asks to infer from a system: the products of its ``[inference]`` section."""

from cntk_pipeline.config import InferenceConfig
from cntk_pipeline.inference.covariance import covariance_product
from cntk_pipeline.inference.curve import default_sizes, learning_curve_product
from cntk_pipeline.inference.extremes import spectrum_product
from cntk_pipeline.inference.left_out import leave_one_out_product
from cntk_pipeline.inference.products import Product
from cntk_pipeline.inference.uncertainty import variance_product
from cntk_pipeline.inference.whitened import whitened_product
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers import System

DEFAULT_EIGENVALUES = 10


def requested_products(run: RunDirectory, system: System, config: InferenceConfig, order: int) -> list[Product]:
    """List the products that a workflow asks of a system, those that they need first."""
    products = []
    if config.leave_one_out:
        products.append(leave_one_out_product(run, system, order))
    if config.learning_curve or config.variance or config.covariance:
        products.append(whitened_product(run, system, order))
    if config.learning_curve:
        all_sizes = default_sizes(run.train_cut.count)
        sizes = all_sizes if config.learning_curve is True else config.learning_curve
        products.append(learning_curve_product(run, system, sizes, order))
    if config.variance:
        products.append(variance_product(run, system, order))
    if config.covariance:
        products.append(covariance_product(run, system, order))
    if config.spectrum:
        count = DEFAULT_EIGENVALUES if config.spectrum is True else config.spectrum
        products.append(spectrum_product(run, system, count, order))
    return products
