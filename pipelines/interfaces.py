"""Name what the parts of all pipelines pass to each other."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Device: TypeAlias = str | torch.device
Targets: TypeAlias = npt.NDArray[np.int64]  # (N,): the class of each sample
Indices: TypeAlias = npt.NDArray[np.integer[Any]]  # (K,): places in an array of samples
