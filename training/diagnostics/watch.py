"""Look into a network between two steps of its training, and leave no trace in it."""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from training import processes, sharding
from training.diagnostics.statistics import (
    GAUSSIAN_TAIL_INDEX,
    flat_share,
    hill_of_largest,
    hill_tail_index,
    living_channels,
    sample,
)
from training.objective import Objective
from training.random_state import random_state, set_random_state
from training.recompute import kept
from zilu.custom.activation import is_custom, sigma_of

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Watch:
    """Look at the activation sites of a network.

    Args:
        model: the network.
        sites: its activations by path, in the order of depth.
        device: where the network is.
    """

    def __init__(self, model: nn.Module, sites: dict[str, nn.Module], device: torch.device):
        self.model, self.sites, self.device = model, sites, device

    def measure(
        self, objective: Objective, batch: tuple, samples: int, scale: float = 1.0
    ) -> dict[str, dict[str, float | None]]:
        """Return numbers of every site in a training pass over a batch.

        They are mean and standard deviation of the site's input, tail index (and a Gaussian's, and
        the paper's), share of flat slopes, norm of the loss's gradient with respect to the input,
        sigma and alpha.

        The pass is an extra one, and eager: weights, their gradients, buffers and random
        generators are as before.

        Args:
            objective: the network with its task.
            batch: it may be a share of a step.
            samples: of the whole step. The gradient's norm is scaled to those: gradients of a mean
                over n times as many samples, taken together, are 1 / sqrt(n) of it.
            scale: what the loss is multiplied by on the way, for gradients in fp16.
        """
        with self._unchanged(), kept(), self._inputs() as inputs, torch.enable_grad():
            loss, _ = objective(batch, False)
            # An activation of the images themselves has no gradient.
            given = {name: x for name, (_, x) in inputs.items() if x.requires_grad}
            wanted = list(given.values())
            found = torch.autograd.grad(loss * scale, wanted, allow_unused=True) if given else ()
        gradients = dict(zip(given, found, strict=True))
        factor = math.sqrt(len(batch[0]) / samples) / scale
        # Slopes are taken by calling the activations, which may draw numbers or count their calls.
        with self._unchanged(), sharding.whole_activations(self.model):
            return _as_floats(
                {
                    name: _numbers(site, x.detach(), gradients.get(name), factor)
                    for name, (site, x) in inputs.items()
                }
            )

    @contextlib.contextmanager
    def channels(self, has_data: Callable[[], bool] = lambda: True) -> Iterator[dict[str, Tensor]]:
        """Note inside the block which channels of each site's input have had a positive value.

        Gives a dictionary from path to (channels,), bool. At the end of the block it holds what
        all processes have seen.

        Args:
            has_data: returns False while a pass is over no data, which wakes no channel.
        """
        living: dict[str, Tensor] = {}

        def note(name: str, _: nn.Module, x: Tensor) -> Tensor:
            found = living_channels(x, dimensions.get(x.dim(), 1 if x.dim() == 4 else -1))
            if not has_data():
                found = torch.zeros_like(found)
            living[name] = living[name] | found if name in living else found
            return x

        with self._channel_dimensions() as dimensions, self._hooks(note):
            yield living
        for name, found in living.items():
            living[name] = processes.total(found.float(), largest=True) > 0

    @contextlib.contextmanager
    def _channel_dimensions(self) -> Iterator[dict[int, int]]:
        """Give the place of the channels in tensors of so many dimensions, inside the block.

        It is the place in the last such tensor that a layer of this pass made: some networks of
        images have their channels last.
        """
        dimensions: dict[int, int] = {}

        def hook(module: nn.Module, _: object, output: Tensor) -> None:
            dimensions[output.dim()] = -1 if isinstance(module, nn.Linear) else 1

        layers = [m for m in self.model.modules() if isinstance(m, (nn.Linear, *CONVOLUTIONS))]
        handles = [layer.register_forward_hook(hook) for layer in layers]
        handles.append(self.model.register_forward_pre_hook(lambda *_: dimensions.clear()))
        with _removed_after(handles):
            yield dimensions

    @contextlib.contextmanager
    def _inputs(self) -> Iterator[dict[str, tuple[nn.Module, Tensor]]]:
        """Give the sites and their inputs, inside the block."""
        inputs: dict[str, tuple[nn.Module, Tensor]] = {}

        def note(name: str, site: nn.Module, x: Tensor) -> Tensor:
            if x.numel():  # an expert may have no token
                inputs[name] = site, x
            # An activation that works in place must not overwrite what is looked at.
            return x.clone() if getattr(site, "inplace", False) else x

        with self._hooks(note):
            yield inputs

    @contextlib.contextmanager
    def _hooks(self, note: Callable[[str, nn.Module, Tensor], Tensor]) -> Iterator[None]:
        """Call `note(name, site, x)` before each site, whose input becomes what it returns.

        The name is the site's path; some networks call one module at several places, which are
        path, path#2 and so on.
        """
        calls: Counter[str] = Counter()

        def hook(path: str) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
            def before(site: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
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
def _removed_after(handles: list[Any]) -> Iterator[None]:
    """Remove hooks at the end of the block."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def channel_counts(living: dict[str, Tensor]) -> dict[str, dict[str, int]]:
    """Return how many of each site's channels are dead, and how many it has."""
    return {
        path: {"dead": int((~alive).sum()), "total": len(alive)} for path, alive in living.items()
    }


def _numbers(
    site: nn.Module, x: Tensor, gradient: Tensor | None, factor: float
) -> dict[str, Tensor | float | None]:
    some = sample(x).float()
    sigma = sigma_of(site)
    return {
        "mean": x.mean(dtype=torch.float32),
        "std": torch.var(x.float()).sqrt(),
        "tail_index": hill_tail_index(some),
        "gaussian_tail_index": GAUSSIAN_TAIL_INDEX,
        "tail_index_100": hill_of_largest(x.float()),
        # One's own may have a number for each channel, or mix elements: it gets the whole input.
        "flat_share": flat_share(site, x.float() if is_custom(site) else some),
        "gradient_norm": None if gradient is None else gradient.float().norm() * factor,
        "sigma": None if sigma is None else torch.as_tensor(sigma, device=x.device),
        "alpha": _trained_alpha(site),
    }


def _trained_alpha(site: nn.Module) -> Tensor | None:
    is_expanded = getattr(site, "expand_gate", False) and not is_custom(site)
    alpha = getattr(site, "alpha", None) if is_expanded else None
    return alpha.reshape(()) if isinstance(alpha, Tensor) else None


def _as_floats(numbers: dict[str, dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Return the tensors as floats, with one wait for the device."""
    tensors = [t for of_site in numbers.values() for t in of_site.values() if isinstance(t, Tensor)]
    values = iter(torch.stack([t.detach().float() for t in tensors]).tolist())
    return {
        path: {name: next(values) if isinstance(t, Tensor) else t for name, t in of_site.items()}
        for path, of_site in numbers.items()
    }
