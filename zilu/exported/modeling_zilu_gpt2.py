"""Build an exported GPT-2 with any activation for Hugging Face's transformers (5.0 and newer).

    model = AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)

The network is pre-norm GPT-2 (Radford et al. 2019) with a tied head; the configuration's options
make its blocks those of Llama or Qwen3. It needs torch, transformers
and the file zilu_activations.py beside this one.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .zilu_activations import make

# transformers 5 has renamed it from past_key_values.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
EPS = 1e-5  # of the norms
THETA = 10_000.0  # of rotated positions


class ZiluGPT2Config(PreTrainedConfig):
    """Hold the sizes and the options of the network; `activation` is a spec of zilu_activations."""

    model_type = "zilu_gpt2"

    def __init__(
        self,
        vocab_size: int = 50257,
        max_position_embeddings: int = 1024,
        hidden_size: int = 768,
        num_attention_heads: int = 12,
        num_hidden_layers: int = 12,
        dropout: float = 0.0,
        activation: Mapping[str, Any] | None = None,
        norm: str = "layer",
        bias: bool = True,
        mlp: str = "plain",
        mlp_width: int | None = None,
        positions: str = "learned",
        qk_norm: bool = False,
        use_cache: bool = True,
        **others: Any,
    ) -> None:
        self.vocab_size, self.max_position_embeddings = vocab_size, max_position_embeddings
        self.hidden_size, self.num_attention_heads = hidden_size, num_attention_heads
        self.num_hidden_layers, self.dropout = num_hidden_layers, dropout
        self.activation = dict(activation or {"name": "GELU"})
        self.norm, self.bias, self.use_cache = norm, bias, use_cache
        self.mlp, self.mlp_width = mlp, mlp_width or 4 * hidden_size
        self.positions, self.qk_norm = positions, qk_norm
        super().__init__(**{"tie_word_embeddings": True} | others)


def make_norm(config: ZiluGPT2Config) -> nn.Module:
    """Make the norm of a block's branch: "layer", "rms" or "none"."""
    if config.norm == "none":
        return nn.Identity()
    if config.norm == "rms":
        return nn.RMSNorm(config.hidden_size, eps=EPS)
    return nn.LayerNorm(config.hidden_size, eps=EPS, bias=config.bias)


class Attention(nn.Module):
    """Apply causal multi-head self-attention, (B, T, width) to the same shape."""

    def __init__(self, config: ZiluGPT2Config, layer: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads, self.dropout, self.layer = config.num_attention_heads, config.dropout, layer
        self.c_attn = nn.Linear(width, 3 * width, config.bias)
        self.c_proj = nn.Linear(width, width, config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)
        self.qk_norm, self.rotates = config.qk_norm, config.positions == "rope"
        if config.qk_norm:
            self.q_norm = nn.RMSNorm(width // self.heads, eps=EPS)
            self.k_norm = nn.RMSNorm(width // self.heads, eps=EPS)

    def forward(
        self, x: Tensor, places: Tensor, mask: Tensor | None, seen: Any, cache: Any
    ) -> Tensor:
        B, T, C = x.shape
        split = self.c_attn(x).split(C, dim=2)
        q, k, v = (part.view(B, T, self.heads, -1).transpose(1, 2) for part in split)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.rotates:
            q, k = rotated(q, places), rotated(k, places)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)  # (B, heads, S, C / heads)
        visible = visible_keys(mask, seen, q, k.shape[2])
        out = F.scaled_dot_product_attention(
            q, k, v, visible, self.dropout if self.training else 0.0, is_causal=visible is None
        )
        return self.resid_dropout(self.c_proj(out.transpose(1, 2).reshape(B, T, C)))


def rotated(x: Tensor, places: Tensor) -> Tensor:
    """Rotate heads (B, heads, T, width) by positions (B or 1, T), in Llama's pairs of features."""
    width = x.shape[-1]
    pairs = torch.arange(0, width, 2, dtype=torch.float32, device=x.device)
    angles = places.float()[:, None, :, None] / THETA ** (pairs / width)
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def visible_keys(mask: Tensor | None, seen: Any, q: Tensor, keys: int) -> Tensor | None:
    """Return which of the keys each of the queries (B, heads, T, width) sees; None for the usual.

    Args:
        mask: (B, keys) is 0 at padding; or four-dimensional, as it is to be used.
        seen: how many tokens came before the queries.
        q: the queries.
        keys: how many keys there are.
    """
    queries = q.shape[2]
    if mask is not None and mask.dim() == 4:
        return mask[..., :keys]
    if mask is None and isinstance(seen, int) and seen == 0 and keys == queries:
        return None
    at = seen + torch.arange(queries, device=q.device)[:, None]
    place = torch.arange(keys, device=q.device)[None]
    visible = (place <= at)[None, None]  # (1, 1, T, keys)
    if mask is None:
        return visible
    padded = F.pad(mask, (0, keys - mask.shape[1]), value=1).bool()[:, None, None]
    # A query of padding sees itself, since a softmax of nothing is NaN.
    return visible & padded | (place == at)


class MLP(nn.Module):
    """Apply GPT-2's MLP, or with `mlp` "glu" act(xW) * (xV) and a projection."""

    def __init__(
        self, config: ZiluGPT2Config, make: Callable[[Mapping[str, Any]], nn.Module]
    ) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.mlp_width
        self.c_fc = nn.Linear(width, hidden, config.bias)
        self.c_up = nn.Linear(width, hidden, config.bias) if config.mlp == "glu" else None
        self.act = make(config.activation)
        self.c_proj = nn.Linear(hidden, width, config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.c_fc(x))
        y = y if self.c_up is None else y * self.c_up(x)
        return self.dropout(self.c_proj(y))


class Block(nn.Module):
    """Apply a pre-norm transformer block, (B, T, width) to the same shape."""

    def __init__(
        self, config: ZiluGPT2Config, layer: int, make: Callable[[Mapping[str, Any]], nn.Module]
    ) -> None:
        super().__init__()
        self.ln_1 = make_norm(config)
        self.attn = Attention(config, layer)
        self.ln_2 = make_norm(config)
        self.mlp = MLP(config, make)

    def forward(
        self, x: Tensor, places: Tensor, mask: Tensor | None, seen: Any, cache: Any
    ) -> Tensor:
        x = x + self.attn(self.ln_1(x), places, mask, seen, cache)
        return x + self.mlp(self.ln_2(x))


class ZiluGPT2ForCausalLM(PreTrainedModel, GenerationMixin):
    """Map token ids (B, T) to logits (B, T, vocab_size)."""

    config_class = ZiluGPT2Config
    _tied_weights_keys = {"lm_head.weight": "wte.weight"}  # noqa: RUF012
    _no_split_modules = ["Block"]  # noqa: RUF012
    _supports_sdpa = True
    make_activation = staticmethod(make)

    def __init__(self, config: ZiluGPT2Config) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        learned = nn.Parameter(torch.empty(config.max_position_embeddings, config.hidden_size))
        self.register_parameter("wpe", learned if config.positions == "learned" else None)
        self.drop = nn.Dropout(config.dropout)
        numbers = range(config.num_hidden_layers)
        self.h = nn.ModuleList([Block(config, i, self.make_activation) for i in numbers])
        self.ln_f = make_norm(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif module is self and self.wpe is not None:
            nn.init.normal_(self.wpe, std=0.02)

    def get_input_embeddings(self) -> nn.Module:
        return self.wte

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.wte = value

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.lm_head = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        cache: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        """Compute logits, and of labels, which are shifted here, the mean loss."""
        x = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
        cache = past_key_values if cache is None else cache
        if cache is None and use_cache:
            cache = DynamicCache()
        seen = 0 if cache is None else cache.get_seq_length()
        places = self._positions(x, seen, attention_mask, position_ids)
        x = self.drop(x if self.wpe is None else x + self.wpe[places])
        for block in self.h:
            x = block(x, places, attention_mask, seen, cache)
        x = self.ln_f(x)
        if isinstance(logits_to_keep, Tensor):
            x = x[:, logits_to_keep]
        elif logits_to_keep:
            x = x[:, -logits_to_keep:]
        logits = self.lm_head(x)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **others)
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: cache})

    def _positions(self, x: Tensor, seen: Any, mask: Tensor | None, given: Tensor | None) -> Tensor:
        """Return the positions (B or 1, T): given ones, else counted without padding."""
        length, longest = x.shape[1], self.config.max_position_embeddings
        if isinstance(seen, int) and seen + length > longest:
            raise ValueError(
                f"sequences of {seen + length} tokens are longer than the model's {longest} "
                "positions: cut them"
            )
        if given is not None:
            return given
        if mask is not None and mask.dim() == 2:
            return (mask.cumsum(-1) - 1).clamp(min=0)[:, -length:]
        return seen + torch.arange(length, device=x.device)[None]
