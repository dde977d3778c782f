"""A run with pictures, made once for all tests of pages."""

import pytest
from support import pictured

from cntk_pipeline.opened import OpenRun


@pytest.fixture(scope="package")
def pictured_run(tmp_path_factory: pytest.TempPathFactory) -> OpenRun:
    return pictured.start(tmp_path_factory.mktemp("pictured") / "run")
