"""The image: its locked libraries are those of pyproject.toml, and it runs nothing as root."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cntk_pipeline.clusters.kubernetes.manifests import USER, environment

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deploy" / "container"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
LOCK = (FOLDER / "requirements.lock").read_text()
LEFT_OUT = {"cuda", "docs", "finite", "fuzz", "notebooks", "report", "slurm", "test", "xarray"}
"""Extras that the image is without: most drivers and workers need none of them, and some have gigabytes."""


def locked() -> dict[str, str]:
    return {
        canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", LOCK, re.MULTILINE)
    }


def wanted() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"]
    listed = PROJECT["build-system"]["requires"] + PROJECT["project"]["dependencies"]
    names = sorted(extras.keys() - LEFT_OUT)  # processes that share the tests of a run list them alike
    return [Requirement(line) for line in listed + [d for name in names for d in extras[name]]]


@pytest.mark.parametrize("requirement", wanted(), ids=lambda requirement: requirement.name)
def test_the_lock_agrees_with_pyproject(requirement: Requirement) -> None:
    version = locked().get(canonicalize_name(requirement.name))
    assert version is not None, "run deploy/container/lock.sh"
    assert requirement.specifier.contains(version), "run deploy/container/lock.sh"


def test_the_lock_script_names_the_extras_of_the_image() -> None:
    named = set(re.findall(r"--extra (\w+)", (FOLDER / "lock.sh").read_text()))
    assert named == PROJECT["project"]["optional-dependencies"].keys() - LEFT_OUT


def test_every_locked_library_has_hashes_and_no_address() -> None:
    entries = re.split(r"\n(?=\S)", LOCK.strip())
    assert len(entries) > 50
    for entry in entries:
        assert re.match(r"[\w.-]+==[\w.]+( ; [^\\\n]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+$", entry), entry
    assert "://" not in LOCK


def test_the_image_runs_as_the_user_of_the_manifests() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (\S+)", last, re.MULTILINE) == [str(USER)]
    assert f"--uid {USER} " in last
    assert last.index("USER") < last.index("CMD")


def test_the_image_installs_nothing_that_is_not_locked() -> None:
    installs = [line for line in DOCKERFILE.splitlines() if "pip install" in line]
    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    assert "--no-deps --no-build-isolation" in installs[1]


def test_the_image_caches_compiled_code_where_the_manifests_say() -> None:
    assert f"NUMBA_CACHE_DIR={environment()['NUMBA_CACHE_DIR']}\n" in DOCKERFILE


def test_what_the_image_copies_is_sent_to_its_builder_and_nothing_else() -> None:
    copied = {
        source for line in re.findall(r"^COPY (?!--from)(.*)", DOCKERFILE, re.MULTILINE) for source in line.split()[:-1]
    }
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == sent
    assert all((ROOT / source).exists() for source in sent)
