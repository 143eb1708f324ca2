"""Make a run's activation: its factory, its kernels, and notes on flags that it has no use for."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn

from cli.config import Config
from cli.converters import arguments
from cli.network import ModelConfig
from models.activation import create_activation
from training import custom_activation
from utils import UserError
from zilu import kernels
from zilu.custom.activation import CustomActivation
from zilu.names import EXPANDED_NAMES, FUSED_NAMES


def factory(config: Config, custom: CustomActivation | None) -> Callable[[], nn.Module]:
    """Return the factory that makes each activation of the network.

    Args:
        config: the run's.
        custom: the user's own activation; None for one by name.
    """
    model = config.model
    make = functools.partial(
        create_activation,
        model.activation,
        model.sigma,
        model.learn_sigma,
        model.is_inplace,
        model.saved,
        expand_gate=model.expand_gate,
        args=arguments(model.activation_args),
    )
    return make if custom is None else custom_activation.factory(make, config.run.weights_seed)


def backend(
    config: ModelConfig,
    device: torch.device,
    amp_dtype: torch.dtype | None,
    make: Callable[[], nn.Module],
) -> str | None:
    """Return the backend of the activation outside torch.compile, `fused` or `plain`.

    It is None for an activation without kernels. Kernels that are missing are built now, before the
    first step is timed.

    Args:
        config: names the activation.
        device: the run's.
        amp_dtype: of mixed precision; None is full precision.
        make: the activation's factory.

    Raises:
        UserError: ZILU_KERNELS asks for kernels that are not available.
    """
    if config.activation not in (*FUSED_NAMES, *EXPANDED_NAMES):
        return None
    dtype = amp_dtype or torch.float32
    try:
        found = kernels.backend(str(device), dtype)
    except RuntimeError as error:
        raise UserError(str(error)) from None
    if device.type == "cuda":  # Triton compiles kernels at a call
        x = torch.zeros(16, dtype=dtype, device=device, requires_grad=True)
        written_over = x * 1  # autograd lets nothing work in place on a leaf
        make().to(device)(written_over).sum().backward()
    return found


def notes(config: ModelConfig, custom: CustomActivation | None) -> list[str]:
    """Return a line on each flag that the activation has no use for."""
    name, found = config.activation, []
    if config.sigma != 1 and not config.has_sigma:
        found.append(f"Note: {name} has no sigma; --sigma {config.sigma:g} is ignored")
    if custom and config.sigma == 1 and custom.own_sigma not in (None, 1):
        found.append(
            f"Note: {name} has sigma {custom.own_sigma:g} by itself; --sigma counts, which is 1"
        )
    if config.saved != config.save_for_backward:
        found.append(
            f"Note: {name} keeps what it always does for backward: only where a function increases "
            "everywhere does its output tell its slope"
        )
    takes_inplace = custom.takes("inplace") if custom else config.is_inplace
    if config.inplace and not takes_inplace:
        found.append(f"Note: {name} has no in-place form here; --inplace is ignored")
    return found
