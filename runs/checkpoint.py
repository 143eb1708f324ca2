"""Checkpoints on disk."""

import os

import torch

from utils import UserError


def load_checkpoint(path: os.PathLike, device: torch.device | str = "cpu") -> dict:
    """A checkpoint that `Trainer.fit` wrote.

    Raises:
        UserError: missing, unreadable, or not one of ours.
    """
    if not os.path.isfile(path):
        raise UserError(f"--checkpoint {path}: no such file")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load raises whatever the broken bytes led it to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"--checkpoint {path}: not a readable checkpoint ({reason})") from None
    if not isinstance(content, dict) or not {"settings", "model"} <= content.keys():
        raise UserError(f"--checkpoint {path}: not a checkpoint of this project")
    return content
