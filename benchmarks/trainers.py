"""Build trainers as the programs build them, for steps on one batch that lies on the device."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from cli.language import LanguageConfig
from cli.vision import VisionConfig
from run_folder.folder import RunFolder
from tasks.language import LanguageProgram
from tasks.vision import VisionProgram
from train_eval import Trainer
from training.program import Program
from training.task import Batch

IMAGE_SIZE, CLASSES = 32, 10
# 10.8 million parameters, a size often used to try nanoGPT on a CPU.
VOCABULARY, LENGTH, WIDTH, HEADS, LAYERS = 256, 256, 384, 6, 6


class ReadyBatches:
    """Yield one batch that lies on the device, in an epoch that never ends."""

    STEPS = 10**6  # more than are made

    def __init__(self, batch: Batch):
        self.batch, self.batch_size = batch, len(batch[0])
        self.num_samples = self.STEPS * self.batch_size

    def __len__(self) -> int:
        return self.STEPS

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        return itertools.repeat(self.batch, self.STEPS - first)


@dataclass
class MadeData:
    """Hold loaders of made-up data, as the trainer takes them."""

    train: Any  # Loader
    test: Any
    val: Any = None
    description: str = "made up"
    also: dict[str, Any] = field(default_factory=dict)


# --- vision ---


def vision_config(
    device: torch.device, model: str, activation: str, batch_size: int, **flags: Any
) -> VisionConfig:
    """Return the configuration of one epoch of training."""
    own = {"model": model, "activation": activation, "batch_size": batch_size, "num_epochs": 1}
    return VisionConfig.from_values({"device": str(device)} | own | flags)


def ready_images(batch_size: int, device: torch.device, size: int = IMAGE_SIZE) -> Batch:
    """Return random images (B, 3, size, size), channels last in memory, and targets (B,)."""
    images = torch.randn(batch_size, 3, size, size, device=device)
    targets = torch.randint(CLASSES, (batch_size,), device=device)
    return images.to(memory_format=torch.channels_last), targets


def vision_trainer(config: VisionConfig, batch: Batch) -> Trainer:
    """Return a trainer for steps on `batch`."""
    program = VisionProgram(config)
    return _trainer(program, program.network_for(CLASSES, batch[0].shape[-1]), batch)


# --- language ---


def language_config(
    device: torch.device, activation: str, batch_size: int, **flags: Any
) -> LanguageConfig:
    """Return the configuration of a small GPT-2 without dropout."""
    own = {"activation": activation, "batch_size": batch_size, "dropout": 0.0}
    shape = {
        "max_seq_length": LENGTH,
        "embedding_dim": WIDTH,
        "num_attention_heads": HEADS,
        "num_layers": LAYERS,
    }
    return LanguageConfig.from_values({"device": str(device)} | own | shape | flags)


def ready_tokens(batch_size: int, device: torch.device) -> Batch:
    """Return random ids and targets, both (B, 256)."""
    ids, targets = torch.randint(VOCABULARY, (2, batch_size, LENGTH), device=device)
    return ids, targets


def language_trainer(config: LanguageConfig, batch: Batch, vocabulary: int = VOCABULARY) -> Trainer:
    """Return a trainer for steps on `batch`, whose ids are below `vocabulary`."""
    program = LanguageProgram(config)
    return _trainer(program, program.network_for(vocabulary), batch)


# --- both ---


def _trainer(program: Program[Any, Any], network: nn.Module, batch: Batch) -> Trainer:
    ready = ReadyBatches(batch)
    data = MadeData(train=ready, test=ready)
    objective = program.objective(network.to(program.device).train(), data)
    config = program.config
    nowhere = RunFolder("", writes=False)
    return Trainer(objective, data, config.training, config.run, nowhere, settings={})


def ready_step(trainer: Trainer) -> None:
    """Make a training step on the batch that lies ready."""
    trainer.train_step([trainer.data.train.batch])
