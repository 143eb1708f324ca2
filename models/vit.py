"""Build Vision Transformer (Dosovitskiy et al. 2021, arXiv 2010.11929).

Base and large are those of the paper's table 1. At 224 px the networks are timm's
vit_*_patch16_224, parameter names included, so its weights load as they are.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from models.drop_path import DropPath
from models.neighbours import Layer, Neighbours, named_own_modules, own_modules
from models.norms import layer_norm

EPS = 1e-6  # of the norms: the published value, not torch's 1e-5


class Variant(NamedTuple):
    """Describe one of the published networks."""

    width: int
    heads: int
    depth: int  # blocks


# Tiny and small are those of DeiT (Touvron et al. 2021, arXiv 2012.12877, table 1), medium has the
# sizes of timm's vit_medium_*.
VARIANTS = {
    "vit-tiny": Variant(192, 3, 12),
    "vit-small": Variant(384, 6, 12),
    "vit-medium": Variant(512, 8, 12),
    "vit-base": Variant(768, 12, 12),
    "vit-large": Variant(1024, 16, 24),
}


def build(
    name: str,
    activation: Callable[[], nn.Module],
    num_classes: int,
    image_size: int,
    patch_size: int,
    norm: str,
    drop_path: float = 0.0,
    drop_rate: float = 0.0,
) -> nn.Module:
    """Build one of VARIANTS; `ViT` explains the options."""
    width, heads, depth = VARIANTS[name]
    return ViT(
        width, heads, depth, activation, num_classes, image_size, patch_size, norm, drop_path,
        drop_rate,
    )  # fmt: skip


class PatchEmbed(nn.Module):
    """Map images (B, 3, H, W) to one token per patch (B, N, width), N = H·W / patch_size²."""

    def __init__(self, width: int, patch_size: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # (B, width, H / patch_size, W / patch_size) to (B, width, N) to (B, N, width)
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Apply multi-head self-attention, (B, N, width) to the same shape."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.heads, C // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, N, C / heads)
        out = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, C / heads)
        return self.proj(out.transpose(1, 2).reshape(B, N, C))


class Block(nn.Module):
    """Apply a pre-norm transformer block, (B, N, width) to the same shape (equations 2 and 3).

    With a rate `drop_path`, each of its two branches is dropped for some images in training.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        activation: Callable[[], nn.Module],
        norm: str,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.norm1 = layer_norm(width, norm, EPS)
        self.attn = Attention(width, heads)
        self.norm2 = layer_norm(width, norm, EPS)
        self.mlp = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(width, 4 * width),
                act=activation(),
                fc2=nn.Linear(4 * width, width),
            )
        )
        self.drop_path = DropPath(drop_path) if drop_path else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self._dropped(self.attn(self.norm1(x)))
        return x + self._dropped(self.mlp(self.norm2(x)))

    def _dropped(self, branch: torch.Tensor) -> torch.Tensor:
        return branch if self.drop_path is None else self.drop_path(branch)


class ViT(nn.Module):
    """Map images (B, 3, image_size, image_size) to logits (B, num_classes) by a class token.

    Args:
        width: features of a token.
        heads: attention heads, a divisor of `width`.
        depth: blocks.
        activation: makes a fresh activation for every place that has one.
        num_classes: the number of logits.
        image_size: the images' side in pixels, a multiple of `patch_size`.
        patch_size: the patches' side in pixels.
        norm: "layer", "bn" or "none".
        drop_path: the rate of the last block, to which the blocks' rates rise from 0 evenly.
        drop_rate: of a dropout before the head.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        depth: int,
        activation: Callable[[], nn.Module],
        num_classes: int,
        image_size: int,
        patch_size: int,
        norm: str,
        drop_path: float = 0.0,
        drop_rate: float = 0.0,
    ):
        super().__init__()
        num_patches = (image_size // patch_size) ** 2
        self.patch_embed = PatchEmbed(width, patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + num_patches, width))
        rates = torch.linspace(
            0, drop_path, depth, device="cpu"
        ).tolist()  # as timm: to the same last digit
        blocks = [Block(width, heads, activation, norm, rate) for rate in rates]
        self.blocks = nn.Sequential(*blocks)
        self.norm = layer_norm(width, norm, EPS)
        self.mixes_tokens = norm == "bn"
        self.dropout = nn.Dropout(drop_rate) if drop_rate else None
        self.head = nn.Linear(width, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights as timm does; those of the patches' convolution stay torch's."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        for module in own_modules(self):
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def around_activations(self) -> Neighbours:
        """Return the layers that feed an activation and those that read one."""
        return Neighbours(self._linears("mlp.fc1"), self._linears("mlp.fc2"))

    def _linears(self, name: str) -> list[Layer]:
        """Return the linear layer of that name in each block."""
        named = named_own_modules(self.blocks)
        return [m for path, m in named if path.endswith(name) and isinstance(m, nn.Linear)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x)  # (B, N, width)
        cls = self.cls_token.expand(x.shape[0], -1, -1)  # (B, 1, width)
        x = torch.cat([cls, x], dim=1) + self.pos_embed  # (B, 1 + N, width)
        x = self.blocks(x)
        # Only the class token is read, (B, width); LayerNorm normalises it by itself.
        x = self.norm(x)[:, 0] if self.mixes_tokens else self.norm(x[:, 0])
        return self.head(x if self.dropout is None else self.dropout(x))
