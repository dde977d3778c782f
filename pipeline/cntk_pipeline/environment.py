"""Variables of the environment that make numba fail with a traceback, or worse."""

import os
import re
from collections.abc import Mapping

from cntk_pipeline.errors import ConfigError

_FEATURES = re.compile(r"([+-][^,]+)(,[+-][^,]+)*")


def require_usable(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse an environment in which compilation would fail.

    Raises
    ------
    ConfigError
        If compilation would fail, with the variable and the remedy.
    """
    disabled = environment.get("NUMBA_DISABLE_JIT", "")
    if disabled.strip() not in ("", "0"):
        raise ConfigError(
            f"NUMBA_DISABLE_JIT={disabled}: kernels exist as compiled code only; unset it (unset NUMBA_DISABLE_JIT)"
        )
    threads = environment.get("NUMBA_NUM_THREADS", "")
    if re.fullmatch(r"\s*(-\d+|0+)\s*", threads):
        raise ConfigError(
            f"NUMBA_NUM_THREADS={threads}: numba needs at least one thread; unset it, or give a number of at least 1"
        )
    features = environment.get("NUMBA_CPU_FEATURES", "")
    if features and not _FEATURES.fullmatch(features):
        raise ConfigError(
            f"NUMBA_CPU_FEATURES={features}: expected features with a sign before each, like +avx2,-avx512f; unset it, "
            "or correct it"
        )
