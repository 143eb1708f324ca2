"""Vision: the input pipeline against torchvision's, the loop against a plain one."""

import argparse
import contextlib
import functools
import io
import statistics
import tempfile

import cli
import vision_main
from benchmarks.tables import print_rates
from benchmarks.timing import interleaved
from run_folder.folder import RunFolder
from training import program
from utils import set_arithmetic

# CIFAR-10's proportion of training to test images.
EPOCH_STEPS, EVALUATION_BATCHES = 40, 8


# --- the input pipeline ---


def measure_pipeline(args: argparse.Namespace, device) -> None:
    """Crop, flip and normalise CIFAR-sized images."""
    import numpy
    import torch
    from PIL import Image
    from torchvision import transforms

    from dataset import PUBLISHED
    from pipelines.images.augment import Transform
    from pipelines.images.loaders import MemoryLoader

    count = 10_000
    mean, std = PUBLISHED["cifar10"]
    images = numpy.random.RandomState(0).randint(0, 256, (count, 32, 32, 3), numpy.uint8)
    targets = numpy.zeros(count, numpy.int64)
    transform = Transform(mean, std, 32, device, crop=True, flip=True)
    ours = MemoryLoader(images, targets, transform, args.batch_size, device, data_seed=0)
    usual = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )

    class Cifar(torch.utils.data.Dataset):
        """What torchvision.datasets.CIFAR10 does with its array."""

        def __len__(self):
            return count

        def __getitem__(self, index):
            return usual(Image.fromarray(images[index])), 0

    def read(loader) -> None:
        for batch, _ in loader:
            batch.to(device)

    def torchvision_loader(workers: int):
        return torch.utils.data.DataLoader(
            Cifar(), args.batch_size, shuffle=True, num_workers=workers,
            persistent_workers=workers > 0,
        )  # fmt: skip

    one, two = torchvision_loader(0), torchvision_loader(2)
    arms = {
        "torchvision, 2 workers": lambda: read(two),
        "torchvision, no workers": lambda: read(one),
        "this project": lambda: read(ours.batches(1)),
    }
    print_rates(interleaved(arms, args.rounds, device), count, "images", "torchvision, 2 workers")


# --- the loop ---


def plain_loop(model, batches: list) -> None:
    """A plain fp32 eager loop, as tutorials have it."""
    import torch

    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for images, targets in batches:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def measure_loop(args: argparse.Namespace, device) -> None:
    """Steps alone, on batches that lie ready; then whole epochs with data and evaluation."""
    import torch

    set_arithmetic(device, deterministic=False)
    steps = 20
    images = torch.randn(args.batch_size, 3, 32, 32, device=device)
    targets = torch.randint(10, (args.batch_size,), device=device)
    strided = images.to(memory_format=torch.channels_last)
    make = functools.partial(build, args.model, args.activation, device)
    plain = make(()).model.to(memory_format=torch.contiguous_format)
    trainers = {
        "this project, fp32": make(()),
        "this project, fp32 compiled": make(("--use_compiled",)),
        "this project, AMP": make(("--use_amp",)),
        "this project, AMP compiled": make(("--use_amp", "--use_compiled")),
    }

    def run_steps(trainer) -> None:
        trainer.model.train()
        loader = ReadyBatches(args.batch_size)
        for _ in range(steps):
            trainer.train_step([(strided, targets)], loader)

    arms = {"plain loop": lambda: plain_loop(plain, [(images, targets)] * steps)}
    arms |= {name: lambda t=trainer: run_steps(t) for name, trainer in trainers.items()}
    times = interleaved(arms, args.rounds, device)
    print(f"\nSteps alone: {args.model}, {args.activation}, batch {args.batch_size}")
    print_rates(times, steps * args.batch_size, "images", "plain loop")
    print(
        f"\nWhole epochs: {EPOCH_STEPS} steps with augmentation, {EVALUATION_BATCHES} batches of "
        "evaluation, metrics, two checkpoints"
    )
    for name, trainer in trainers.items():
        print_epoch(name, trainer, run_steps, steps, args, device)


class ReadyBatches:
    """A loader's measures."""

    num_samples = 10**9

    def __init__(self, batch_size: int):
        self.batch_size = batch_size

    def __len__(self):
        return EPOCH_STEPS


def build(model: str, activation: str, device, flags: tuple[str, ...]):
    """A trainer as vision_main builds it."""
    from train_eval import Trainer

    common = ("--model", model, "--activation", activation, "--num_epochs", "1")
    parsed, _ = cli.parse("benchmark.py", "", vision_main.FLAGS, [*common, *flags])
    network = vision_main.build_model(parsed, num_classes=10, image_size=32)
    task = vision_main.Classification("CrossEntropy")
    options = program.build_options(parsed, device, test_each_epoch=True)
    trainer = Trainer(network.to(device).train(), task, device, options)
    trainer.start(ReadyBatches(parsed.batch_size))
    return trainer


def print_epoch(name: str, trainer, run_steps, steps: int, args, device) -> None:
    """An epoch's time over that of its steps, one after the other in each round."""
    data = synthetic_data(args.batch_size, device)
    with tempfile.TemporaryDirectory() as path:
        folder = RunFolder(path)

        def epoch() -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                trainer.fit(data, folder, {})

        times = interleaved(
            {"steps": lambda: run_steps(trainer), "epoch": epoch}, args.rounds, device
        )
    pairs = zip(times["steps"], times["epoch"], strict=True)
    ratios = [epoch / (step * EPOCH_STEPS / steps) for step, epoch in pairs]
    print(f"{name}: {statistics.median(ratios):.3f} x its steps (n={len(ratios)})")


def synthetic_data(batch_size: int, device):
    """Random images, in batches to train on and to evaluate on."""
    import numpy

    from dataset import PUBLISHED, ImageData
    from pipelines.images.augment import Transform
    from pipelines.images.loaders import MemoryLoader

    random = numpy.random.RandomState(0)
    mean, std = PUBLISHED["cifar10"]

    def loader(batches: int, seed: int | None, **augment):
        count = batches * batch_size
        return MemoryLoader(
            random.randint(0, 256, (count, 32, 32, 3), numpy.uint8),
            random.randint(0, 10, count).astype(numpy.int64),
            Transform(mean, std, 32, device, **augment),
            batch_size,
            device,
            seed,
        )

    train = loader(EPOCH_STEPS, 0, crop=True, flip=True)
    return ImageData(
        "random", train, None, loader(EVALUATION_BATCHES, None), 10, 32, [], mean, std, "", ""
    )
