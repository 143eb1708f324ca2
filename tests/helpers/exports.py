"""Train networks of some thousand parameters for two steps, and export them as a user does."""

import pytest

import export

TINY = (
    "--dataset", "text", "--tokenizer", "bytes", "--embedding_dim", "16", "--num_layers", "1",
    "--num_attention_heads", "2", "--max_seq_length", "16", "--batch_size", "8",
)  # fmt: skip
IMAGES = ("--dataset", "imagefolder", "--resize", "8", "--batch_size", "8", "--num_workers", "0")
SHORT = ("--max_steps", "2", "--device", "cpu")
LEARNED = ("--activation", "ZiLU", "--sigma", "0.7", "--learn_sigma", "--expand_gate")


def trained(program, folder, *flags):
    argv = [*flags, *SHORT, "--output_dir", folder]
    assert program.main([str(word) for word in argv]) == 0
    return folder


def exported(run, to, target, *flags):
    assert export.main([str(word) for word in (run, "--to", to, target, *flags)]) == 0
    return target


def configuration(kind, folder):
    """Write the config.json of a tiny network; return its activations' places, and one weight."""
    transformers = pytest.importorskip("transformers", minversion="5")
    if kind == "llama":
        config = transformers.LlamaConfig(
            vocab_size=257, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32,
        )  # fmt: skip
        found = ["model.layers.0.mlp.act_fn"], "model.layers.0.mlp.up_proj.weight"
    else:  # with a tied head
        config = transformers.GPT2Config(
            vocab_size=257, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=0,
            eos_token_id=0,
        )  # fmt: skip
        found = ["transformer.h.0.mlp.act"], "transformer.h.0.mlp.c_fc.weight"
    config.save_pretrained(folder)
    return found


def flags_of(config, text_folder):
    """Return what trains the network of a configuration on bytes."""
    flags = ("--dataset", "text", "--tokenizer", "bytes", "--max_seq_length", "16")
    return (*flags, "--model", f"hf/{config}", "--data_path", text_folder)


def skip_without_packages(to):
    if to == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
