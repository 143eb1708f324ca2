"""Name what the parts of the image pipeline pass to each other."""

from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Device: TypeAlias = str | torch.device
Images: TypeAlias = npt.NDArray[np.uint8]  # (N, H, W, 3)
Targets: TypeAlias = npt.NDArray[np.int64]  # (N,): the class of each image
Paths: TypeAlias = npt.NDArray[np.object_]  # (N,): a str for each image
Indices: TypeAlias = npt.NDArray[np.integer[Any]]  # (K,): places in one of the above
Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor]  # images, targets
Choices: TypeAlias = dict[str, torch.Tensor]  # by name: what was drawn for each image, (B,)


class ImageReader(Protocol):
    """Describe what reads an image file as uint8 (size, size, 3).

    With a seed it draws an augmentation from that seed alone; with None it draws nothing.
    """

    size: int

    def __call__(self, path: str, seed: int | None = None) -> Images: ...
