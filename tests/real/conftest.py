"""What tests of real parts share: a part that is missing skips its test, or fails it where parts are required."""

import os
import shutil
from collections.abc import Callable

import pytest

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
"""Daemons are not on the path of everybody."""


@pytest.fixture(scope="session")
def require() -> Callable[..., None]:
    """Return what skips a test unless programs and rights are there, or fails it where CNTK_REQUIRE_REAL is set.

    Called in a test or a fixture: ``require("slurmctld", "munged", root=True)``.
    """

    def check(*programs: str, root: bool = False) -> None:
        absent = [program for program in programs if shutil.which(program, path=PATH) is None]
        reasons = [f"{' and '.join(absent)} not found: run tests/real/install.sh"] if absent else []
        if root and os.geteuid() != 0:
            reasons.append("only root may do this")
        if not reasons:
            return
        if os.environ.get("CNTK_REQUIRE_REAL"):
            pytest.fail("; ".join(reasons))
        pytest.skip("; ".join(reasons))

    return check
