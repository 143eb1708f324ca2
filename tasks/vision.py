"""Classify images: their data, the networks for them, and the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import models
from cli.parser import Command
from cli.vision import VisionConfig
from models.operations import FORWARD_AND_BACKWARD, forward_flops
from pipelines.data import ImageData
from pipelines.images.further import further_tests
from pipelines.images.load import as_card_says, load_images
from run_folder.result_lines import accuracy_text
from tasks import starts
from tasks.image_checks import check_norms, check_same_data, check_shares, check_test_size
from training.freezing import freeze
from training.initial_weights import InitialWeights
from training.program import Program
from training.random_state import seed_everything
from training.sync_batchnorm import synchronise_norms
from training.task import Batch, Loader
from training.test_only import is_other_data
from utils import (
    UserError,
    local_world_size,
    one_line_warnings,
    rank,
    usable_cpus,
    user_errors,
    world_size,
)


class Classification:
    """Classify images: the loss, and the shares with the right class first and among five.

    Targets are classes, int64 (B,), or where images are mixed soft labels, float (B, classes); of
    these the class with the largest label counts as the right one. In evaluation the balanced
    accuracy is added, the mean over the classes of the share of right ones.

    Args:
        criterion: "CrossEntropy"; "MSE" between the outputs and one-hot targets; or "BCE", the
            mean over images and classes of the binary cross-entropy, as timm's BinaryCrossEntropy.
        label_smoothing: of the training targets; evaluation has none. Mixed labels are smoothed as
            single ones are.
        class_weights: factor of an image's training loss, by its class, on the network's device.
        shows_balanced: lines of results have the balanced accuracy.
    """

    counted = "images"
    test_each_epoch = True  # as published results have it

    def __init__(
        self,
        criterion: str,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        shows_balanced: bool = False,
    ):
        self.criterion, self.label_smoothing = criterion, label_smoothing
        self.class_weights, self.shows_balanced = class_weights, shows_balanced

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        images, targets = batch  # (B, 3, H, W), (B,) or (B, classes)
        logits = _at_least_fp32(model(images))  # (B, classes)
        loss = self._loss(logits, targets, model.training)
        guesses = logits.detach().topk(min(5, logits.shape[1])).indices
        labels = targets.argmax(1) if targets.is_floating_point() else targets
        right = guesses == labels[:, None]  # (B, 5)
        count = len(images)
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
        """Return mean loss and accuracies in percent, with the number of images."""
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
        images, targets = batch
        return {"logits": model(images).float().clamp(-65504, 65504).half(), "labels": targets}

    def flops(self, model: nn.Module) -> float | None:
        """Return the FLOPs of a training step per image, where the network has been counted."""
        forward = getattr(model, "forward_flops", None)
        return FORWARD_AND_BACKWARD * forward if forward else None


def _at_least_fp32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _soft(targets: Tensor, classes: int) -> Tensor:
    """Return labels (B, classes), of classes (B,) one-hot ones."""
    return targets if targets.is_floating_point() else F.one_hot(targets, classes)


class VisionProgram(Program[VisionConfig, ImageData]):
    """Train and evaluate image classifiers."""

    STARTS = starts.STARTS

    def initial_weights(self) -> InitialWeights | None:
        return starts.initial_weights_of(self.config)

    def start_of(self, weights: InitialWeights) -> dict[str, Any]:
        return starts.start_of(self.config, weights)

    def put_weights(self, model: nn.Module, data: ImageData, weights: InitialWeights) -> None:
        sites = starts.activation_paths(model, self._activation_type())
        starts.put_weights(model, data.num_classes, self.config, weights, sites)

    def compares(self, weights: InitialWeights) -> bool:
        settings = weights.settings
        if starts.has_activation(settings, self.config):
            return False
        if settings:
            self.start["old_activation"] = starts.activation_of(settings, weights)
        return self.config.model.is_third_party or bool(settings)

    def load_data(self, settings: dict[str, Any]) -> ImageData:
        place: dict[str, Any] = {
            "device": self.device,
            "num_workers": num_workers(self.config.data.num_workers),
            "rank": rank(),
            "world_size": world_size(),
        }
        config, normalisation = self.config.data, settings.get("normalisation")
        if card := self.start.get("preprocessing"):
            config = as_card_says(config, card)
            normalisation = normalisation or (card["mean"], card["std"])
        data = load_images(
            config,
            data_seed=self.config.run.order_seed,
            normalisation=normalisation,
            **place,
        )
        data.also = further_tests(config, data, **place)
        return data

    def build_model(self, data: ImageData) -> nn.Module:
        return self.network_for(data.num_classes, data.image_size)

    def network_for(self, num_classes: int, image_size: int) -> nn.Module:
        """Return the network in its initial state, with channels last in memory."""
        seed_everything(self.config.run.weights_seed)
        config = self.config.model
        options: dict[str, Any] = config.options(image_size)
        make, old = self.activation(), self.start.get("old_activation")
        if self.gradual is not None and old is not None:
            make = starts.gradual_factory(self.gradual, make, old)
        elif config.is_third_party:
            options |= {"gradual": self.gradual, "for_published": "preprocessing" in self.start}
        with user_errors(), one_line_warnings():
            model: Any = models.build_model(config.model, make, num_classes, image_size, **options)
        self.scale_weights(model)
        image = torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)
        model.forward_flops = forward_flops(model, image)
        return model.to(memory_format=torch.channels_last)

    def task(self, data: ImageData) -> Classification:
        training = self.config.training
        weights = None
        if training.class_balanced is not None:
            balanced = class_balanced_weights(data.class_sizes, training.class_balanced)
            weights = torch.tensor(balanced, device=self.device)
        return Classification(
            training.criterion,
            training.label_smoothing,
            weights,
            shows_balanced=self.config.data.is_long_tailed,
        )

    def check_training(self, model: nn.Module, data: ImageData) -> None:
        check_test_size(self.config.data.test_size, model)
        if frozen := self.config.training.frozen:
            print(freeze(model, frozen))
        synchronised = self.config.training.sync_batchnorm
        if synchronised:
            check_shares(data.train)
        check_norms(synchronised, model, data.train)
        if synchronised and world_size() > 1:
            with user_errors():
                synchronise_norms(model, self.device)

    def resolved(self, data: ImageData) -> dict[str, Any]:
        return {
            **self.config.model.options(data.image_size),
            "image_size": data.image_size,
            "num_classes": data.num_classes,
            "mean": list(data.mean),
            "std": list(data.std),
            **starts.card_of_weights(self.start),
            "samples": samples(data),
            **unequal_classes(data),
            **files_left_out(data),
        }

    def settings(self, data: ImageData) -> dict[str, Any]:
        return {
            "model_options": self.config.model.options(data.image_size),
            "num_classes": data.num_classes,
            "image_size": data.image_size,
            "class_names": list(data.class_names),
            "samples": samples(data),
            "data_digest": data.digest,
            "normalisation": [list(data.mean), list(data.std)],
        }

    @classmethod
    def tested_config(
        cls,
        command: Command[VisionConfig],
        settings: dict[str, Any],
        taken: dict[str, Any],
    ) -> VisionConfig:
        size, resize = settings["image_size"], command.config.data.resize
        if resize not in (None, size):
            raise UserError(
                f"--resize {resize} contradicts the checkpoint, which was trained on "
                f"{size} px; leave out --resize"
            )
        if is_other_data(command, settings):
            taken = taken | {"resize": size}
        return command.config.replaced(**taken)

    def check_data(self, data: ImageData, settings: dict[str, Any], path: Path) -> None:
        check_same_data(data, settings, path)

    def measured_with(self) -> str:
        return self.config.training.criterion


def num_workers(given: int | None) -> int | None:
    """Return --num_workers, or by default this process's share of the machine's processors."""
    if given is not None or world_size() == 1:
        return given
    return max(1, usable_cpus() // local_world_size())


def unequal_classes(data: ImageData) -> dict[str, list[int]]:
    """Return the training images of each class for args.txt, where they are not all as many."""
    return {"class_sizes": data.class_sizes} if len(set(data.class_sizes)) > 1 else {}


def files_left_out(data: ImageData) -> dict[str, Any]:
    """Return how many files cannot be read, and which, for args.txt; nothing where all can."""
    left_out = data.left_out
    return {"left_out": len(left_out), "files_left_out": left_out} if left_out else {}


def samples(data: ImageData) -> dict[str, int]:
    """Return the number of images in every split."""
    loaders = {"train": data.train, "val": data.val, "test": data.test}
    return {name: loader.num_samples for name, loader in loaders.items() if loader}


def class_balanced_weights(sizes: list[int], beta: float) -> list[float]:
    """Return a weight for each class: (1 - beta) / (1 - beta^n), scaled to a mean of 1.

    beta 0 weighs all classes alike, and 1, its limit, by 1 / n (Cui et al. 2019, arXiv 1901.05555).

    Args:
        sizes: training images n of each class.
        beta: from 0 to 1.
    """
    effective = [(1 - beta**size) / (1 - beta) if beta < 1 else size for size in sizes]
    weights = [1 / number if number else 0.0 for number in effective]
    return [weight * len(weights) / sum(weights) for weight in weights]
