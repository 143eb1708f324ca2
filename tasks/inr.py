"""Fit an image by a network of its coordinates: the loss, the data and the network."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cli.inr import SINE, InrConfig
from cli.parser import Command
from models.coordinate_mlp import COORDINATES, CoordinateMLP, Sine
from models.operations import FORWARD_AND_BACKWARD, forward_flops
from pipelines.data import PixelData
from pipelines.images.one_image import load_pixels
from pipelines.images.pixels import PixelLoader
from run_folder.folder import RunFolder
from run_folder.result_lines import psnr_text
from tasks.pictures import PictureLog
from train_eval import Trainer
from training.program import Program
from training.random_state import seed_everything
from training.task import Batch
from training.test_only import is_other_data
from utils import UserError, rank, world_size

RANGE = 2.0  # of pixels: from -1, black, to 1, white


class Fitting:
    """Fit pixels on [-1, 1]: the mean squared error over pixels and channels, and the PSNR."""

    counted = "pixels"
    test_each_epoch = True

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        coordinates, pixels = batch  # (B, 2), (B, C)
        loss = F.mse_loss(model(coordinates).float(), pixels)
        count = loss.new_full((), len(pixels))
        return loss, torch.stack([loss.detach() * count, count])

    def metrics(self, sums: list[float], loader: PixelLoader) -> dict[str, float]:
        """Return loss and PSNR, with the number of pixels."""
        squares, count = sums
        loss = squares / count
        return {"loss": loss, "psnr": psnr(loss), "count": int(count)}

    def describe(self, metrics: dict[str, float]) -> str:
        """Return the metrics as they stand in a line of results."""
        return psnr_text(metrics)

    def score(self, metrics: dict[str, float]) -> float:
        """Return the PSNR."""
        return metrics["psnr"]

    def predictions(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return fit (B, C) and pixels (B, C), float32 on [-1, 1]."""
        coordinates, pixels = batch
        return {"fit": model(coordinates).float(), "pixels": pixels}

    def flops(self, model: nn.Module) -> float | None:
        """Return the FLOPs of a training step per pixel."""
        forward = getattr(model, "flops_per_pixel", None)
        return FORWARD_AND_BACKWARD * forward if forward else None


def psnr(error: float) -> float:
    """Return the peak signal-to-noise ratio in dB, 10 log10(RANGE² / error).

    That is skimage.metrics.peak_signal_noise_ratio with data_range=2 on [-1, 1], and the same as
    with data_range=1 on [0, 1]. Nothing is clipped, as there.

    Args:
        error: the mean squared error on [-1, 1].
    """
    if error == 0:
        return math.inf
    if not math.isfinite(error):
        return -error  # NaN, or minus infinity
    return 10 * math.log10(RANGE**2 / error)


class InrProgram(Program[InrConfig, PixelData]):
    """Train and evaluate networks of coordinates."""

    def activation(self) -> Callable[[], nn.Module]:
        model = self.config.model
        if model.activation == SINE:
            return functools.partial(Sine, model.omega)
        return super().activation()

    def load_data(self, settings: dict[str, Any]) -> PixelData:
        return load_pixels(
            self.config.data,
            data_seed=self.config.run.order_seed,
            device=self.device,
            rank=rank(),
            world_size=world_size(),
        )

    def build_model(self, data: PixelData) -> nn.Module:
        return self.network_for(data.image.shape[-1])

    def network_for(self, channels: int) -> nn.Module:
        """Return the network in its initial state."""
        seed_everything(self.config.run.weights_seed)
        model: Any = CoordinateMLP(self.activation(), channels, **self.config.model.options())
        self.scale_weights(model)
        point = torch.zeros(1, COORDINATES, device=next(model.parameters()).device)
        model.flops_per_pixel = forward_flops(model, point)
        return model

    def task(self, data: PixelData) -> Fitting:
        return Fitting()

    def trainer(
        self,
        folder: RunFolder,
        saved: dict[str, Any] | None,
        path: Path | None,
        stop_requested: Callable[[], bool],
    ) -> Trainer[PixelData]:
        trainer = super().trainer(folder, saved, path, stop_requested)
        trainer.log = PictureLog(trainer, self.config.run.picture_interval)
        return trainer

    def resolved(self, data: PixelData) -> dict[str, Any]:
        return {
            **self.settings(data)["model_options"],
            "batch_size": data.train.batch_size,
            "steps_per_epoch": len(data.train),
            "image": data.description,
        }

    def settings(self, data: PixelData) -> dict[str, Any]:
        return {
            "model_options": self.config.model.options(),
            "channels": data.image.shape[-1],
            "data_digest": data.digest,
        }

    @classmethod
    def tested_config(
        cls, command: Command[InrConfig], settings: dict[str, Any], taken: dict[str, Any]
    ) -> InrConfig:
        if is_other_data(command, settings) and "gray" not in command.given:
            taken = taken | {"gray": settings["channels"] == 1}
        return command.config.replaced(**taken)

    def check_data(self, data: PixelData, settings: dict[str, Any], path: Path) -> None:
        if data.image.shape[-1] != settings["channels"]:
            flag = "--gray" if settings["channels"] == 1 else "--no-gray"
            raise UserError(
                f"{path}: its network gives {settings['channels']} channels; add {flag}"
            )

    def measured_with(self) -> str:
        return f"{self.config.data.side}x{self.config.data.side}"
