"""BatchNorm whose statistics are those of the whole batch, over all ranks."""

import torch
from torch import distributed, nn


def synchronise_norms(model: nn.Module, device: torch.device) -> None:
    """Turn every BatchNorm2d of `model` into a synchronised one, with the same state_dict."""
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = SyncBatchNorm2d


class RankSum(torch.autograd.Function):
    """The sum of a tensor over all ranks, each of which has its own loss."""

    @staticmethod
    def forward(ctx, values):
        return _summed(values)

    @staticmethod
    def backward(ctx, gradient):
        return _summed(gradient)


def _summed(values):
    values = values.clone()
    distributed.all_reduce(values)
    return values


class SyncBatchNorm2d(nn.BatchNorm2d):
    """For CPUs, which torch's SyncBatchNorm does not run on. Input (B, C, H, W), B at least 1."""

    @torch.compiler.disable
    def forward(self, images):
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
    def _track(self, mean, variance):
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
