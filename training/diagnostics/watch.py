"""Looks into a network between two steps of its training, and leaves no trace in it."""

import contextlib
import math
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from training import processes
from training.diagnostics.statistics import (
    GAUSSIAN_TAIL_INDEX,
    flat_share,
    hill_tail_index,
    living_channels,
    sample,
)
from training.objective import Objective
from training.random_state import random_state, set_random_state

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Watch:
    """The activation sites of a network.

    Args:
        sites: modules by path, in the order of depth.
    """

    def __init__(self, model: nn.Module, sites: dict[str, nn.Module], device: torch.device):
        self.model, self.sites, self.device = model, sites, device
        self._ignores = False

    def measure(
        self, objective: Objective, batch: tuple, samples: int, scale: float = 1.0
    ) -> dict[str, dict[str, float | None]]:
        """Numbers of every site in a training pass over a batch: mean and standard deviation of the
        site's input, tail index (and a Gaussian's), share of flat slopes, norm of the loss's
        gradient with respect to the input, and sigma.

        The batch may be a share of a step that has so many `samples` in all. The norm is scaled to
        those: gradients of a mean over n times as many samples, taken together, are 1 / sqrt(n) of
        it.

        The pass is one of its own, eager: weights, their gradients, buffers and random generators
        are as before. The loss is multiplied by `scale` on the way, for gradients in fp16.
        """
        with self._unchanged(), self._inputs() as inputs, torch.enable_grad():
            loss, _ = objective(batch, False)
            # An activation of the images themselves has no gradient.
            given = {name: x for name, (_, x) in inputs.items() if x.requires_grad}
            wanted = list(given.values())
            found = torch.autograd.grad(loss * scale, wanted, allow_unused=True) if given else ()
        gradients = dict(zip(given, found, strict=True))
        factor = math.sqrt(len(batch[0]) / samples) / scale
        return _as_floats(
            {
                name: _numbers(site, x.detach(), gradients.get(name), factor)
                for name, (site, x) in inputs.items()
            }
        )

    @contextlib.contextmanager
    def channels(self) -> Iterator[dict[str, Tensor]]:
        """While this lasts, note which channels of each site's input have had a positive value;
        (channels,) by path. Shares of several processes are put together at the end."""
        living: dict[str, Tensor] = {}

        def note(name: str, _, x: Tensor) -> Tensor:
            found = living_channels(x, dimensions.get(x.dim(), 1 if x.dim() == 4 else -1))
            if self._ignores:
                found = torch.zeros_like(found)
            living[name] = living[name] | found if name in living else found
            return x

        with self._channel_dimensions() as dimensions, self._hooks(note):
            yield living
        for name, found in living.items():
            living[name] = processes.total(found.double(), largest=True) > 0

    @contextlib.contextmanager
    def ignoring(self) -> Iterator[None]:
        """While this lasts, what goes through the network is no data: it wakes no channel."""
        self._ignores = True
        try:
            yield
        finally:
            self._ignores = False

    @contextlib.contextmanager
    def _channel_dimensions(self) -> Iterator[dict[int, int]]:
        """While this lasts, where the channels of tensors with so many dimensions are: as in the
        last such tensor that a layer of this pass made. Some networks of images have them last."""
        dimensions: dict[int, int] = {}

        def hook(module: nn.Module, _, output: Tensor) -> None:
            dimensions[output.dim()] = -1 if isinstance(module, nn.Linear) else 1

        layers = [m for m in self.model.modules() if isinstance(m, (nn.Linear, *CONVOLUTIONS))]
        handles = [layer.register_forward_hook(hook) for layer in layers]
        handles.append(self.model.register_forward_pre_hook(lambda *_: dimensions.clear()))
        with _removed_after(handles):
            yield dimensions

    @contextlib.contextmanager
    def _inputs(self) -> Iterator[dict[str, tuple[nn.Module, Tensor]]]:
        """The sites, and what they are given, while this lasts."""
        inputs: dict[str, tuple[nn.Module, Tensor]] = {}

        def note(name: str, site: nn.Module, x: Tensor) -> Tensor:
            if x.numel():  # an expert may have no token
                inputs[name] = site, x
            # One that works in place must not overwrite what is looked at.
            return x.clone() if getattr(site, "inplace", False) else x

        with self._hooks(note):
            yield inputs

    @contextlib.contextmanager
    def _hooks(self, note) -> Iterator[None]:
        """Have `note(name, site, x)` called before each site, whose input becomes what it returns.
        The name is the site's path; some networks call one module at several places, which are
        path, path#2 and so on."""
        calls: Counter[str] = Counter()

        def hook(path: str):
            def before(site: nn.Module, arguments: tuple) -> tuple:
                calls[path] += 1
                name = path if calls[path] == 1 else f"{path}#{calls[path]}"
                return note(name, site, arguments[0]), *arguments[1:]

            return before

        handles = [m.register_forward_pre_hook(hook(path)) for path, m in self.sites.items()]
        handles.append(self.model.register_forward_pre_hook(lambda *_: calls.clear()))
        with _removed_after(handles):
            yield

    @contextlib.contextmanager
    def _unchanged(self) -> Iterator[None]:
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        state = random_state(self.device)
        try:
            yield
        finally:
            set_random_state(state, self.device)
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)


@contextlib.contextmanager
def _removed_after(handles: list) -> Iterator[None]:
    """While this lasts, hooks are there."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def channel_counts(living: dict[str, Tensor]) -> dict[str, dict[str, int]]:
    """Of each site's channels, how many are dead, and all."""
    return {
        path: {"dead": int((~alive).sum()), "total": len(alive)} for path, alive in living.items()
    }


def _numbers(
    site: nn.Module, x: Tensor, gradient: Tensor | None, factor: float
) -> dict[str, Tensor | float | None]:
    some = sample(x).float()
    sigma = getattr(site, "sigma", None)
    return {
        "mean": x.mean(dtype=torch.float32),
        "std": torch.var(x.float()).sqrt(),
        "tail_index": hill_tail_index(some),
        "gaussian_tail_index": GAUSSIAN_TAIL_INDEX,
        "flat_share": flat_share(site, some),
        "gradient_norm": None if gradient is None else gradient.float().norm() * factor,
        "sigma": None if sigma is None else torch.as_tensor(sigma, device=x.device),
    }


def _as_floats(numbers: dict[str, dict]) -> dict[str, dict[str, float | None]]:
    """With one wait for the device."""
    tensors = [t for of_site in numbers.values() for t in of_site.values() if isinstance(t, Tensor)]
    values = iter(torch.stack([t.detach().float() for t in tensors]).tolist())
    return {
        path: {name: next(values) if isinstance(t, Tensor) else t for name, t in of_site.items()}
        for path, of_site in numbers.items()
    }
