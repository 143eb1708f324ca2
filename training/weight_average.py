"""Keep an exponential moving average of the weights beside those that are trained: --ema.

After each update it is what torch's AveragedModel(use_buffers=True, multi_avg_fn=
get_ema_multi_avg_fn(decay)) and timm's ModelEmaV3 hold. Neither is used: AveragedModel sends its
counter to the GPU at each update and waits for that (torch 2.6 to 2.14), and both count a step that
the gradient scaler of fp16 has skipped, which has changed no weight.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cli.training import TrainingConfig
from training import processes, sharding

EMA = "_ema"  # ends the names of what is of averaged weights
WARMUP_POWER = 2 / 3  # timm's: 1 - decay falls with this power of the number of updates


@dataclass(frozen=True)
class Averaging:
    """Say how an average follows the weights.

    Attributes:
        share: the newest weights' share in an update, 1 - decay.
        every: steps from update to update, counted from each epoch's first.
        warms_up: the share falls to that with the number of updates, from 1 at the first.
        copies_until: the step before which an update copies the weights, and the next one too.
    """

    share: float
    every: int = 1
    warms_up: bool = False
    copies_until: int = 0

    @classmethod
    def of(cls, config: TrainingConfig, samples: int, warmup: int) -> "Averaging":
        """Return what the flags ask for.

        Args:
            config: with --ema.
            samples: in a step, over all processes.
            warmup: the steps of the learning rate's warm-up.
        """
        assert config.ema is not None
        share, every = 1 - config.ema, config.ema_every
        if config.ema_kind != "torchvision":
            return cls(share, every, warms_up=config.ema_kind == "warmup")
        # references/classification/train.py, which has this factor from pycls
        return cls(min(1.0, share * samples * every / config.num_epochs), every, False, warmup)


class WeightAverage:
    """Hold the average of a network's parameters and buffers; whole numbers are copied.

    Nothing waits for the device: with a gradient scaler the number of updates, which depends on the
    steps that it skips, is a tensor there.

    Args:
        model: the network, on its device; tied weights are averaged once.
        averaging: how the average follows the weights.
        skips_steps: a gradient scaler may skip steps.
    """

    def __init__(self, model: nn.Module, averaging: Averaging, skips_steps: bool = False):
        self.model, self.averaging = model, averaging
        state = model.state_dict(keep_vars=True).items()
        named = {name: sharding.local(value) for name, value in state if isinstance(value, Tensor)}
        copies = {id(value): value.detach().clone() for value in named.values()}
        self.named = {name: copies[id(value)] for name, value in named.items()}
        self.current = list({id(value): value for value in named.values()}.values())
        self.averages = list(copies.values())
        pairs = list(zip(self.averages, self.current, strict=True))
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._others = [
            (current, average) for average, current in pairs if not average.is_floating_point()
        ]
        device = self.averages[0].device
        self.updates: Any = torch.zeros((), device=device) if skips_steps else 0

    @torch.no_grad()
    def after_step(self, step: int, step_of_epoch: int, skipped: Tensor | None = None) -> None:
        """Take a step into account.

        Args:
            step: its number in the run, from 0.
            step_of_epoch: its number in the epoch, from 0.
            skipped: on the device, 1 where the scaler has skipped it, else 0; None without one.
        """
        averaging = self.averaging
        if step_of_epoch % averaging.every:
            return
        first = 1.0 * (self.updates == 0)
        if averaging.warms_up:
            first = (1.0 + self.updates) ** -WARMUP_POWER
        if skipped is None:
            averages, current = map(list, zip(*self._floats, strict=True))
            torch._foreach_lerp_(averages, current, max(first, averaging.share))
            self.updates += 1
        else:
            # foreach takes no share that is a tensor: here it is one kernel for each tensor.
            share = first.clamp(min=averaging.share) * (1 - skipped)
            for average, value in self._floats:
                average.lerp_(value, share.to(average.dtype))
            self.updates += 1 - skipped
        _copy(self._others)
        if step < averaging.copies_until:
            self.updates = 0 * self.updates

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Give the network the averaged weights, and then back those of the training, bit for bit.

        All ranks get the main process's running statistics.
        """
        trained = [value.detach().clone() for value in self.current]
        _copy(zip(self.averages, self.current, strict=True))
        processes.share_buffers(self.model)
        try:
            yield
        finally:
            _copy(zip(trained, self.current, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return the average, by the names that the network's own state has, and its updates."""
        return {"model": self.named, "updates": int(self.updates)}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        for name, average in self.named.items():
            average.copy_(saved["model"][name])
        self.updates = saved["updates"] + 0 * self.updates


@torch.no_grad()
def _copy(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Copy the first tensor of each pair into the second."""
    for source, target in pairs:
        target.copy_(source)


def skipped_by(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> Tensor | None:
    """Return whether the scaler has skipped the step, as 1 or 0 on the device, without waiting.

    To be called between `scaler.step` and `scaler.update`; None for a scaler that is off.
    """
    if not scaler.is_enabled():
        return None
    return next(iter(scaler._found_inf_per_device(optimizer).values()))
