"""Name what the parts of the image pipeline pass to each other."""

from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

# Those of all pipelines stand here too, so that images have one place to import from.
from pipelines.interfaces import Device as Device
from pipelines.interfaces import Indices as Indices
from pipelines.interfaces import Targets as Targets

Images: TypeAlias = npt.NDArray[np.uint8]  # (N, H, W, 3)
Paths: TypeAlias = npt.NDArray[np.object_]  # (N,): a str for each image
Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor]  # images, targets
Choices: TypeAlias = dict[str, torch.Tensor]  # by name: what was drawn for each image, (B,)


class Encoded(Protocol):
    """Describe an encoded image that is a part of a larger file; str() names it."""

    def read(self) -> bytes:
        """Return the image as it is encoded."""
        ...


ImageFile: TypeAlias = str | Encoded  # a path, or a part of another file


class Parts(Protocol):
    """Describe images that are parts of larger files, which are opened where they are read.

    They are indexed as an array is: by a number for one of them, by a slice, a mask or numbers for
    several. Processes that read are given these, so they hold places in files, and no open file.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Any: ...

    def names(self) -> list[str]:
        """Return a name for each image."""
        ...

    def identity(self) -> bytes:
        """Return what tells these images from others, wherever their files lie."""
        ...


ImageFiles: TypeAlias = Paths | Parts


class ImageReader(Protocol):
    """Describe what reads an image file as uint8 (size, size, 3).

    With a seed it draws an augmentation from that seed alone; with None it draws nothing.
    """

    size: int

    def __call__(self, file: ImageFile, seed: int | None = None) -> Images: ...
