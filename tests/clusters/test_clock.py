import sys
import time

import distributed
import pytest
from tornado.ioloop import IOLoop

from cntk_pipeline.clusters.dask.clock import keep_steady, steady_time


def test_nothing_of_dask_measures_by_the_time_of_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run makes of it is in tests/faults/test_clocks.py."""
    keep_steady()
    keep_steady()
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == "distributed"]
    assert [module for module in modules if vars(module).get("time") is time.time] == []
    loop = IOLoop(make_current=False)
    before, clocks = time.time(), (loop.time, distributed.metrics.time, distributed.batched.time, steady_time)
    monkeypatch.setattr(time, "time", lambda: before - 3600.0)
    assert all(abs(clock() - before) < 60 for clock in clocks)  # a host may slow its clock down meanwhile
    loop.close()
