"""Scikit-learn's estimators with kernels of infinitely wide networks, for data in memory."""

from cntk_pipeline.estimators.classifier import KernelClassifier
from cntk_pipeline.estimators.memory import fill_memory
from cntk_pipeline.estimators.network_kernel import NetworkKernel
from cntk_pipeline.estimators.regressor import KernelRegressor

__all__ = ["KernelClassifier", "KernelRegressor", "NetworkKernel", "fill_memory"]
