"""The activation functions as modules; for torch.nn's own, see `zilu.registry`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zilu import functional
from zilu.names import check_sigma


class _SigmaModule(nn.Module):
    """A function of x and a sharpness sigma.

    Args:
        sigma: sharpness, a finite float above 0.
        learnable: make sigma a parameter, sigma = sigma0 * exp(rho) with rho = 0 at the start:
            positive by construction, and exactly `sigma` at first. `state_dict` then holds
            `sigma0` and `rho`; a fixed sigma adds no key.
        inplace: accepted because factories pass it, and ignored: backward needs the input.

    Shape: any; the output has the input's shape and dtype.

    Raises:
        ValueError: sigma is not a finite number above 0.
    """

    _function: Callable[[Tensor, float | Tensor], Tensor]
    sigma0: Tensor
    rho: nn.Parameter

    def __init__(self, sigma: float = 1.0, learnable: bool = False, inplace: bool = False) -> None:
        super().__init__()
        sigma = check_sigma(sigma)
        self.learnable = learnable
        if learnable:
            self._initial_sigma = sigma
            self.register_buffer("sigma0", torch.tensor(sigma))
            self.rho = nn.Parameter(torch.zeros(1))  # FSDP takes no parameters without dimensions
        else:
            self._fixed_sigma = sigma

    def reset_parameters(self) -> None:
        """Set a learnable sigma back to its start: after `to_empty`, which leaves it undefined."""
        if self.learnable:
            # By torch.nn.init, which transformers intercepts to spare what it has loaded.
            nn.init.constant_(self.sigma0, self._initial_sigma)
            nn.init.zeros_(self.rho)

    @property
    def sigma(self) -> float | Tensor:
        """The sharpness now: a float, or a one-element tensor with a gradient if learnable."""
        if not self.learnable:
            return self._fixed_sigma
        return self.sigma0 * self.rho.view(()).exp()

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}rho")
        if saved is not None and saved.dim() == 0:  # as it was saved before it had a dimension
            state_dict[f"{prefix}rho"] = saved.view(1)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, input: Tensor) -> Tensor:  # named as torch's own
        return type(self)._function(input, self.sigma)

    def extra_repr(self) -> str:
        sigma = self.sigma
        if not isinstance(sigma, Tensor):
            return f"sigma={sigma:g}"
        value = "?" if sigma.is_meta else f"{sigma.item():.6g}"
        return f"sigma={value}, learnable=True"


class ArcTan(_SigmaModule):
    """The arctan gate alone, 1/2 + arctan(sigma x) / pi; see `zilu.functional.arctan`."""

    _function = staticmethod(functional.arctan)


class ArcTan_Approx(_SigmaModule):
    """The approximate gate alone; see `zilu.functional.arctan_approx`."""

    _function = staticmethod(functional.arctan_approx)


class ZiLU(_SigmaModule):
    """x (1/2 + arctan(sigma x) / pi); see `zilu.functional.zilu`."""

    _function = staticmethod(functional.zilu)


class ZiLU_Approx(_SigmaModule):
    """x (1 + softsign(sigma x)) / 2; see `zilu.functional.zilu_approx`."""

    _function = staticmethod(functional.zilu_approx)


class GELU_s(_SigmaModule):
    """x Phi(sigma x); see `zilu.functional.gelu_s`."""

    _function = staticmethod(functional.gelu_s)


class SiLU_s(_SigmaModule):
    """x sigmoid(sigma x); see `zilu.functional.silu_s`."""

    _function = staticmethod(functional.silu_s)


class SquarePlus(nn.Module):
    """(x + sqrt(x^2 + 4)) / 2; see `zilu.functional.squareplus`."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.squareplus(input)
