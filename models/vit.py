"""Vision Transformer (Dosovitskiy et al. 2021, arXiv 2010.11929; timm's vit_*_patch16_224).

`build` makes one by name. Parameter names are timm's, so its weights load as they stand.
"""

from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from models.norms import layer_norm

EPS = 1e-6  # of the norms: the published, not torch's 1e-5
# Width, heads, layers. Small and tiny are DeiT's (arXiv 2012.12877).
VARIANTS = {
    "vit-tiny": (192, 3, 12),
    "vit-small": (384, 6, 12),
    "vit-medium": (512, 8, 12),
    "vit-base": (768, 12, 12),
    "vit-large": (1024, 16, 24),
}


def build(
    name: str,
    activation: Callable[[], nn.Module],
    num_classes: int,
    image_size: int,
    patch_size: int,
    norm: str,
) -> nn.Module:
    width, heads, depth = VARIANTS[name]
    return ViT(width, heads, depth, activation, num_classes, image_size, patch_size, norm)


class PatchEmbed(nn.Module):
    """Images (B, 3, H, W) to one token per patch (B, N, width)."""

    def __init__(self, width: int, patch_size: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention, (B, N, width) to the same shape."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.heads, C // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, N, C / heads)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(B, N, C))


class Block(nn.Module):
    """Pre-norm transformer block, (B, N, width) to the same shape."""

    def __init__(self, width: int, heads: int, activation: Callable[[], nn.Module], norm: str):
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Images (B, 3, image_size, image_size) to logits (B, num_classes), by way of a class token.

    `image_size` must be a multiple of `patch_size`. `norm` is "layer" or "none".
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
    ):
        super().__init__()
        num_patches = (image_size // patch_size) ** 2
        self.patch_embed = PatchEmbed(width, patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + num_patches, width))
        blocks = [Block(width, heads, activation, norm) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = layer_norm(width, norm, EPS)
        self.head = nn.Linear(width, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def around_activations(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The layers that feed an activation, and those that read one; for models.rescale and
        models.init_gain."""
        return [block.mlp.fc1 for block in self.blocks], [block.mlp.fc2 for block in self.blocks]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x)
        cls = self.cls_token.expand(x.shape[0], -1, -1)
        x = torch.cat([cls, x], dim=1) + self.pos_embed  # (B, 1 + N, width)
        x = self.blocks(x)[:, 0]  # only the class token is read
        return self.head(self.norm(x))
