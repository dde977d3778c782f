"""Workflow files: TOML in, a frozen and validated `RunConfig` out.

An unknown key is an error that names the nearest known one; every value is checked before anything runs.
"""

from cntk_pipeline.config.cluster import ClusterConfig, memory_limit_bytes, parse_bytes
from cntk_pipeline.config.listening import read_address, read_listener
from cntk_pipeline.config.problem import (
    DEFAULT_ENGINE,
    InferenceConfig,
    KernelConfig,
    NetworkConfig,
    ReadoutsConfig,
    Scalar,
    SolveConfig,
)
from cntk_pipeline.config.section import OpenSection, Section, expand_place
from cntk_pipeline.config.workflow import (
    RunConfig,
    StoreConfig,
    load_cluster,
    load_config,
    make_config,
    parse_config,
    read_options,
    read_overrides,
    unknown_key,
)

__all__ = [
    "DEFAULT_ENGINE",
    "ClusterConfig",
    "InferenceConfig",
    "KernelConfig",
    "NetworkConfig",
    "OpenSection",
    "ReadoutsConfig",
    "RunConfig",
    "Scalar",
    "Section",
    "SolveConfig",
    "StoreConfig",
    "expand_place",
    "load_cluster",
    "load_config",
    "make_config",
    "memory_limit_bytes",
    "parse_bytes",
    "parse_config",
    "read_address",
    "read_listener",
    "read_options",
    "read_overrides",
    "unknown_key",
]
