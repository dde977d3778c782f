"""The wheel and the source archive: built, installed where nothing else of this repository is, and used from elsewhere.

Seen to fail: without the workflows in the wheel; with `python -m` of the package in a folder that has a numpy.py, where
the current directory was searched.
"""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from support.hostile import hostile_run, lay_hostile

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
BUILD = "import sys; from hatchling import build; print(getattr(build, sys.argv[1])(sys.argv[2]))"
MACHINE_CODE = ROOT / "pipeline" / "cntk_pipeline" / "kernels" / "__pycache__"
"""Of `kernels.code_cache`, which belongs to sources of any place; without it, an installation compiles for a minute."""

FEW = ("--set", "data.train=60", "--set", "data.test=20", "--set", "readouts.depths=[3]")


def build(what: str, source: Path, target: Path) -> Path:
    """Build a wheel or a source archive as any front end does, by hatchling's own hooks."""
    command = [sys.executable, "-P", "-c", BUILD, f"build_{what}", str(target)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return target / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def source_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(source_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is made of the source archive, as an installation from an index does where there is no wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(source_archive) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return build("wheel", source, folder)


def files_of(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_a_wheel_of_the_source_archive_is_the_wheel_of_the_checkout(wheel: Path, tmp_path: Path) -> None:
    assert files_of(wheel) == files_of(build("wheel", ROOT, tmp_path))
    package = ROOT / "pipeline" / "cntk_pipeline"
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    shipped = [path for path in (ROOT / "workflows").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    workflows = {f"cntk_pipeline/{path.relative_to(ROOT)}" for path in shipped}
    assert files_of(wheel) == {f"cntk_pipeline/{path.relative_to(package)}" for path in files} | workflows


def test_its_metadata_say_what_pyproject_says(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = [path for path in zipfile.Path(archive).iterdir() if path.name.endswith(".dist-info")]
        metadata = PathDistribution(folder).metadata  # type: ignore[arg-type]
        assert metadata["Version"] == wheel.name.split("-")[1]
        assert metadata.get_all("Classifier") == project["classifiers"]
        assert metadata["Requires-Python"] == project["requires-python"]
        assert len(metadata.get_all("Requires-Dist")) > len(project["dependencies"])


def pip_for(environment: Path) -> list[str | Path]:
    """Begin a command of this environment's pip that installs into another one, which has none."""
    python = environment / "bin" / "python"
    return [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment that has the wheel, and the libraries of this one behind it."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    subprocess.run([*pip_for(folder), "install", "--quiet", "--no-deps", "--no-index", wheel], check=True, timeout=120)
    (site,) = folder.glob("lib/python*/site-packages")
    # Installing the libraries needs an index: `alone` does that.
    (site / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder / "bin"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    return lay_hostile(tmp_path)


def call(installed: Path, folder: Path, *command: object) -> subprocess.CompletedProcess[str]:
    program, *words = map(str, command)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment.setdefault("NUMBA_CACHE_DIR", str(MACHINE_CODE))
    return subprocess.run(
        [installed / program, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )


def test_the_installed_package_is_typed_and_has_its_version(installed: Path, elsewhere: Path, wheel: Path) -> None:
    code = (
        "import cntk_pipeline, importlib.resources as r; "
        "print(cntk_pipeline.__file__, r.files('cntk_pipeline').joinpath('py.typed').is_file(), "
        "cntk_pipeline.__version__)"
    )
    file, is_typed, version = call(installed, elsewhere, "python", "-P", "-c", code).stdout.split()
    assert Path(file).is_relative_to(installed.parent)
    assert (is_typed, version) == ("True", wheel.name.split("-")[1])
    said = call(installed, elsewhere, "python", "-P", "-m", "cntk_pipeline", "--version")
    assert said.stdout == f"cntk {version}\n", said.stderr


@pytest.fixture(scope="module")
def alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The programs of an environment that has the wheel with the libraries that it names, and the MB of these."""
    folder = tmp_path_factory.mktemp("alone")
    venv.create(folder, with_pip=False, symlinks=True)
    # Compiled files are made when they are first needed: docs/install.md counts them apart.
    done = subprocess.run(
        [*pip_for(folder), "install", "--quiet", "--no-compile", "--only-binary", ":all:", wheel],
        capture_output=True,
        text=True,
        timeout=280,
    )
    if "Could not find a version that satisfies" in done.stderr and not os.environ.get("CNTK_REQUIRE_REAL"):
        pytest.skip("the libraries are not to be had: no index of packages can be reached")
    assert done.returncode == 0, done.stderr
    (site,) = folder.glob("lib/python*/site-packages")
    files = [file for file in site.rglob("*") if file.is_file() and not file.is_symlink()]
    return folder / "bin", sum(file.stat().st_size for file in files) / 1e6


@pytest.fixture(scope="module")
def programs(request: pytest.FixtureRequest) -> Path:
    """The programs of an environment with nothing else, or with the libraries of this one where no index answers."""
    try:
        found: Path = request.getfixturevalue("alone")[0]
    except pytest.skip.Exception:
        found = request.getfixturevalue("installed")
    return found


def test_the_wheel_brings_no_more_than_the_page_says(alone: tuple[Path, float]) -> None:
    """Seen to fail with the bound at 400 MB, the goal that was missed."""
    page = (ROOT / "docs" / "install.md").read_text()
    stated = int(re.findall(r"without extras brings (\d+) MB", page)[0])
    print(f"{alone[1]:.0f} MB")
    assert alone[1] < 1.05 * stated, "docs/install.md says less: write the new sizes, and why"


def test_the_command_runs_its_own_workflow_beside_files_that_are_called_like_modules(
    programs: Path, elsewhere: Path
) -> None:
    """Seen to fail without xxhash among the dependencies."""
    done = call(programs, elsewhere, "cntk", "demo", "--store", "demo", *FEW)
    assert done.returncode == 0, done.stderr
    assert "the run lies in demo" in done.stdout
    assert call(programs, elsewhere, "cntk", "status", "demo").returncode == 0
    assert call(programs, elsewhere, "cntk", "verify", "demo").returncode == 0
    assert hostile_run(elsewhere) == []
