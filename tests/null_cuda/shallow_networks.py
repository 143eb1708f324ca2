"""vision_main.py with a ResNet-20 and a ViT-tiny that are cut short, and compile in seconds."""

from __future__ import annotations

import vision_main
from models import resnet, vit


def main() -> int:
    """Run the program."""
    resnet.VARIANTS["resnet20"] = resnet.VARIANTS["resnet20"]._replace(depths=(1,))
    vit.VARIANTS["vit-tiny"] = vit.VARIANTS["vit-tiny"]._replace(depth=1)
    return vision_main.main()
