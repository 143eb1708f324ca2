"""Build GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners").

The network is Hugging Face's GPT2LMHeadModel; models.catalogue has the sizes of the paper's
table 2. Parameter names are Hugging Face's without `transformer.`, but for two that are no modules
here: positions are `wpe` for `wpe.weight`, and the head, being the token embedding, has no name of
its own. `load_hugging_face` reads Hugging Face's checkpoints. With `bias=False` the network is
nanoGPT's of that setting (github.com/karpathy/nanoGPT), which has GPT-2's names but no biases.

Its blocks can be others than GPT-2's (models.gpt2_blocks). With a gated MLP, RMSNorm, rotated
positions and no biases it is Llama with tied embeddings, and with `qk_norm` Qwen3.
"""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from models.generation import Choice, Past, sampled
from models.gpt2_blocks import usual_mlp_width
from models.gpt2_checkpoint import (
    EXPORTED,
    check_fits,
    check_options,
    read_config,
    read_tensors,
)
from models.mlp import GatedMLP, linear, plain_mlp
from models.neighbours import Layer, Neighbours, named_own_modules
from models.norms import layer_norm
from models.rotary import Rotation, rotation

EPS = 1e-5  # of the norms


class Attention(nn.Module):
    """Apply causal multi-head self-attention, (B, T, width) to the same shape."""

    def __init__(self, width: int, heads: int, dropout: float, bias: bool, qk_norm: bool = False):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.c_attn = linear(width, 3 * width, bias)
        self.c_proj = linear(width, width, bias)
        self.resid_dropout = nn.Dropout(dropout)
        self.qk_norm = qk_norm
        if qk_norm:  # Qwen3's: over the features of a head, one weight for all heads
            self.q_norm = layer_norm(width // heads, "rms", EPS)
            self.k_norm = layer_norm(width // heads, "rms", EPS)

    def forward(
        self, x: torch.Tensor, rotate: Rotation | None = None, past: Past | None = None
    ) -> torch.Tensor:
        B, T, C = x.shape
        qkv = self.c_attn(x).split(C, dim=2)  # three times (B, T, C)
        # each (B, heads, T, C / heads)
        q, k, v = (part.view(B, T, self.heads, C // self.heads).transpose(1, 2) for part in qkv)
        if self.qk_norm:
            # In the weights' precision, as LayerNorm in mixed precision.
            dtype = self.q_norm.weight.dtype
            q, k = self.q_norm(q.to(dtype)).to(v.dtype), self.k_norm(k.to(dtype)).to(v.dtype)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        if past is not None:
            k, v = past.extended(k, v)
        dropout = self.dropout if self.training else 0.0
        causal = past is None or past.length == T  # else it is one token, which sees all before it
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal)
        return self.resid_dropout(self.c_proj(out.transpose(1, 2).reshape(B, T, C)))


class Block(nn.Module):
    """Apply a pre-norm transformer block, (B, T, width) to the same shape."""

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float,
        activation: Callable[[], nn.Module],
        norm: str,
        bias: bool,
        mlp: str,
        mlp_width: int,
        qk_norm: bool,
    ):
        super().__init__()
        self.ln_1 = layer_norm(width, norm, EPS, bias)
        self.attn = Attention(width, heads, dropout, bias, qk_norm)
        self.ln_2 = layer_norm(width, norm, EPS, bias)
        make = GatedMLP if mlp == "glu" else plain_mlp
        self.mlp = make(width, mlp_width, activation, dropout, bias)

    def forward(
        self, x: torch.Tensor, rotate: Rotation | None = None, past: Past | None = None
    ) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x), rotate, past)
        return x + self.mlp(self.ln_2(x))


class GPT2(nn.Module):
    """Map token ids (B, T), int64, to logits (B, T, vocab_size); T is at most `max_seq_length`.

    Args:
        activation: makes a fresh activation for every place that has one.
        vocab_size: the number of token ids.
        max_seq_length: the number of positions.
        embedding_dim: features of a token, a multiple of `num_attention_heads`.
        num_attention_heads: heads of each attention.
        num_layers: blocks.
        dropout: the rate in embeddings, attention and residuals.
        norm: "layer", "rms" or "none".
        bias: the linear layers and the norms have one.
        mlp: "plain", or "glu" for a gated linear unit (models.mlp).
        mlp_width: hidden features of the MLP; None for 4 * `embedding_dim`, and in a gated one for
            as many parameters as that has (models.gpt2_blocks).
        positions: "learned", or "rope" to rotate queries and keys (models.rotary).
        qk_norm: RMSNorm over the features of each head, of queries and of keys.
    """

    wpe: nn.Parameter | None

    def __init__(
        self,
        activation: Callable[[], nn.Module],
        vocab_size: int,
        max_seq_length: int,
        embedding_dim: int,
        num_attention_heads: int,
        num_layers: int,
        dropout: float,
        norm: str,
        bias: bool = True,
        mlp: str = "plain",
        mlp_width: int | None = None,
        positions: str = "learned",
        qk_norm: bool = False,
    ):
        super().__init__()
        mlp_width = mlp_width or usual_mlp_width(embedding_dim, mlp, bias)
        self.options = {"norm": norm, "bias": bias, "mlp": mlp, "mlp_width": mlp_width}
        self.options |= {"positions": positions, "qk_norm": qk_norm}
        self.max_seq_length, self.embedding_dim = max_seq_length, embedding_dim
        self.num_attention_heads = num_attention_heads
        self.wte = nn.Embedding(vocab_size, embedding_dim)
        # Not an nn.Embedding: weight decay applies to the weights of those, and must not to these.
        learned = nn.Parameter(torch.empty(max_seq_length, embedding_dim))
        self.register_parameter("wpe", learned if positions == "learned" else None)
        self.drop = nn.Dropout(dropout)
        common = (embedding_dim, num_attention_heads, dropout, activation, norm, bias)
        blocks = [Block(*common, mlp, mlp_width, qk_norm) for _ in range(num_layers)]
        self.h = nn.Sequential(*blocks)
        self.ln_f = layer_norm(embedding_dim, norm, EPS, bias)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights from N(0, 0.02²), smaller where a residual branch ends (section 2.3).

        A gated MLP's two branches are drawn as a plain one's, and its projection as that one's.
        """
        nn.init.normal_(self.wte.weight, std=0.02)
        # Drawn without them too, so that what follows has the same weights.
        unused = self.wte.weight.new_empty(self.max_seq_length, self.embedding_dim)
        nn.init.normal_(unused if self.wpe is None else self.wpe, std=0.02)
        for name, module in named_own_modules(self.h):
            if isinstance(module, nn.Linear):
                # Each layer adds to the residual stream twice; the sum must not grow with depth.
                scale = math.sqrt(2 * len(self.h)) if name.endswith("c_proj") else 1
                nn.init.normal_(module.weight, std=0.02 / scale)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def around_activations(self) -> Neighbours:
        """Return the layers that feed an activation and those that read one."""
        return Neighbours(self._linears("mlp.c_fc"), self._linears("mlp.c_proj"))

    def _linears(self, name: str) -> list[Layer]:
        """Return the linear layer of that name in each block."""
        named = named_own_modules(self.h)
        return [m for path, m in named if path.endswith(name) and isinstance(m, nn.Linear)]

    @property
    def shape(self) -> dict[str, int]:
        """Return the sizes it was built with, by name."""
        return {
            "vocab_size": self.wte.num_embeddings,
            "max_seq_length": self.max_seq_length,
            "embedding_dim": self.embedding_dim,
            "num_attention_heads": self.num_attention_heads,
            "num_layers": len(self.h),
        }

    @property
    def flops_per_token(self) -> int:
        """Return the FLOPs of a forward and a backward pass at full length, per token.

        They are counted as for PaLM's utilisation (Chowdhery et al. 2022, arXiv 2204.02311,
        appendix B): 6 for each parameter, and 12 * layers * width * length for the products of
        attention. Positions are looked up, not multiplied, so they do not count. The token
        embedding does: it is the head.
        """
        num_parameters = sum(p.numel() for p in self.parameters())
        if self.wpe is not None:
            num_parameters -= self.wpe.numel()
        return 6 * num_parameters + 12 * len(self.h) * self.embedding_dim * self.max_seq_length

    def forward(self, ids: torch.Tensor, past: list[Past] | None = None) -> torch.Tensor:
        start = past[0].length if past else 0
        length, longest = start + ids.shape[1], self.max_seq_length
        if length > longest:
            raise ValueError(
                f"sequences of {length} tokens are longer than the model's {longest} positions: "
                "cut them, or build the model with a larger max_seq_length"
            )
        x = self.wte(ids)  # (B, T, width)
        rotate: Rotation | None = None
        if self.wpe is not None:
            x = x + self.wpe[start:length]
        else:
            positions = torch.arange(start, length, device=ids.device)
            rotate = rotation(positions, self.embedding_dim // self.num_attention_heads)
        x = self.drop(x)
        pasts = past if past is not None else itertools.repeat(None)
        for block, of_block in zip(self.h, pasts, strict=False):
            x = block(x, rotate, of_block)
        x = self.ln_f(x)
        # (B, T, vocab_size), through the embedding itself: a module for the head would hold the
        # tied weight twice.
        return F.linear(x, self.wte.weight)

    def after(self, past: list[Past] | None, ids: torch.Tensor) -> tuple[torch.Tensor, list[Past]]:
        """Return the logits of `ids` behind what `past` has, and the past with them.

        Without a past the ids are the first ones; behind one there is a single one, (B, 1).
        """
        past = [Past() for _ in self.h] if past is None else past
        return self(ids, past), past

    def get_output_embeddings(self) -> nn.Module:
        """Return the layer whose weight makes the logits, as transformers' networks do."""
        return self.wte

    def generate(
        self,
        ids: torch.Tensor,
        count: int,
        generator: torch.Generator,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
    ) -> torch.Tensor:
        """Continue each row of `ids` (B, n), n >= 1, by `count` sampled tokens.

        Args:
            ids: int64 (B, n). Every token is drawn given the last max_seq_length ones.
            count: how many tokens to draw for each row.
            generator: a CPU generator, so that a seed means the same on every device.
            temperature: the logits are divided by it; 0 takes the most likely token.
            top_k, top_p: what is drawn from; see `Choice`.

        Returns:
            int64 (B, n + count), on the device of `ids`.
        """
        choice = Choice(temperature, top_k, top_p)
        return sampled(self, self.max_seq_length, ids, count, generator, choice)


def load_hugging_face(model: GPT2, folder: str | Path) -> None:
    """Copy the weights of a Hugging Face GPT-2 checkpoint folder into `model`, in place.

    A model with fewer positions takes the first ones. Parameters of the activations, which the
    checkpoint does not have, keep their values.

    Raises:
        ValueError: the folder holds no GPT-2 checkpoint, a broken one or one of another shape, or
            the model has other blocks; one line with the remedy.
    """
    check_fits(folder, model.shape)
    check_options(folder, model.options)
    kind = read_config(folder)["model_type"]
    theirs = _our_layout(read_tensors(folder), model.max_seq_length, kind)
    ours = {key: p for key, p in model.state_dict().items() if ".mlp.act." not in key}
    for problem, keys in (("lacks", ours.keys() - theirs), ("also has", theirs.keys() - ours)):
        if keys:
            raise ValueError(
                f"--init_from {folder} is no GPT-2 of the shape that its config.json tells: it "
                f"{problem} {min(keys)} ({len(keys)} such): take another checkpoint"
            )
    for key, value in ours.items():
        if theirs[key].shape != value.shape:
            raise ValueError(
                f"--init_from {folder} is no GPT-2 of the shape that its config.json tells: {key} "
                f"is {tuple(theirs[key].shape)}, not {tuple(value.shape)}: take another checkpoint"
            )
    model.load_state_dict(theirs, strict=False)


def _our_layout(
    tensors: dict[str, torch.Tensor], max_seq_length: int, kind: str = "gpt2"
) -> dict[str, torch.Tensor]:
    """Return Hugging Face's tensors under our keys, in the layout of nn.Linear."""
    if kind == EXPORTED:  # they are ours, but for activations that may be others here
        kept = {key: x for key, x in tensors.items() if ".mlp.act." not in key}
        return {key: x[:max_seq_length] if key == "wpe" else x for key, x in kept.items()}
    ours = {}
    for key, value in tensors.items():
        key = key.removeprefix("transformer.")
        if key.endswith((".attn.bias", ".attn.masked_bias")):
            continue  # masks, which old versions saved
        if key.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight")):
            value = value.mT if value.dim() > 1 else value  # Conv1D: (in, out)
        if key == "wpe.weight":
            key, value = "wpe", value[:max_seq_length] if value.dim() else value
        ours[key] = value
    head = ours.pop("lm_head.weight", None)
    if head is not None and "wte.weight" in ours and not torch.equal(head, ours["wte.weight"]):
        ours["lm_head.weight"] = head  # not tied, so not this GPT-2: reported as one too many
    return ours
