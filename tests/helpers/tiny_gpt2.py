"""Build a GPT-2 of a few thousand parameters, ours and Hugging Face's."""

import pytest
import torch
from torch import nn

from models import build_model

# Every size differs from every other, so that none can stand for another.
TINY = {
    "vocab_size": 61,
    "max_seq_length": 16,
    "embedding_dim": 24,
    "num_attention_heads": 3,
    "num_layers": 2,
}


HUGGING_FACE_NAMES = {
    "vocab_size": "vocab_size",
    "max_seq_length": "n_positions",
    "embedding_dim": "n_embd",
    "num_attention_heads": "n_head",
    "num_layers": "n_layer",
}


def gelu_new():
    """Make the activation of Hugging Face's GPT-2."""
    return nn.GELU(approximate="tanh")


def tiny(activation=gelu_new, dropout=0.0, seed=0, **changes):
    torch.manual_seed(seed)
    return build_model("gpt2", activation, dropout=dropout, **{**TINY, **changes})


def hugging_face(**changes):
    """Build a freshly initialised GPT2LMHeadModel without dropout, of TINY's shape."""
    transformers = pytest.importorskip("transformers")
    names = {HUGGING_FACE_NAMES[name]: value for name, value in TINY.items()}
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**{**names, **no_dropout, **changes})
    )


def save(folder, model, **options):
    model.save_pretrained(folder, **options)
    return folder
