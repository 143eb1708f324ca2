"""--init_from of folders that transformers wrote, and exports that the package zilu loads."""

import importlib

import pytest
import torch
from helpers.exports import LEARNED, configuration, exported, flags_of, trained

import language_main
import zilu
from exporting.loading import load
from run_folder.folder import RunFolder


def network_of(run):
    return load(run / RunFolder.CHECKPOINT, False, None).model


@torch.no_grad()
def test_a_folder_of_several_files(text_folder, tmp_path, mistake_in, capsys):
    transformers = pytest.importorskip("transformers", minversion="5")
    configuration("llama", tmp_path / "config")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "config")
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    folder = tmp_path / "saved"
    theirs.save_pretrained(folder, max_shard_size="10KB")
    assert (folder / "model.safetensors.index.json").exists()
    files = sorted(folder.glob("model-*.safetensors"))
    assert len(files) > 1
    flags = (*flags_of(tmp_path / "config", text_folder), "--init_from", folder, "--lr", "1e-30")
    capsys.readouterr()  # the bars of save_pretrained
    with torch.enable_grad():
        run = trained(language_main, tmp_path / "run", *flags, "--activation", "SiLU")
    ids = torch.arange(16)[None]
    torch.testing.assert_close(network_of(run)(ids), theirs(input_ids=ids).logits)
    assert capsys.readouterr().err.count("\r") == 0
    files[0].unlink()
    line = mistake_in(language_main, *flags, "--output_dir", tmp_path / "other")
    assert f"--init_from {folder}: its weights cannot be read" in line
    assert files[0].name in line
    assert "take another checkpoint" in line


@torch.no_grad()
def test_the_library_loads_a_network_of_transformers_without_its_code(text_folder, tmp_path):
    transformers = pytest.importorskip("transformers", minversion="5")
    (site,), _ = configuration("llama", tmp_path / "config")
    with torch.enable_grad():
        flags = (*flags_of(tmp_path / "config", text_folder), *LEARNED, "--lr", "0.1")
        run = trained(language_main, tmp_path / "run", *flags)
    folder = exported(run, "hf", tmp_path / "model", "--no_check")
    for path in folder.glob("*.py"):
        path.unlink()  # nothing of the folder's code may be needed
    zilu.register_transformers()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    activation = model.network.get_submodule(site)
    assert type(activation) is zilu.ZiLU
    ours = network_of(run)
    assert float(activation.sigma) == float(ours.network.get_submodule(site).sigma) != 0.7
    ids = torch.arange(16)[None]
    torch.testing.assert_close(model(input_ids=ids).logits, ours(ids), rtol=1e-5, atol=1e-5)
    module = importlib.import_module("zilu.exported.modeling_zilu_hf")
    assert type(model) is module.ZiluHFForCausalLM
