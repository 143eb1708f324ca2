"""The loop with everything on against timm's classes in a plain loop, with the same draws."""

import copy

import pytest
import torch
from helpers.commands import command

from cli.vision import VisionConfig
from run_folder.folder import RunFolder
from tasks.vision import VisionProgram
from training.state import Place
from training.weight_average import WeightAverage

timm = pytest.importorskip("timm")
for part in ("loss", "optim", "scheduler", "utils"):
    pytest.importorskip(f"timm.{part}")

FLAGS = (
    "--dataset", "imagefolder", "--resize", "32", "--batch_size", "8", "--device", "cpu",
    "--num_epochs", "100", "--lr", "1e-3", "--weight_decay", "0.05", "--scheduler", "cosine",
    "--warmup", "4", "--warmup_lr", "1e-6", "--min_lr", "1e-5", "--clip_grad_norm", "1",
    "--layer_decay", "0.75", "--drop_path", "0.1", "--drop_rate", "0.1", "--augment",
    "--random_resized_crop", "0.3", "--auto_augment", "rand-m9-mstd0.5-inc1",
    "--random_erasing", "0.25", "--erasing_mode", "pixel", "--mixup", "0.8", "--cutmix", "1",
    "--label_smoothing", "0.1", "--ema", "0.98",
)  # fmt: skip
NETWORKS = {"deit_tiny_patch16_224": ("GELU", {"img_size": 32}), "resnet18": ("ReLU", {})}


def trained_by_us(name, steps, dtype, data_path, folder):
    """Train, and return the trainer with what timm's side needs: start, batches, losses."""
    config = command(
        VisionConfig, "--model", f"timm/{name}", "--activation", NETWORKS[name][0], *FLAGS,
        "--data_path", data_path["vision_main"], "--max_steps", steps,
    ).config  # fmt: skip
    trainer = VisionProgram(config).trainer(RunFolder(folder), None, None, lambda: False)
    start = copy.deepcopy(trainer.model.state_dict())
    trainer.model.to(dtype).train()
    trainer.average = WeightAverage(trainer.model, trainer.average.averaging)
    random, batches, losses = torch.get_rng_state(), [], []
    while len(batches) < steps:
        for images, targets in trainer.data.train.batches(trainer.state.place.epoch):
            batches.append((images.to(dtype), targets.to(dtype)))
            sums = trainer.train_step(batches[-1:])
            losses.append(sums[0] / len(images))
            if len(batches) == steps:
                break
        trainer.state.place = Place(trainer.state.place.epoch + 1)
    return trainer, start, random, batches, torch.stack(losses).to(dtype)


def trained_by_timm(name, trainer, start, random, batches, dtype):
    """Train a network of timm's from `start` on the same batches; return losses and the average."""
    config, schedule = trainer.config, trainer.schedule
    model = timm.create_model(
        name, num_classes=trainer.data.num_classes, drop_path_rate=0.1, drop_rate=0.1,
        **NETWORKS[name][1],
    )  # fmt: skip
    model.load_state_dict(start)
    model.to(dtype).train()
    optimizer = timm.optim.create_optimizer_v2(
        model, opt="adamw", lr=config.lr, weight_decay=config.weight_decay, layer_decay=0.75
    )
    scheduler = timm.scheduler.CosineLRScheduler(
        optimizer, t_initial=schedule.total_steps - schedule.warmup, lr_min=config.min_lr,
        warmup_t=schedule.warmup, warmup_lr_init=config.warmup_lr, warmup_prefix=True,
        t_in_epochs=False,
    )  # fmt: skip
    loss_of, average = timm.loss.SoftTargetCrossEntropy(), timm.utils.ModelEmaV3(model, decay=0.98)
    torch.set_rng_state(random)  # building the network has drawn
    losses = []
    for number, (images, targets) in enumerate(batches, 1):
        smoothed = 0.9 * targets + 0.1 / targets.shape[1]  # as timm's Mixup makes them
        loss = loss_of(model(images), smoothed)
        optimizer.zero_grad()
        loss.backward()
        timm.utils.dispatch_clip_grad(model.parameters(), 1.0)
        optimizer.step()
        average.update(model, step=number)
        scheduler.step_update(number)
        losses.append(loss.detach())
    return torch.stack(losses), average.module.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("steps", [12, 200])
def test_losses_and_averaged_weights_are_those_of_timm_s_classes(name, steps, data_path, tmp_path):
    trainer, start, random, batches, ours = trained_by_us(
        name, steps, torch.float64, data_path, tmp_path
    )
    theirs, average = trained_by_timm(name, trainer, start, random, batches, torch.float64)
    torch.testing.assert_close(ours[:50], theirs[:50], rtol=0, atol=1e-9)
    assert len(set(ours.tolist())) == steps
    if steps > 50:  # from here on roundings grow
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
        return
    for key, value in trainer.average.named.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, average[key], rtol=0, atol=1e-9, msg=key)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_loss_in_fp32_is_timm_s(name, data_path, tmp_path):
    trainer, start, random, batches, ours = trained_by_us(
        name, 5, torch.float32, data_path, tmp_path
    )
    theirs, _ = trained_by_timm(name, trainer, start, random, batches, torch.float32)
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-5)
