"""Classify images: their data, and the networks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

import models
from cli.parser import Command
from cli.vision import VisionConfig
from models.operations import forward_flops
from pipelines.data import ImageData
from pipelines.images.further import further_tests
from pipelines.images.load import as_card_says, load_images
from tasks import starts
from tasks.classification import Classification, class_balanced_weights
from tasks.data_facts import files_left_out, samples, unequal_classes
from tasks.image_checks import check_norms, check_same_data, check_shares, check_test_size
from training.freezing import freeze
from training.initial_weights import InitialWeights
from training.model_text import activation_paths
from training.program import Program
from training.random_state import seed_everything
from training.sync_batchnorm import synchronise_norms
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


class VisionProgram(Program[VisionConfig, ImageData]):
    """Train and evaluate image classifiers."""

    STARTS = starts.STARTS
    DRAWS_BY_ROWS = True

    def initial_weights(self) -> InitialWeights | None:
        return starts.initial_weights_of(self.config)

    def start_of(self, weights: InitialWeights) -> dict[str, Any]:
        return starts.start_of(self.config, weights)

    def put_weights(self, model: nn.Module, data: ImageData, weights: InitialWeights) -> None:
        sites = activation_paths(model, self.activation_type())
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
