"""Learning rates of every step, against torch's and timm's schedulers."""

import math

import pytest
import torch
from torch.optim import lr_scheduler

from cli.converters import milestones
from cli.training import TrainingConfig
from cli.vision import VisionConfig
from training.schedule import Plateau, Schedule, steps_of
from utils import UserError

EPOCH, TOTAL = 6, 60


def schedule(**flags):
    config = TrainingConfig(**{"lr": 0.8, "num_epochs": TOTAL // EPOCH} | flags)
    config.check()
    return Schedule.of(config, EPOCH)


def rates(steps=range(TOTAL), **flags):
    found = schedule(**flags)
    return [found.rate(step) for step in steps]


def torchs(build, steps, every=1):
    """Return the learning rates of one of torch's schedulers, which steps every so many steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.8)
    reference = build(optimizer)
    found = []
    for step in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % every == 0:
            reference.step()
    return found


@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_schedules_against_torchs(warmup, floor):
    rest = TOTAL - warmup
    references = {
        "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, rest, eta_min=floor),
        "linear": lambda o: lr_scheduler.LinearLR(o, 1.0, floor / 0.8, rest),
    }
    for name, build in references.items():
        flags = {"scheduler": name, "min_lr": floor, "warmup": str(warmup)}
        assert rates(range(warmup, TOTAL), **flags) == pytest.approx(torchs(build, rest))


def test_steps_against_torchs():
    found = rates(scheduler="step", lr_step=3, lr_gamma=0.5)
    wanted = torchs(lambda o: lr_scheduler.StepLR(o, 3, 0.5), TOTAL, every=EPOCH)
    assert found == pytest.approx(wanted)
    found = rates(scheduler="multistep", lr_milestones="2,5,9", lr_gamma=0.2)
    wanted = torchs(lambda o: lr_scheduler.MultiStepLR(o, [2, 5, 9], 0.2), TOTAL, every=EPOCH)
    assert found == pytest.approx(wanted)
    assert found[12] == pytest.approx(0.16)
    assert rates() == [0.8] * TOTAL


def test_milestones_as_shares_of_all_steps():
    """Also where they are within an epoch: He et al.'s 32k and 48k of 64k steps."""
    found = rates(scheduler="multistep", lr_milestones="45%,72.5%")
    wanted = torchs(lambda o: lr_scheduler.MultiStepLR(o, [27, round(43.5)], 0.1), TOTAL)
    assert found == pytest.approx(wanted)
    config = TrainingConfig(num_epochs=164, max_steps=64000, lr=0.1, scheduler="multistep",
                            lr_milestones="50%,75%")  # fmt: skip
    papers = Schedule.of(config, 391)
    looked_at = (0, 31_999, 32_000, 47_999, 48_000, 63_999)
    assert papers.total_steps == 64_000
    assert [papers.rate(step) for step in looked_at] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )
    assert config.bound_to_length == "--lr_milestones 50%,75%"
    assert TrainingConfig(scheduler="multistep", lr_milestones="3").bound_to_length is None


@pytest.mark.parametrize("growth", [1, 2])
@pytest.mark.parametrize("warmup", [0, 4])
def test_restarts_against_torchs(growth, warmup):
    def build(optimizer):
        return lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 2 * EPOCH, growth, eta_min=0.1)

    flags = {"scheduler": "restarts", "lr_step": 2, "cycle_growth": growth, "min_lr": 0.1}
    found = rates(range(warmup, TOTAL), warmup=str(warmup), **flags)
    assert found == pytest.approx(torchs(build, TOTAL - warmup))


@pytest.mark.parametrize("cooldown", ["15", "2.5ep", "25%"])
def test_wsd_is_warm_stable_and_then_falls(cooldown):
    found = rates(scheduler="wsd", warmup="1ep", cooldown=cooldown, min_lr=0.2)
    assert found[:6] == pytest.approx([0.8 * (step + 1) / 6 for step in range(6)])
    assert found[6:46] == [0.8] * 40
    assert found[45:] == pytest.approx([0.2 + 0.6 * (15 - step) / 15 for step in range(15)])


def test_a_warmup_begins_above_zero():
    assert rates(range(5), scheduler="linear", warmup="4")[:4] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8]
    )


def test_a_warmup_that_begins_where_it_is_told_against_timms():
    scheduler = pytest.importorskip("timm.scheduler").CosineLRScheduler
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.8)
    reference = scheduler(
        optimizer, TOTAL - 12, lr_min=0.01, warmup_t=12, warmup_lr_init=0.05, warmup_prefix=True,
        t_in_epochs=False,
    )  # fmt: skip
    wanted = []
    for step in range(TOTAL):
        reference.step_update(step)
        wanted.append(optimizer.param_groups[0]["lr"])
    found = rates(scheduler="cosine", warmup="2ep", warmup_lr=0.05, min_lr=0.01)
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("text", "steps"), [("0", 0), ("500", 500), ("3ep", 30), ("0.5ep", 5), ("5%", 10)]
)
def test_lengths(text, steps):
    assert steps_of(text, total_steps=200, steps_per_epoch=10) == steps


def test_plateau_against_torchs():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    # torch waits for one epoch more than its patience, and wants a relative improvement of 1e-4
    reference = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=1, threshold=0.0)
    plateau = Plateau(patience=2, gamma=0.1)
    for loss in [3.0, 2.0, 2.5, 2.5, 2.5, 2.5, 1.0, 1.0, 1.0, 0.5, 0.6, 0.7]:
        reference.step(loss)
        plateau.end_epoch(loss)
        assert plateau.factor == pytest.approx(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"scheduler": "multistep"}, "multistep and --lr_milestones need each other"),
        ({"lr_milestones": "3"}, "multistep and --lr_milestones need each other"),
        ({"scheduler": "step", "min_lr": 1e-5}, "--min_lr is for --scheduler cosine"),
        ({"scheduler": "cosine", "min_lr": 1}, "--min_lr 1 is above --lr"),
        ({"warmup_lr": 1e-5}, "--warmup_lr has no effect without --warmup"),
        ({"nesterov": True}, "--nesterov is for --optimizer sgd"),
        ({"nesterov": True, "optimizer": "sgd", "momentum": 0}, "with a momentum"),
    ],
)
def test_what_contradicts_is_refused_in_a_line(flags, words):
    with pytest.raises(UserError, match=words) as caught:
        VisionConfig.from_values(flags).check()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3,2", "that rise"), ("3,3", "that rise"), ("a", "60,120,160"), ("", "60"),
        ("75%,50%", "that rise"), ("50%,160", "60,120,160"), ("100%", "60,120,160"),
    ],
)  # fmt: skip
def test_milestones_are_epochs_that_rise(text, words):
    with pytest.raises(ValueError, match=words):
        milestones(text)


def test_what_depends_on_the_length():
    """A run cannot be made longer, where earlier rates would have been others."""
    assert TrainingConfig(scheduler="wsd").bound_to_length == "--scheduler wsd"
    for name in ("multistep", "restarts", "step"):
        assert TrainingConfig(scheduler=name).bound_to_length is None


def test_the_last_step_of_a_cosine_is_above_its_floor():
    assert math.isclose(rates(scheduler="cosine", min_lr=0.1)[-1], 0.1, rel_tol=0.02)
