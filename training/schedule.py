"""Set what depends on the step: the learning rate, and how far old activations are replaced."""

import math
from dataclasses import dataclass

from cli.training import TrainingConfig


def steps_of(length: str, total_steps: int, steps_per_epoch: int) -> int:
    """Return `500` steps, `3ep` epochs or `5%` of all steps as steps."""
    if length.endswith("%"):
        return round(float(length[:-1]) / 100 * total_steps)
    if length.endswith("ep"):
        return round(float(length[:-2]) * steps_per_epoch)
    return int(length)


@dataclass(frozen=True)
class Schedule:
    """Give the learning rate of each step of the optimizer.

    Attributes:
        config: the training's.
        steps_per_epoch: of the optimizer.
        total_steps: of the whole training.
    """

    config: TrainingConfig
    steps_per_epoch: int
    total_steps: int

    @classmethod
    def of(cls, config: TrainingConfig, batches: int) -> "Schedule":
        """Return the schedule of a training whose epochs have so many batches."""
        steps_per_epoch = -(-batches // config.grad_accum_steps)
        total = config.num_epochs * steps_per_epoch
        if config.max_steps is not None:
            total = min(total, config.max_steps)
        return cls(config, steps_per_epoch, total)

    @property
    def warmup(self) -> int:
        """Return the steps of the warm-up."""
        return self._steps(self.config.warmup)

    @property
    def replacing(self) -> int:
        """Return the steps over which old activations go over into new ones."""
        return self._steps(self.config.gradual_length or "0")

    def replaced(self, step: int) -> float:
        """Return how far that is at `step`, from 0 to 1."""
        return min(1.0, step / self.replacing) if self.replacing else 1.0

    def notes(self) -> list[str]:
        """Return notes on lengths that are longer than the training."""
        found = []
        if self.warmup >= self.total_steps:
            found.append(
                f"Note: the warm-up ({self.config.warmup}) is longer than the whole training"
            )
        if (replaced := self.replaced(self.total_steps)) < 1:
            found.append(
                f"Note: --replace_gradually {self.config.gradual_length} is longer than the whole "
                f"training, whose network will have {replaced:.0%} of the new activations"
            )
        return found

    def _steps(self, length: str) -> int:
        return steps_of(length, self.total_steps, self.steps_per_epoch)

    def rate(self, step: int) -> float:
        """Return the learning rate at `step`, which counts from 0."""
        config, warmup = self.config, self.warmup
        if step >= warmup:
            return self._after_warmup(step)
        if config.warmup_lr is None:
            return config.lr * ((step + 1) / warmup)
        return config.warmup_lr + (config.lr - config.warmup_lr) * (step / warmup)

    def _after_warmup(self, step: int) -> float:
        config = self.config
        epoch = step // self.steps_per_epoch
        if config.scheduler == "step":
            return config.lr * config.lr_gamma ** (epoch // config.lr_step)
        if config.scheduler == "multistep":
            passed = sum(step >= self._steps(place) for place in config.milestones)
            return config.lr * config.lr_gamma**passed
        return config.min_lr + (config.lr - config.min_lr) * self._share(step)

    def _share(self, step: int) -> float:
        """Return how much is left of what the learning rate falls by, from 1 to 0."""
        progress = (step - self.warmup) / max(1, self.total_steps - self.warmup)
        match self.config.scheduler:
            case "cosine":
                return _half_cosine(progress)
            case "linear":
                return 1 - progress
            case "wsd":
                return self._cooling(step)
            case "restarts":
                return _half_cosine(self._in_cycle(step - self.warmup))
        return 1.0

    def _cooling(self, step: int) -> float:
        cooldown = self._steps(self.config.cooldown)
        return min(1.0, (self.total_steps - step) / max(1, cooldown))

    def _in_cycle(self, step: int) -> float:
        """Return how far `step` is into its cycle; the first has lr_step epochs."""
        length = self.config.lr_step * self.steps_per_epoch
        while step >= length:
            step, length = step - length, length * self.config.cycle_growth
        return step / length


def _half_cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


class Plateau:
    """Hold a factor of the learning rate that falls with a loss that no longer does.

    Args:
        patience: epochs without a lower loss after which it falls.
        gamma: what it is then multiplied by.
    """

    def __init__(self, patience: int, gamma: float):
        self.patience, self.gamma = patience, gamma
        self.factor, self.best, self.waited = 1.0, math.inf, 0

    def end_epoch(self, loss: float) -> None:
        """Count an epoch that ended with this loss."""
        if loss < self.best:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            self.factor, self.waited = self.factor * self.gamma, 0
