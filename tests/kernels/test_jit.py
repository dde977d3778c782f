"""How functions are compiled."""

import os
import subprocess
import sys

from pipeline.kernels import engine, planes, variances
from pipeline.kernels.jit import forget_stale_code, jit


def test_a_user_s_choice_of_processor_features_is_left_alone():
    code = "import numba, pipeline.kernels.jit; print(numba.config.CPU_FEATURES)"
    environment = {**os.environ, "NUMBA_CPU_FEATURES": "+sse2", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment, text=True)
    assert printed.stdout.strip() == "+sse2"


def test_compiled_functions_release_the_interpreter_and_reorder_no_sum():
    @jit
    def anything(x):
        return x

    for function in (anything, engine.run_group, engine.run_stage, planes.relu_plane, variances.run_variances):
        options = function.targetoptions
        assert options["nogil"]
        assert options["fastmath"] == {"contract", "nsz"}
        assert options["error_model"] == "numpy"


def test_compiled_functions_are_kept_on_disk():
    assert type(engine.run_group._cache).__name__ == "FunctionCache"


def test_machine_code_of_changed_sources_is_deleted(tmp_path):
    (tmp_path / "planes.py").write_text("one")
    forget_stale_code(tmp_path)
    old = tmp_path / "__pycache__" / "engine.run-1.py311.nbi"
    old.write_text("machine code")
    forget_stale_code(tmp_path)
    assert old.exists()
    (tmp_path / "planes.py").write_text("two")
    forget_stale_code(tmp_path)
    assert not old.exists()
