"""The files around the package agree with each other."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_conda_users_get_the_dependencies_of_pyproject() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, nested = environment["dependencies"]
    assert python == f"python{PROJECT['requires-python']}"
    assert pip == "pip"
    (editable,) = nested["pip"]
    extras = re.fullmatch(r"-e \.\[(.*)\]", editable)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
    assert f"pip install '.[{extras[1]}]'" in (ROOT / "docs/install.md").read_text()  # it says that they are the same


def test_every_dependency_has_a_lower_bound() -> None:
    listed = PROJECT["dependencies"] + [d for extra in PROJECT["optional-dependencies"].values() for d in extra]
    for dependency in listed:
        assert dependency.startswith("cntk-pipeline[") or re.fullmatch(
            r"[a-z0-9-]+(\[cu13\])?>=\d+\.\d+(\.\d+)?", dependency
        )


def test_what_is_imported_is_listed() -> None:
    optional = [d for extra, listed in PROJECT["optional-dependencies"].items() if extra != "test" for d in listed]
    names = {re.split(r"[>\[]", d)[0] for d in PROJECT["dependencies"] + optional}
    modules = {
        "scikit-learn": "sklearn",
        "google-crc32c": "google_crc32c",
        "pillow": "PIL",
        "cuda-core": "cuda",
        "prometheus-client": "prometheus_client",
        "dask-jobqueue": "dask_jobqueue",
        "tomli-w": "tomli_w",
        "typing-extensions": "typing_extensions",
    }
    known = {modules.get(name, name) for name in names} | {"cntk_pipeline", "llvmlite", "tlz"}
    found = set()
    for path in (ROOT / "pipeline").rglob("*.py"):
        found |= set(re.findall(r"^\s*(?:from|import) ([A-Za-z_0-9]+)", path.read_text(), re.MULTILINE))
    import sys

    assert found - known - set(sys.stdlib_module_names) == set()


def test_the_makefile_serves_ci() -> None:
    assert "make test" in (ROOT / ".ci/run").read_text()
    assert re.search(r"^test:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_every_extra_has_its_line_in_the_page_of_the_installation() -> None:
    listed = re.findall(r"(?m)^\| `([a-z0-9]+)` \|", (ROOT / "docs/install.md").read_text())
    assert sorted(listed) == sorted(PROJECT["optional-dependencies"])


@pytest.fixture
def conftest(pytestconfig: pytest.Config) -> Any:
    (found,) = (plugin for plugin in pytestconfig.pluginmanager.get_plugins() if hasattr(plugin, "ALONE"))
    return found


def test_places_that_have_markers_exist(conftest: Any) -> None:
    places = (*conftest.SLOW, *conftest.REAL, *conftest.ALONE, *conftest.LONGEST)
    assert [place for place in places if not (ROOT / "tests" / place).exists()] == []


@pytest.mark.parametrize("marker", ["real", "alone"])
def test_the_step_of_a_marker_is_given_all_files_that_have_it(marker: str, conftest: Any) -> None:
    script = (ROOT / "tests/run.sh").read_text()
    (step,) = re.findall(rf'pytest -m "?{marker}\b.*', script)
    given = tuple(ROOT / place for place in re.findall(r" (tests/\S+)", step))
    folders = [ROOT / folder for folder in ("tests", "pipeline", "docs/_extensions")]
    files = {file for folder in folders for file in folder.rglob("*.py") if file.name != "conftest.py"}
    marked = {file for file in files if re.search(rf"\bmark\.{marker}\b", file.read_text())}
    marked |= {ROOT / "tests" / place for place in getattr(conftest, marker.upper())}
    assert marked
    assert {file for file in marked if not any(file.is_relative_to(place) for place in given)} == set()
