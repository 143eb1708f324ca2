"""Classify images or rows of tables: the loss and the metrics of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.operations import FORWARD_AND_BACKWARD
from run_folder.result_lines import accuracy_text
from training.task import Batch, Loader


class Classification:
    """Classify samples: the loss, and the shares with the right class first and among five.

    Targets are classes, int64 (B,), or where images are mixed soft labels, float (B, classes); of
    these the class with the largest label counts as the right one. In evaluation the balanced
    accuracy is added, the mean over the classes of the share of right ones.

    Args:
        criterion: "CrossEntropy"; "MSE" between the outputs and one-hot targets; or "BCE", the
            mean over samples and classes of the binary cross-entropy, as timm's BinaryCrossEntropy.
        label_smoothing: of the training targets; evaluation has none. Mixed labels are smoothed as
            single ones are.
        class_weights: factor of a sample's training loss, by its class, on the network's device.
        shows_balanced: lines of results have the balanced accuracy.
        counted: what a sample is called, in the plural.
    """

    test_each_epoch = True  # as published results have it

    def __init__(
        self,
        criterion: str,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        shows_balanced: bool = False,
        counted: str = "images",
    ):
        self.counted = counted
        self.criterion, self.label_smoothing = criterion, label_smoothing
        self.class_weights, self.shows_balanced = class_weights, shows_balanced

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        inputs, targets = batch  # (B, ...), (B,) or (B, classes)
        logits = _at_least_fp32(model(inputs))  # (B, classes)
        loss = self._loss(logits, targets, model.training)
        guesses = logits.detach().topk(min(5, logits.shape[1])).indices
        labels = targets.argmax(1) if targets.is_floating_point() else targets
        right = guesses == labels[:, None]  # (B, 5)
        count = len(inputs)
        counts = [right[:, 0].sum(), right.sum(), right.new_full((), count, dtype=torch.int64)]
        sums = torch.cat([loss.detach()[None] * count, torch.stack(counts)])
        if not torch.is_grad_enabled():  # an evaluation; an empty share is trained on in that mode
            classes = F.one_hot(labels, logits.shape[1])
            # A mask as an index has another shape for each batch, and is compiled again for it.
            sums = torch.cat([sums, (classes * right[:, :1]).sum(0), classes.sum(0)])
        return loss, sums

    def _loss(self, logits: Tensor, targets: Tensor, training: bool) -> Tensor:
        smoothing = self.label_smoothing if training else 0.0
        if self.criterion != "CrossEntropy":
            soft = _soft(targets, logits.shape[1]) * (1 - smoothing) + smoothing / logits.shape[1]
            bce = F.binary_cross_entropy_with_logits
            return F.mse_loss(logits, soft) if self.criterion == "MSE" else bce(logits, soft)
        if self.class_weights is None or not training:
            return F.cross_entropy(logits, targets, label_smoothing=smoothing)
        if targets.is_floating_point():
            # A mixture has the losses of its images, each with its own weight: the loss is linear
            # in the labels, so that these are weighted, and brought to a sum of 1 by a factor.
            weighted = targets * self.class_weights
            factors = weighted.sum(1)
            targets = weighted / factors[:, None]
        else:
            factors = self.class_weights[targets]
        losses = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
        return (losses * factors).mean()

    def metrics(self, sums: list[float], loader: Loader) -> dict[str, float]:
        """Return mean loss and accuracies in percent, with the number of samples."""
        loss, top1, top5, count, *by_class = sums
        metrics = {
            "loss": loss / count,
            "top1": 100 * top1 / count,
            "top5": 100 * top5 / count,
            "count": int(count),
        }
        if by_class:
            right, of = by_class[: len(by_class) // 2], by_class[len(by_class) // 2 :]
            shares = [r / n for r, n in zip(right, of, strict=True) if n]
            metrics["balanced"] = 100 * sum(shares) / len(shares)
        return metrics

    def describe(self, metrics: dict[str, float]) -> str:
        """Return the metrics as they stand in a line of results."""
        return accuracy_text(metrics, self.shows_balanced)

    def score(self, metrics: dict[str, float]) -> float:
        """Return the accuracy."""
        return metrics["top1"]

    def predictions(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return logits (B, classes) in fp16, and labels (B,)."""
        inputs, targets = batch
        return {"logits": model(inputs).float().clamp(-65504, 65504).half(), "labels": targets}

    def flops(self, model: nn.Module) -> float | None:
        """Return the FLOPs of a training step per sample, where the network has been counted."""
        forward = getattr(model, "forward_flops", None)
        return FORWARD_AND_BACKWARD * forward if forward else None


def _at_least_fp32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _soft(targets: Tensor, classes: int) -> Tensor:
    """Return labels (B, classes), of classes (B,) one-hot ones."""
    return targets if targets.is_floating_point() else F.one_hot(targets, classes)


def class_balanced_weights(sizes: list[int], beta: float) -> list[float]:
    """Return a weight for each class: (1 - beta) / (1 - beta^n), scaled to a mean of 1.

    beta 0 weighs all classes alike, and 1, its limit, by 1 / n (Cui et al. 2019, arXiv 1901.05555).

    Args:
        sizes: training samples n of each class.
        beta: from 0 to 1.
    """
    effective = [(1 - beta**size) / (1 - beta) if beta < 1 else size for size in sizes]
    weights = [1 / number if number else 0.0 for number in effective]
    return [weight * len(weights) / sum(weights) for weight in weights]
