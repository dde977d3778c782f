"""Hooks of pytest: where CNTK_REQUIRE_REAL is set, a test is not skipped for want of what CI has.

That is all that can be installed, and the right to mount, without which the tests of hosts fail too. The hooks know
such a skip by the words of its reason, or as one of `pytest.importorskip`. Other skips stay: a kernel without FUSE,
loop devices or control groups of version 1, a machine of one core, combinations of parameters that do not exist.
"""

import os
from collections.abc import Generator

import pytest

_LACKING = (
    "not installed",
    "could not import",
    "no tmpfs can be mounted",
    "a small disk",
    "nothing can be mounted",
)


def _fail_if_lacking(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not os.environ.get("CNTK_REQUIRE_REAL") or report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if any(words in reason for words in _LACKING):
        report.outcome = "failed"
        remedy = "make test installs packages, tests/real/install.sh programs; root mounts"
        report.longrepr = f"CNTK_REQUIRE_REAL is set, and a part is missing ({remedy}): {reason}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that would be skipped for want of what can be installed."""
    report = yield
    _fail_if_lacking(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Fail a file that would be skipped as a whole."""
    report = yield
    _fail_if_lacking(report)
    return report
