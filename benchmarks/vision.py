"""Measure vision: the input pipeline against torchvision's, the loop against a plain one."""

import contextlib
import functools
import io
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from benchmarks.tables import print_rates
from benchmarks.timing import Call, interleaved
from benchmarks.trainers import (
    CLASSES,
    IMAGE_SIZE,
    MadeData,
    ready_images,
    ready_step,
    vision_config,
    vision_trainer,
)
from cli.datasets import PUBLISHED
from cli.vision import VisionConfig
from pipelines.images.augment import Transform
from pipelines.images.loaders import MemoryLoader
from run_folder.folder import RunFolder
from tasks.vision import VisionProgram
from train_eval import Trainer
from training.task import Batch

MEAN, STD = PUBLISHED["cifar10"]
PIPELINE_IMAGES = 10_000
STEPS = 20
# CIFAR-10's proportion of training to test images.
EPOCH_STEPS, EVALUATION_BATCHES = 40, 8


# --- the input pipeline ---


class CifarLike(torch.utils.data.Dataset):
    """Hold an array of images, and do with it what torchvision.datasets.CIFAR10 does."""

    def __init__(self, images: np.ndarray, policy: nn.Module | None = None):
        self.images = images
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(IMAGE_SIZE, padding=4),
                transforms.RandomHorizontalFlip(),
                *([] if policy is None else [policy]),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), 0


# What stands between flip and normalising: {--auto_augment: torchvision's, on Pillow images}.
POLICIES: dict[str | None, nn.Module | None] = {
    None: None,
    "trivialaugment": transforms.TrivialAugmentWide(),
    "randaugment-n2-m9": transforms.RandAugment(2, 9),
}


def measure_pipeline(batch_size: int, rounds: int, device: torch.device) -> None:
    """Measure preparing CIFAR-sized images, with each of POLICIES, and print the rates."""
    images = random_images(np.random.RandomState(0), PIPELINE_IMAGES)
    for name, policy in POLICIES.items():
        print(f"\nCrop, flip, {f'{name}, ' if name else ''}normalise")
        _measure_policy(images, name, policy, batch_size, rounds, device)


def _measure_policy(
    images: np.ndarray,
    name: str | None,
    policy: nn.Module | None,
    batch_size: int,
    rounds: int,
    device: torch.device,
) -> None:
    targets = np.zeros(len(images), np.int64)
    transform = Transform(MEAN, STD, IMAGE_SIZE, device, crop=True, flip=True, auto_augment=name)
    ours = MemoryLoader(images, targets, transform, batch_size, device, data_seed=0)

    def torchvision_loader(workers: int) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(
            CifarLike(images, policy), batch_size, shuffle=True, num_workers=workers,
            persistent_workers=workers > 0,
        )  # fmt: skip

    def read(loader: Iterable[Batch]) -> None:
        for batch, _ in loader:
            batch.to(device)

    one, two = torchvision_loader(0), torchvision_loader(2)
    calls = {
        "torchvision, 2 workers": lambda: read(two),
        "torchvision, no workers": lambda: read(one),
        "this project": lambda: read(ours.batches(1)),
    }
    times = interleaved(calls, rounds, device)
    print_rates(times, len(images), "images", "torchvision, 2 workers")


def random_images(random: np.random.RandomState, count: int) -> np.ndarray:
    """Return random pixels, uint8 (count, 32, 32, 3)."""
    return random.randint(0, 256, (count, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)


# --- the loop ---


def measure_loop(
    model: str,
    activation: str,
    batch_size: int,
    rounds: int,
    device: torch.device,
    args: str | None = None,
) -> None:
    """Measure steps alone, on batches that lie ready; then whole epochs; and print both.

    A whole epoch has its data and its evaluation. It is measured against the steps in it.
    """
    config = functools.partial(
        vision_config, device, model, activation, batch_size, activation_args=args
    )
    configs = {
        "this project, fp32": config(),
        "this project, fp32 --ema": config(ema=0.999),
        "this project, fp32 compiled": config(use_compiled=True),
        "this project, AMP": config(use_amp=True),
        "this project, AMP compiled": config(use_amp=True, use_compiled=True),
    }
    batch = ready_images(batch_size, device)
    trainers = {name: vision_trainer(each, batch) for name, each in configs.items()}
    network = VisionProgram(config()).network_for(CLASSES, IMAGE_SIZE)
    plain = network.to(device).to(memory_format=torch.contiguous_format)
    images, targets = batch
    batches = [(images.contiguous(), targets)] * STEPS
    calls: dict[str, Call] = {"plain loop": lambda: plain_loop(plain, batches)}
    calls |= {name: functools.partial(our_steps, trainer) for name, trainer in trainers.items()}
    times = interleaved(calls, rounds, device)
    print(f"\nSteps alone: {model}, {activation}, batch {batch_size}")
    print_rates(times, STEPS * batch_size, "images", "plain loop")
    print(
        f"\nWhole epochs: {EPOCH_STEPS} steps with augmentation, {EVALUATION_BATCHES} batches of "
        "evaluation, metrics, two checkpoints"
    )
    for name, trainer in trainers.items():
        print_epoch(name, trainer, configs[name], rounds)


def plain_loop(model: nn.Module, batches: Sequence[Batch]) -> None:
    """Train in a plain fp32 eager loop, as tutorials have it."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for images, targets in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def our_steps(trainer: Trainer) -> None:
    trainer.model.train()
    for _ in range(STEPS):
        ready_step(trainer)


def print_epoch(name: str, trainer: Trainer, config: VisionConfig, rounds: int) -> None:
    """Print an epoch's time over that of its steps, one after the other in each round."""
    device = trainer.device
    data = synthetic_data(config.data.batch_size, device)
    with tempfile.TemporaryDirectory() as path:
        folder = RunFolder(path)

        def epoch() -> None:
            whole = Trainer(
                trainer.objective, data, config.training, config.run, folder, settings={}
            )
            with contextlib.redirect_stdout(io.StringIO()):
                whole.fit()

        calls: dict[str, Call] = {"steps": functools.partial(our_steps, trainer), "epoch": epoch}
        times = interleaved(calls, rounds, device)
    pairs = zip(times["steps"], times["epoch"], strict=True)
    ratios = [epoch / (steps * EPOCH_STEPS / STEPS) for steps, epoch in pairs]
    print(f"{name}: {statistics.median(ratios):.3f} x its steps (n={len(ratios)})")


def synthetic_data(batch_size: int, device: torch.device) -> MadeData:
    """Return random images, in batches to train on and to evaluate on."""
    random = np.random.RandomState(0)

    def loader(batches: int, seed: int | None, **augment: Any) -> MemoryLoader:
        count = batches * batch_size
        images = random_images(random, count)
        targets = random.randint(0, CLASSES, count).astype(np.int64)
        transform = Transform(MEAN, STD, IMAGE_SIZE, device, **augment)
        return MemoryLoader(images, targets, transform, batch_size, device, seed)

    train = loader(EPOCH_STEPS, 0, crop=True, flip=True)
    return MadeData(train, test=loader(EVALUATION_BATCHES, None))
