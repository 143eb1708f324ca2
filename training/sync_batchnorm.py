"""Normalise by the statistics of the whole batch, over all ranks, as BatchNorm does on one."""

from typing import Any

import torch
from torch import Tensor, distributed, nn


def synchronise_norms(model: nn.Module, device: torch.device) -> None:
    """Turn every BatchNorm of `model` into a synchronised one, with the same state_dict.

    Raises:
        ValueError: the network has one that cannot be synchronised; nothing is changed.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kinds = {type(norm) for norm in norms}
    with_activation = {kind for kind in kinds if kind.__name__ == "BatchNormAct2d"}  # timm's
    known = {nn.BatchNorm2d, *with_activation}
    if device.type == "cuda":
        known |= {nn.BatchNorm1d, nn.BatchNorm3d}
    if kinds - known:
        name = min(kind.__name__ for kind in kinds - known)
        raise ValueError(
            f"--sync_batchnorm: the network has {name}, which cannot be synchronised on "
            f"{device.type}: leave out --sync_batchnorm"
        )
    if device.type != "cuda":
        for norm in norms:
            plain = type(norm) is nn.BatchNorm2d
            norm.__class__ = SyncBatchNorm2d if plain else SyncBatchNormAct2d
    elif with_activation:
        from timm.layers import convert_sync_batchnorm  # optional: the network is timm's

        convert_sync_batchnorm(model)
    else:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)


class RankSum(torch.autograd.Function):
    """Sum a tensor over all ranks, each of which has its own loss."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _summed(values: Tensor) -> Tensor:
    values = values.clone()
    distributed.all_reduce(values)
    return values


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Normalise on CPUs, which torch's SyncBatchNorm does not run on.

    The input is (B, C, H, W) with B at least 1.
    """

    # As BatchNorm has them by default: optional in the base class.
    num_batches_tracked: Tensor
    running_mean: Tensor
    running_var: Tensor
    momentum: float

    @torch.compiler.disable
    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            return super().forward(images)
        values = images.float()
        count = torch.tensor(float(values.numel() // values.shape[1]))
        distributed.all_reduce(count)
        mean = RankSum.apply(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        # From centred values: the mean square less the squared mean would cancel.
        variance = RankSum.apply(centred.square().sum((0, 2, 3))) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(images.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class SyncBatchNormAct2d(SyncBatchNorm2d):
    """Normalise as timm's norm with an activation after it."""

    act: nn.Module
    drop: nn.Module

    def forward(self, images: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(images)))
