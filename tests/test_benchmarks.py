"""Benchmarks that nobody runs for a while still measure what they say."""

from pathlib import Path

import cholesky
import factor_check
import pytest

pytestmark = pytest.mark.slow


def test_the_factorisation_that_is_timed_is_one(tmp_path: Path) -> None:
    found = cholesky.measure(tmp_path, 600, 1, "512")
    assert found.error < 1e-12
    assert found.tile == 512
    assert found.core_seconds > 0
    assert 0 < found.seconds < 300


def test_the_time_of_a_factor_ends_with_its_coefficients() -> None:
    seconds, processor_seconds = factor_check.time_factor(400, 128, 1)
    assert 0 < seconds < 300
    assert processor_seconds > 0
