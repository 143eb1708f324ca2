"""Fixtures of the tests of export.py."""

import sys

import pytest
import torch
from helpers.exports import IMAGES, LEARNED, TINY, trained

import export
import language_main
import vision_main
from exporting import checking, fresh_process


@pytest.fixture(scope="session")
def run(text_folder, tmp_path_factory):
    """A run of GPT-2 with a learned activation; not to be changed."""
    folder = tmp_path_factory.mktemp("language") / "run"
    return trained(language_main, folder, *TINY, "--data_path", text_folder, *LEARNED)


@pytest.fixture(scope="session")
def images(image_folder, tmp_path_factory):
    """A run of an image classifier; not to be changed."""
    folder = tmp_path_factory.mktemp("vision") / "run"
    flags = ("--model", "resnet20", "--data_path", image_folder, *LEARNED)
    return trained(vision_main, folder, *IMAGES, *flags)


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Let this process make the comparison that a fresh one makes: seconds less.

    It does all that the fresh one does, but that modules of the project cannot be imported.
    """

    def ask(request, folder):
        modules = pytest.importorskip("transformers.dynamic_module_utils")
        monkeypatch.setattr(modules, "HF_MODULES_CACHE", str(folder / "modules"))
        monkeypatch.setattr(sys, "path", [*sys.path])
        sys.modules.pop("zilu_activations", None)
        cases = torch.load(request["cases"], weights_only=True)
        with torch.no_grad():
            difference = fresh_process.LOADERS[request["to"]][0](request, cases)
        return {"difference": difference, "with": "this process"}

    monkeypatch.setattr(checking, "_ask", ask)


@pytest.fixture
def mistake(mistake_in, tmp_path):
    def said(run, to, target="model", *flags):
        line = mistake_in(export, run, "--to", to, tmp_path / target, *flags)
        assert not [each for each in tmp_path.iterdir() if each.name.startswith(".")]
        return line

    return said
