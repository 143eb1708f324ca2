"""The extras of pyproject.toml and the requirements files name the same packages and bounds."""

import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest needs it there, so it is installed

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return content["project"]


def bounds(project: dict[str, Any], extra: str) -> set[str]:
    """Return the requirements of an extra, and those of the extras that it names."""
    found: set[str] = set()
    for text in project["optional-dependencies"][extra]:
        each = Requirement(text)
        if each.name == project["name"]:
            found.update(*(bounds(project, name) for name in each.extras))
        else:
            found.add(str(each))
    return found


def listed(file: str) -> set[str]:
    """Return the requirements in a file, without those of a file that it includes."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    return {str(Requirement(line)) for line in lines if line and not line.startswith("-r ")}


def test_the_library_itself_needs_torch_alone(project):
    assert [Requirement(text).name for text in project["dependencies"]] == ["torch"]


def test_requirements_are_torch_and_the_extra_train(project):
    core = {str(Requirement(text)) for text in project["dependencies"]}
    assert listed("requirements.txt") == core | bounds(project, "train")


def test_development_requirements_are_what_dev_adds(project):
    assert "-r requirements.txt" in (ROOT / "requirements-dev.txt").read_text().splitlines()
    assert listed("requirements-dev.txt") == bounds(project, "dev") - bounds(project, "train")


def test_each_package_has_one_bound(project):
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    names = [Requirement(text).name.lower() for each in lists for text in each]
    names = [name for name in names if name != project["name"]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "extra", ["timm", "transformers", "schedulefree", "onnx", "tensorboard", "wandb", "lm_eval"]
)
def test_an_extra_of_one_purpose_brings_the_package_of_its_name(project, extra):
    assert extra in {Requirement(text).name for text in bounds(project, extra)}
