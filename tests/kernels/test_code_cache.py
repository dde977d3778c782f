"""Where machine code is kept, and when it is not used again."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import support.kept
from numba import njit, types

import cntk_pipeline
from cntk_pipeline.kernels import code_cache
from cntk_pipeline.kernels.code_cache import FOLDERS_KEPT, CodeCache, code_folder
from cntk_pipeline.kernels.jit import FOLDER

pytestmark = pytest.mark.slow

PROBE = """
import sys
import numpy as np
from cntk_pipeline.kernels.jit import FOLDER, jit
from cntk_pipeline.layers.rectifiers import probed

@jit
def probe(x):
    return probed(x)

print(probe(np.dtype(sys.argv[1]).type(8)), sum(probe.stats.cache_hits.values()), FOLDER)
"""
PROBED = """
from cntk_pipeline.kernels.jit import pasted

@pasted
def probed(x):
    return x * {factor}
"""


@pytest.fixture
def package(tmp_path):
    """A copy of the package whose `probe.py` compiles a function of `layers/rectifiers.py`."""
    source = Path(cntk_pipeline.__file__).parent
    for room in ("kernels", "layers"):
        shutil.copytree(source / room, tmp_path / "cntk_pipeline" / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(source / "errors.py", tmp_path / "cntk_pipeline")
    for name in ("", "kernels"):  # nothing but what is compiled
        (tmp_path / "cntk_pipeline" / name / "__init__.py").write_text("")
    (tmp_path / "cntk_pipeline" / "layers" / "__init__.py").write_text("")
    (tmp_path / "cntk_pipeline" / "kernels" / "probe.py").write_text(PROBE)
    change(tmp_path, 2)
    return tmp_path


def change(package, factor):
    (package / "cntk_pipeline" / "layers" / "rectifiers.py").write_text(PROBED.format(factor=factor))


def start(package, dtype="float64", **environment):
    kept = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    return subprocess.Popen(
        [sys.executable, "-m", "cntk_pipeline.kernels.probe", dtype],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=package,
        env={**kept, "PYTHONPATH": str(package), **{name: str(value) for name, value in environment.items()}},
    )


def probe(package, dtype="float64", **environment):
    """Run the probe; return its value, whether its code was loaded, the folder, and what was said."""
    process = start(package, dtype, **environment)
    output, said = process.communicate()
    assert process.returncode == 0, said
    value, loaded, folder = output.split()
    return float(value), loaded == "1", folder, said


def block(package):
    """Leave no place for compiled code beside the sources, whoever runs this."""
    for room in ("kernels", "layers"):
        shutil.rmtree(package / "cntk_pipeline" / room / "__pycache__", ignore_errors=True)
        (package / "cntk_pipeline" / room / "__pycache__").write_text("a file, not a folder")


@pytest.mark.parametrize("place", ["beside the sources", "NUMBA_CACHE_DIR", "the user's folder"])
def test_a_changed_source_changes_the_values_wherever_code_is_kept(package, place):
    environment = {"HOME": package / "home"}
    if place == "NUMBA_CACHE_DIR":
        environment["NUMBA_CACHE_DIR"] = package / "asked"
    if place == "the user's folder":
        block(package)
    first = probe(package, **environment)
    assert first == (16, False, first[2], "")
    assert probe(package, **environment) == (16, True, first[2], "")
    change(package, 3)
    changed = probe(package, **environment)
    assert changed == (24, False, changed[2], "")
    inside = {"beside the sources": "kernels/__pycache__", "NUMBA_CACHE_DIR": "asked", "the user's folder": "home"}
    assert inside[place] in first[2]
    assert changed[2] != first[2]


def test_without_any_lasting_place_code_is_kept_in_a_temporary_folder_and_that_is_said(package):
    block(package)
    temporary = package / "temporary"
    temporary.mkdir()
    value, loaded, folder, said = probe(package, HOME="/dev/null", TMPDIR=temporary)
    assert (value, loaded) == (16, False)
    assert folder.startswith(str(temporary))
    assert said.count("\n") == 1
    assert "set NUMBA_CACHE_DIR to a folder that can be written" in said
    assert probe(package, HOME="/dev/null", TMPDIR=temporary)[1]


def test_a_cache_folder_that_was_asked_for_and_cannot_be_written_is_named(package):
    (package / "asked").write_text("a file")
    value, _, folder, said = probe(package, NUMBA_CACHE_DIR=package / "asked")
    assert value == 16
    assert f"NUMBA_CACHE_DIR={package / 'asked'} cannot be written: compiled code is kept in {folder}" in said


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has a temporary folder for each user")
@pytest.mark.parametrize("trap", ["others may write", "a link"])
def test_code_of_others_is_never_run(package, trap):
    # What lies in such a folder would be unpickled and run.
    block(package)
    theirs = package / f"cntk-{os.getuid()}"
    if trap == "a link":
        (package / "elsewhere").mkdir(mode=0o700)
        theirs.symlink_to(package / "elsewhere")
    else:
        theirs.mkdir()
        theirs.chmod(0o777)
    value, _, folder, said = probe(package, HOME="/dev/null", TMPDIR=package)
    assert (value, folder) == (16, "None")
    assert "every process compiles its code again" in said
    assert not list(theirs.iterdir())


def test_processes_that_start_at_once_keep_whole_code_of_their_own(package):
    dtypes = ("float32", "float64", "float32", "float64")
    processes = [start(package, dtype) for dtype in dtypes]
    for process in processes:
        output, said = process.communicate()
        assert output.startswith("16"), said
    value, loaded, folder, _ = probe(package, "float32")
    assert (value, loaded) == (16, True)
    assert sorted(path.suffix for path in Path(folder).iterdir()) == [".code", ".code"]


def compiled(folder, signature, factor=2.0):
    """Compile a function of one signature, whose code is kept in a folder."""

    def scale(x):
        return x * factor

    function = njit(scale)
    function._cache = CodeCache(folder, scale)
    function.compile(signature)
    function.disable_compile()
    return function, sum(function.stats.cache_hits.values())


def test_every_signature_and_every_closure_has_a_file_of_its_own(tmp_path):
    for signature, factor in (("f8(f8)", 2.0), ("f4(f4)", 2.0), ("f8(f8)", 3.0)):
        function, hits = compiled(tmp_path, signature, factor)
        assert (function(np.float32(4) if signature == "f4(f4)" else 4.0), hits) == (4 * factor, 0)
    assert len(list(tmp_path.glob("*.code"))) == 3
    function, hits = compiled(tmp_path, "f8(f8)", 3.0)
    assert (function(4.0), hits) == (12, 1)


def test_no_two_sets_of_closed_over_values_share_a_file(tmp_path):
    # Equal values are one object here, and so may be those of two cells.
    codegen = njit(lambda x: x).targetctx.codegen()

    def one(x):
        return x + 1

    def two(x):
        return x + 2

    def closing_over(*values):
        a, b, c = values
        return lambda x: (a, b, c, x)

    sets = [*product((True, False), repeat=3), *product((one, two), repeat=3), (1, 1, 0), (1, 1.0, 0), ((1, 1), 1, 0)]
    paths = [CodeCache(tmp_path, closing_over(*values))._path((types.float64,), codegen) for values in sets]
    assert len(set(paths)) == len(sets)


@pytest.mark.parametrize("damage", ["empty", "cut short", "other bytes"])
def test_damaged_code_is_compiled_again(tmp_path, damage):
    compiled(tmp_path, "f8(f8)")
    (path,) = tmp_path.glob("*.code")
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "cut short": whole[:-100], "other bytes": whole[:-100] + bytes(100)}[damage])
    function, hits = compiled(tmp_path, "f8(f8)")
    assert (function(4.0), hits) == (8, 0)
    assert compiled(tmp_path, "f8(f8)")[1] == 1


def test_code_that_cannot_be_kept_is_used_all_the_same(tmp_path):
    (tmp_path / "full").write_text("a file, not a folder")
    function, _ = compiled(tmp_path / "full", "f8(f8)")
    assert function(4.0) == 8


def test_code_of_a_layer_outside_the_package_follows_its_file(tmp_path):
    path = tmp_path / "own_layer.py"
    cache = CodeCache(tmp_path, _closing_over(path, "def dual(x):\n    return 2 * x\n"))
    again = CodeCache(tmp_path, _closing_over(path, "def dual(x):\n    return 2 * x\n"))
    other = CodeCache(tmp_path, _closing_over(path, "def dual(x):\n    return 3 * x\n"))
    codegen = njit(lambda x: x).targetctx.codegen()
    names = [found._path((types.float64,), codegen).name for found in (cache, again, other)]
    assert names[0] == names[1] != names[2]


def _closing_over(path, text):
    path.write_text(text)
    code_cache._source.cache_clear()  # another process would read the file anew
    names = {"__name__": "math"}  # an importable module, which is pickled by its name
    exec(compile(text, str(path), "exec"), names)
    dual = names["dual"]

    def loop(x):
        return dual(x)

    return loop


OWN_LAYER = """
import math
from dataclasses import dataclass
import numpy as np
import constants
from constants import FACTOR, TABLE
from cntk_pipeline.kernels.jit import pasted
from cntk_pipeline.layers.elementary import inverse_root
from cntk_pipeline.layers.pointwise import ClosedForm
from helpers import helper

@pasted
def near(x):
    return helper(x)

@dataclass(frozen=True)
class Own(ClosedForm):
    statistic_count = 1

    @staticmethod
    def statistics(variance, constants):
        return inverse_root(variance), variance

    @staticmethod
    def dual(covariance, x, z, unused):
        value = near(covariance) * (FACTOR * TABLE[1] * constants.OTHER * math.pi / np.pi)
        return value, 0.0 * value
"""
OWN_HELPER = """
from cntk_pipeline.kernels.jit import pasted
from deepest import DEEPEST

@pasted
def helper(x):
    return x * DEEPEST
"""
OWN_PROBE = """
import numpy as np
from own_layer import Own
from cntk_pipeline.kernels import jit
from cntk_pipeline.kernels.code_cache import CodeCache
from cntk_pipeline.kernels import kernel_matrix
from cntk_pipeline.layers import Dense, Sequential

found = []
load = CodeCache._load_overload

def counted(self, *asked):
    found.append(load(self, *asked))
    return found[-1]

CodeCache._load_overload = counted
network = Sequential(Dense(), Own(), Dense())
value = kernel_matrix(network, np.array([[1.0, 2.0], [3.0, 1.0]]), kind="nngp", dtype="float64", n_jobs=1)[0, 1]
print(value, None not in found)
"""


def test_a_layer_of_one_s_own_follows_the_constants_that_it_and_its_helpers_import(tmp_path):
    texts = {"own_layer": OWN_LAYER, "helpers": OWN_HELPER, "deepest": "DEEPEST = 1.0\n", "probe": OWN_PROBE}
    texts["constants"] = "FACTOR = 1.0\nTABLE = (0.0, 1.0)\nOTHER = 1.0\n"
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    if FOLDER is not None:  # what is compiled of the package need not be compiled here too
        kept = tmp_path / "cache" / "cntk" / FOLDER.name
        kept.mkdir(parents=True)
        for file in FOLDER.glob("*.code"):
            shutil.copy(file, kept)

    def compute():
        asked = [sys.executable, "probe.py"]
        value, loaded = subprocess.check_output(asked, cwd=tmp_path, env=environment, text=True).split()
        return float(value), loaded == "True"

    assert compute() == (2.5, False)
    assert compute() == (2.5, True)
    expected = 2.5
    changes = ("constants", "FACTOR = 1"), ("constants", "0.0, 1"), ("constants", "OTHER = 1"), ("deepest", "= 1")
    for file, end in changes:
        path = tmp_path / f"{file}.py"
        path.write_text(path.read_text().replace(end, f"{end[:-1]}3"))
        expected *= 3
        assert compute() == (expected, False), end


def test_only_the_sets_of_sources_that_were_used_last_keep_their_code(tmp_path, monkeypatch):
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path / "cache"))
    source = tmp_path / "source.py"
    folders = []
    for number in range(FOLDERS_KEPT + 3):
        source.write_text(f"version = {number}")
        folders.append(code_folder([source]))
        (folders[-1] / "some.code").write_text("machine code")
        os.utime(folders[-1], (number, number))
        if number == FOLDERS_KEPT:
            source.write_text("version = 2")
            assert code_folder([source]) == folders[2]  # used again, so it is not the oldest any more
    left = [number for number, folder in enumerate(folders) if folder.exists()]
    assert left == [2, *range(4, FOLDERS_KEPT + 3)]


def test_the_processes_that_a_process_starts_say_nothing_again(caplog, monkeypatch):
    code_cache._say("no place")
    monkeypatch.setattr(multiprocessing, "parent_process", multiprocessing.current_process)
    code_cache._say("no place")
    assert caplog.messages == ["no place"]


def test_what_a_compiler_made_of_a_text_is_read_again_and_made_again_where_its_file_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support.kept, "FOLDER", tmp_path / "sources")
    monkeypatch.setattr(support.kept, "FILES_KEPT", 2)
    made = []

    def compiled(text: str) -> bytes:
        def make() -> bytes:
            made.append(text)
            return text.encode() * 3

        return support.kept.kept(make, text, "-O1")

    assert [compiled("a"), compiled("a")] == [b"aaa"] * 2
    (file,) = (tmp_path / "compiled-texts").iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:-1], whole[:-1] + b"b"):
        file.write_bytes(damaged)
        assert compiled("a") == b"aaa"
        assert file.read_bytes() == whole
    assert made == ["a"] * 4
    for text in "bc":
        assert compiled(text) == text.encode() * 3
    assert len(list((tmp_path / "compiled-texts").iterdir())) == 2
    assert compiled("c") == b"ccc"
    assert made == [*"aaaabc"]
