"""Functions of users as an engine: how they are found, what they are given, and what is refused."""

import hashlib
import importlib
import json
import os
import py_compile
import shutil
import subprocess
import sys
import uuid
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pytest

from cntk_pipeline import kernel_matrix
from cntk_pipeline.errors import ConfigError, LayerError, NotFinite, NotTrusted, SpecificationMismatch
from cntk_pipeline.kernels import ENGINES, Question, plugin_code, plugin_packages
from cntk_pipeline.kernels.plugin import PluginEngine, PluginOptions
from cntk_pipeline.layers import Dense, Dropout, Relu, Residual, Sequential, presets

PLUGINS = Path(__file__).parent / "plugins"
NETWORK = presets.fully_connected(2)
SHAPE = (6,)

LINEAR = "import numpy as np\ndef kernel(x, z, *, network, kind):\n    return np.einsum('if,jf->ij', x, z)\n"


def draw(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, *SHAPE))


def engine_of(folder, name="own:kernel", dtype="float64", readouts=((NETWORK, "ntk"),), **options):
    """Load a function and put a question to it, as a workflow does."""
    asked = PluginOptions.model_validate({"plugin": name, "plugin_folder": folder and str(folder)} | options)
    return PluginEngine(Question(readouts, SHAPE, dtype), PluginEngine.load_code(asked))


@pytest.fixture
def write(tmp_path):
    def write(source, name="own"):
        (tmp_path / f"{name}.py").write_text(source)
        return tmp_path

    return write


def body(*lines):
    return "\n".join(["import numpy as np", "def kernel(x, z, *, network, kind):", *(f"    {line}" for line in lines)])


# What the function is given, and what becomes of its values.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_exact_engine_through_a_plugin_has_the_same_bits(dtype):
    x, z = draw(21), draw(5, seed=1)
    readouts = ((NETWORK, "ntk"), (NETWORK, "nngp"), (presets.fully_connected(3), "ntk"))
    evaluator = engine_of(PLUGINS, "exact:kernel", dtype, readouts, plugin_block=8).evaluator()
    for right in (z, None):
        for found, (network, kind) in zip(evaluator.evaluate(x, right), readouts, strict=True):
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, kernel_matrix(network, x, right, kind=kind, dtype=dtype))
    own = kernel_matrix(NETWORK, x, dtype=dtype).diagonal()
    np.testing.assert_array_equal(evaluator.evaluate_pairs(x)[0], own)


def test_blocks_have_one_size_and_one_dtype_and_are_read_only(write):
    source = body(
        "assert x.shape == z.shape == (4, 6) and x.dtype == 'float32' and x.flags.c_contiguous",
        "assert not x.flags.writeable and not z.flags.writeable",
        "return np.multiply.outer(x[:, 0], z[:, 0]) * (2 if kind == 'nngp' else len(network.layers))",
    )
    engine = engine_of(write(source), dtype="float32", readouts=((NETWORK, "ntk"), (NETWORK, "nngp")), plugin_block=4)
    assert engine.lane_width == 4
    x, z = draw(9).astype("float32"), draw(6, seed=1).astype("float32")
    found = engine.evaluator().evaluate(x.astype("float64"), z)
    expected = np.multiply.outer(x[:, 0], z[:, 0])
    np.testing.assert_array_equal(found[0], len(NETWORK.layers) * expected)
    np.testing.assert_array_equal(found[1], 2 * expected)


def test_a_kernel_of_no_network_has_no_layers(write):
    engine = engine_of(write(LINEAR), readouts=((Sequential(), "nngp"),))
    x = draw(40)
    np.testing.assert_allclose(engine.evaluator().evaluate(x)[0], x @ x.T, rtol=1e-12, atol=1e-12)


def test_a_stop_ends_a_tile_after_the_block_at_hand(write):
    evaluator = engine_of(write(body("raise SystemExit('called')"))).evaluator()
    evaluator.interrupt()
    assert evaluator.evaluate(draw(3)).shape == (1, 3, 3)


# What a function must not do.


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        (["return x @ z.T + len(set(x[:, 0]))"], {}),  # what else is in the block
        (["return np.einsum('if,jf->ij', x, z) + 1e-9 * np.arange(len(x))[:, None]"], {}),  # the place in the block
        (["v = np.einsum('if,jf->ij', x, z)", "v[2, 1] += 1e-9", "return v"], {}),
        (["return x @ z.T + np.random.default_rng().standard_normal()"], {"plugin_block": 1}),
    ],
    ids=["batch", "place", "middle", "random"],
)
def test_values_that_depend_on_the_tile_are_refused_before_a_run_is_begun(write, lines, options):
    engine = engine_of(write(body(*lines)), **options)
    with pytest.raises(ConfigError, match=r"own:kernel computes .* for a pair of images, and .* where .*plugin_block"):
        engine.check(draw(32))


def test_values_of_one_order_of_images_alone_are_refused(write):
    engine = engine_of(write(body("return np.einsum('if,jf->ij', x, z) + (x * [1, 0, 0, 0, 0, 0]).sum(1)[:, None]")))
    with pytest.raises(ConfigError, match=r"is not symmetric: K\(x, z\) and K\(z, x\) differ by .* of the largest"):
        engine.check(draw(32))


@pytest.mark.filterwarnings("error")
def test_a_kernel_of_zeros_is_symmetric_and_hides_no_other_one(write):
    lines = ["v = np.einsum('if,jf->ij', x, z) + x[:, :1]", "return v if kind == 'ntk' else np.zeros_like(v)"]
    readouts = ((NETWORK, "nngp"), (NETWORK, "ntk"))
    engine_of(write(body(*lines)), dtype="float32", readouts=readouts[:1]).check(draw(32))
    with pytest.raises(ConfigError, match=r"is not symmetric: K\(x, z\) and K\(z, x\) differ by .* of the largest"):
        engine_of(write(body(*lines)), dtype="float32", readouts=readouts).check(draw(32))


@pytest.mark.parametrize("block", [1, 3, 32, 64])
def test_values_of_two_images_alone_pass(write, block):
    engine = engine_of(write(LINEAR), plugin_block=block)
    engine.check(draw(32))
    engine.check(draw(2))
    engine.test(draw(2))


def test_a_wrong_shape_a_wrong_type_and_an_error_are_told_with_the_function(write):
    for line, message in (
        ("return x @ x.T[:, :2]", r"must return an array of \(32, 32\) real numbers .* got shape \(32, 2\)"),
        ("return (x @ z.T).astype(complex)", r"got shape \(32, 32\) and dtype complex128"),
        ("return np.ma.masked_array(x @ z.T, mask=True)", r"got a masked one of shape \(32, 32\) and dtype float64"),
        ("return 1 / 0", r"own:kernel failed: ZeroDivisionError: division by zero \(.*own.py, line 3\)"),
        ("import sys; sys.exit(0)", r"own:kernel failed: SystemExit: 0 \(.*own.py, line 3\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            engine_of(write(body(line))).evaluator().evaluate(draw(2))
    told = (
        r"read-out 0 is {} for pair \(10, 20\): the plugin own:kernel returned it, and its values must be finite in {}"
    )
    with pytest.raises(NotFinite, match=told.format("nan", "float64")):
        engine_of(write(body("return x @ z.T * np.nan"))).evaluator().evaluate(draw(2), first=(10, 20))
    large = engine_of(write(body("return np.full((32, 32), 1e300)")), dtype="float32").evaluator()
    for evaluate in (large.evaluate, large.evaluate_pairs):
        with pytest.raises(NotFinite, match=told.replace("20", "[12]0").format("inf", "float32")):
            evaluate(draw(2), first=(10, 20))
    with pytest.raises(MemoryError):
        engine_of(write(body("raise MemoryError"))).evaluator().evaluate(draw(2))


def test_what_the_engine_does_not_do_is_refused(write):
    options = PluginEngine.load_code(PluginOptions(plugin="own:kernel", plugin_folder=str(write(LINEAR))))
    with pytest.raises(LayerError, match='the engine "plugin" averages over no flips'):
        PluginEngine(Question(((NETWORK, "ntk"),), SHAPE, flips=True), options)
    masked = Sequential(Dense(), Relu(), Residual(Sequential(Dropout(0.5), Dense())), Dense())
    with pytest.raises(LayerError, match=r"Dropout\(rate=0.5\) draws a mask for each sample, .*: leave it out"):
        PluginEngine(Question(((masked, "ntk"),), SHAPE), options)
    with pytest.raises(LayerError, match="an engine needs at least one read-out, got none"):
        PluginEngine(Question((), SHAPE), options)
    with pytest.raises(ConfigError, match='engine = "plugin" computes by a function of yours: name it'):
        kernel_matrix(NETWORK, draw(2), engine="plugin")


# How code is found.


def test_nothing_is_computed_by_code_that_nobody_has_loaded(write):
    folder = write(LINEAR + "# of this test alone\n")
    digest = hashlib.sha256((folder / "own.py").read_bytes()).hexdigest()
    options = PluginOptions(plugin="own:kernel", plugin_folder=str(folder), plugin_digest=digest)
    with pytest.raises(NotTrusted, match=rf"the plugin own:kernel \(sha256 {digest}\), which nobody has allowed"):
        PluginEngine(Question(((NETWORK, "ntk"),), SHAPE), options)
    loaded = PluginEngine.load_code(options)
    assert loaded.model_dump(exclude_none=True) == {
        "plugin": "own:kernel",
        "plugin_digest": digest,
        "plugin_block": 32,
    }
    PluginEngine(Question(((NETWORK, "ntk"),), SHAPE), loaded)


def test_other_source_is_refused_with_both_digests_and_not_imported(write):
    wanted = PluginEngine.load_code(PluginOptions(plugin="own:kernel", plugin_folder=str(write(LINEAR)))).plugin_digest
    folder = write("raise SystemExit('imported')")
    found = hashlib.sha256(b"raise SystemExit('imported')").hexdigest()
    with pytest.raises(SpecificationMismatch, match=rf"(?s)own.py on .*{found}.*expected is\s+{wanted}.*Bring back"):
        engine_of(folder, plugin_digest=wanted)


def test_what_runs_is_the_source_of_this_moment_and_not_what_was_imported_before(write):
    for factor in (2, 3):
        folder = write(body(f"return {factor} * np.einsum('if,jf->ij', x, z)"))
        x = draw(3)
        np.testing.assert_allclose(engine_of(folder).evaluator().evaluate(x)[0], factor * x @ x.T)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own", "kernel.plugin is a function as \"module:function\", got 'own'"),
        ("../own:kernel", "kernel.plugin is a function as"),
        ("own:kernel.x", "kernel.plugin is a function as"),
        ("package.own:kernel", "in kernel.plugin_folder a module is one file"),
        ("other:kernel", r"there is no file .*other.py on .*; kernel.plugin_folder names the folder"),
        ("own:kernle", r"own.py has no function 'kernle': did you mean 'kernel'\?"),
        ("own:number", "has no function 'number'"),
        ("broken:kernel", r"broken:kernel cannot be imported: NameError: .* \(.*broken.py, line 2\)"),
    ],
)
def test_a_function_that_is_not_there_is_named(write, name, message):
    write(LINEAR + "number = 1\n")
    with pytest.raises(ConfigError, match=message):
        engine_of(write("\nabsent\n", "broken"), name)


def test_a_module_that_ends_python_does_not_end_a_run(write):
    folder = write("import sys\nsys.exit(0)\n" + LINEAR, "quits")
    with pytest.raises(ConfigError, match=r"quits:kernel cannot be imported: SystemExit: 0 \(.*quits.py, line 2\)"):
        engine_of(folder, "quits:kernel")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cntk_no_such_module:f", "no module 'cntk_no_such_module' is installed on "),
        ("__main__:f", "write the function into a file, and name its kernel.plugin_folder"),
        ("math:f", "the module 'math' has no source in Python"),
    ],
)
def test_a_module_that_is_not_installed_is_named(name, message):
    with pytest.raises(ConfigError, match=message):
        plugin_code.load_function(name, None)


PROGRAM = """
import sys
from cntk_pipeline.kernels import plugin_code
print(plugin_code.load_function(sys.argv[1], None))
"""


def load_elsewhere(folder, name, current):
    """Load a function in a fresh process that finds modules in a folder, and in the current one."""
    pipeline = Path(plugin_code.__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, name],
        cwd=current,
        env={"PYTHONPATH": f"{pipeline}:{folder}"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.slow
def test_the_digest_of_a_package_covers_all_its_files(tmp_path):
    package, current = tmp_path / "places" / "ownkernels", tmp_path / "current"
    package.mkdir(parents=True)
    current.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("scale = 2\n")
    (package / "linear.py").write_text("from ownkernels.parts import scale\ndef kernel(x, z, *, network, kind): ...\n")
    first = load_elsewhere(package.parent, "ownkernels.linear:kernel", current)
    assert first.returncode == 0, first.stderr
    (package / "parts.py").write_text("scale = 3\n")
    second = load_elsewhere(package.parent, "ownkernels.linear:kernel", current)
    assert len(first.stdout.strip()) == 64
    assert len({first.stdout, second.stdout}) == 2


@pytest.mark.slow
def test_the_current_directory_is_never_searched(tmp_path):
    (tmp_path / "own.py").write_text("from pathlib import Path\nPath('was-run').touch()\n" + LINEAR)
    said = load_elsewhere(tmp_path / "empty", "own:kernel", tmp_path)
    assert "own.py lies in the current directory, which is never searched" in said.stderr
    assert not (tmp_path / "was-run").exists()


def test_a_package_that_changed_since_it_was_imported_is_refused(tmp_path, monkeypatch):
    package = tmp_path / "cntk_test_package"
    package.mkdir()
    (package / "__init__.py").write_text(LINEAR)
    monkeypatch.syspath_prepend(tmp_path)
    before = plugin_code.load_function("cntk_test_package:kernel", None)
    assert plugin_code.load_function("cntk_test_package:kernel", None) == before
    (package / "__init__.py").write_text(LINEAR + "# changed\n")
    with pytest.raises(ConfigError, match="have changed since this process imported them: start Python again"):
        plugin_code.load_function("cntk_test_package:kernel", None)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write files of a package that can be imported; return its name."""
    name = f"cntk_{uuid.uuid4().hex[:16]}"  # pytest may name a folder as one that it has removed
    monkeypatch.syspath_prepend(tmp_path)

    def write(**files):
        (tmp_path / name).mkdir(exist_ok=True)
        for file, source in ({"__init__": ""} | files).items():
            (tmp_path / name / f"{file}.py").write_text(source)
        importlib.invalidate_caches()
        return tmp_path / name

    yield write
    for key in [key for key in sys.modules if key.startswith(name)]:
        del sys.modules[key]


SCALED = "def kernel(x, z, *, network, kind):\n    return {}\n"


def test_a_package_that_somebody_imported_before_is_refused_once_files_are_younger_than_the_process(package):
    folder = package(kern=SCALED.format(1))
    importlib.import_module(f"{folder.name}.kern")  # as a notebook does
    (folder / "kern.py").write_text(SCALED.format(5))
    with pytest.raises(ConfigError, match=r"this process imported .*\.py before, .* start Python again"):
        plugin_code.load_function(f"{folder.name}.kern:kernel", None)


def test_a_file_has_changed_also_where_a_copy_has_kept_its_time_or_it_is_gone(tmp_path):
    file, began = tmp_path / "kern.py", psutil.Process().create_time()
    assert plugin_packages._changed_at(Path(json.__file__)) < began
    file.write_text("")
    os.utime(file, (1e9, 1e9))
    assert plugin_packages._changed_at(file) > began
    file.unlink()
    assert plugin_packages._changed_at(file) > began


def test_a_package_that_somebody_imported_before_is_taken_where_its_files_are_older_than_the_process():
    assert "json" in sys.modules
    digest = plugin_code.load_function("json:dumps", None)
    assert plugin_code.loaded_function("json:dumps", digest) is json.dumps


def test_the_source_of_a_package_runs_and_no_compiled_cache_of_another_one(package):
    folder = package(kern=SCALED.format(1))
    file = folder / "kern.py"
    py_compile.compile(file, invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP)
    times = file.stat()
    file.write_text(SCALED.format(5))  # of the same size
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    name = f"{folder.name}.kern:kernel"
    found = plugin_code.loaded_function(name, plugin_code.load_function(name, None))
    assert found(None, None, network=None, kind=None) == 5


@pytest.mark.parametrize("late", ["parts", "more"])
def test_a_part_that_is_imported_late_and_has_changed_or_is_new_is_refused(package, late):
    source = f"from {{}}.{late} import scale\n    return scale * x @ z.T"
    folder = package(parts="scale = 2\n")
    package(kern=SCALED.format(source.format(folder.name)).replace("return from", "from"))
    engine = engine_of(None, f"{folder.name}.kern:kernel")
    package(**{late: "scale = 3\n"}, kern=(folder / "kern.py").read_text())
    what = {"parts": "has changed since", "more": "was not there when"}[late]
    with pytest.raises(ConfigError, match=rf"ImportError: .*{late}.py {what} its package was digested: start Python"):
        engine.evaluator().evaluate(draw(2))


def test_a_package_in_an_archive_has_no_files_to_digest(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.writestr("cntk_test_zipped/__init__.py", LINEAR)
    monkeypatch.syspath_prepend(tmp_path / "code.zip")
    with pytest.raises(ConfigError, match="'cntk_test_zipped' has no source in Python, in a file of its own"):
        plugin_code.load_function("cntk_test_zipped:kernel", None)


def test_code_of_other_folders_and_other_files_beside_it_are_read_each_time(tmp_path):
    source = "import numpy as np\nfrom pathlib import Path\n"
    source += "scale = float((Path(__file__).parent / 'scale.txt').read_text())\n"
    source += "def kernel(x, z, *, network, kind):\n    return scale * np.einsum('if,jf->ij', x, z)\n"
    x = draw(3)
    for folder, scale in (("one", 1), ("two", 7), ("one", 2)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "own.py").write_text(source)
        (tmp_path / folder / "scale.txt").write_text(f"{scale}")
        np.testing.assert_allclose(engine_of(tmp_path / folder).evaluator().evaluate(x)[0], scale * x @ x.T)


def test_a_module_in_one_file_is_found_among_the_installed_ones(tmp_path, monkeypatch):
    shutil.copy(PLUGINS / "exact.py", tmp_path / "cntk_test_exact.py")
    monkeypatch.syspath_prepend(tmp_path)
    digest = plugin_code.load_function("cntk_test_exact:kernel", None)
    assert digest == hashlib.sha256((PLUGINS / "exact.py").read_bytes()).hexdigest()
    assert "cntk_test_exact" not in sys.modules


def test_the_engine_is_in_the_table():
    assert ENGINES["plugin"] is PluginEngine
