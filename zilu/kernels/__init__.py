"""The gated units as fused operators, and the choice between them and plain operations.

`ZILU_KERNELS` in the environment decides: `plain` never takes an operator, `fused` always does, and
`auto` (the default) takes what is faster:

- Eager, the operators, on CPUs (cpu.cpp) and NVIDIA GPUs (triton_kernels.py).
- Under torch.compile, plain operations, which Inductor fuses into their neighbours. Measured in
  compiled blocks on a CPU (MLP; convolution, norm, activation; fp32, bf16; each unit): as fast as
  the operator within 3 %, and after a norm backward keeps 24 MiB where it keeps 40 with the
  operator, whose input and output must both be saved. On a GPU fusing saves whole passes over
  memory (not measured).
- Without a compiler, on other devices, for fp64 and for subclasses of Tensor: plain operations.
"""

import warnings

import torch
from torch import Tensor

from zilu.names import kernel_mode

_DTYPES = frozenset((torch.float32, torch.bfloat16, torch.float16))
# Other subclasses (DTensor, fake tensors) know what to do with torch's operations only.
_TENSORS = frozenset((Tensor, torch.nn.Parameter))


MODE = kernel_mode()

_READY: dict[str, bool] = {}  # by kind of device
_OPERATORS: dict[str, tuple] = {}  # by unit: for a fixed sigma, for a learned one


def operator(unit: str, x: Tensor, sigma: float | Tensor):
    """The operator that computes `unit` of x and sigma; None for plain operations.

    Args:
        unit: zilu, zilu_approx, gelu_s or silu_s.

    Raises:
        RuntimeError: ZILU_KERNELS=fused, and there can be no operators.
    """
    if MODE == "plain" or type(x) not in _TENSORS or x.dtype not in _DTYPES:
        return None
    if MODE == "auto" and torch.compiler.is_compiling():
        return None
    learned = isinstance(sigma, Tensor)
    if learned and sigma.device != x.device:
        return None
    ready = _ready("cpu") if x.is_cpu else x.is_cuda and _ready("cuda")
    return _OPERATORS[unit][learned] if ready else None


def path(device: str) -> str:
    """`fused` or `plain`: how the units are computed in eager mode on a kind of device. Builds the
    operators if need be.

    Raises:
        RuntimeError: ZILU_KERNELS=fused, and there can be no operators.
    """
    has_kernels = MODE != "plain" and device in ("cpu", "cuda")
    return "fused" if has_kernels and _ready(device) else "plain"


def _ready(device: str) -> bool:
    """Whether a kind of device has operators; loads them when first asked, and builds them."""
    if device not in _READY:
        _READY[device] = _load(device)
    return _READY[device]


# torch.compile must not trace this but call it. (torch.compiler.assume_constant_result sets the
# same mark, and imports all of dynamo to do so.)
_ready._dynamo_marked_constant = True


def _load(device: str) -> bool:
    from zilu.kernels import operators

    try:
        _OPERATORS.update(operators.load(device))
    except Exception as error:
        reason = " ".join(str(error).split())
        if MODE == "fused":
            raise RuntimeError(f"ZILU_KERNELS=fused, but there are no kernels: {reason}") from None
        warnings.warn(
            f"zilu: no fused kernels on this {device} ({reason}); plain operations, several times "
            "slower, take their place. ZILU_KERNELS=plain hides this.",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True
