"""The name of the package in earlier versions. An import of it says the new name; no wheel has this file."""

raise ImportError(
    "the package `pipeline` is called cntk_pipeline now: write `cntk_pipeline` for `pipeline` in each import, such as "
    "`from cntk_pipeline.layers import Relu`. The functions of pipeline.inference for kernels in memory, such as "
    "gp_posterior, are in cntk_pipeline.regression. An import of another module that has moved says where it is"
)
