"""Choose how a gated unit is computed: by a fused operator, or with plain tensor operations.

A fused operator is one compiled kernel that passes over memory once. The plain operations are those
of `zilu.reference`. The environment variable `ZILU_KERNELS` decides: `plain` never takes an
operator, `fused` always does, and `auto` (the default) takes whichever is faster:

- In eager mode, the operators, on CPUs (cpu.cpp) and NVIDIA GPUs (triton_kernels.py).
- Under torch.compile, plain operations, which Inductor fuses into their neighbours. Measured in
  compiled blocks on a CPU (MLP; convolution, norm, activation; fp32, bf16; each unit): as fast as
  the operator within 3 %, and after a norm backward keeps 24 MiB where it keeps 40 with the
  operator, whose input and output must both be saved. On a GPU fusing saves whole passes over
  memory (not measured).
- Without a compiler, on other devices, for fp64 and for subclasses of Tensor: plain operations.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from zilu.dynamo import not_traced
from zilu.names import kernel_mode

# Computes f(x) from x and sigma.
Operator = Callable[[Tensor, float | Tensor], Tensor]

_DTYPES = frozenset((torch.float32, torch.bfloat16, torch.float16))
# Other subclasses of Tensor (DTensor, fake tensors) only know how to run torch's own operations.
_TENSORS = frozenset((Tensor, torch.nn.Parameter))

MODE = kernel_mode()

_READY: dict[str, bool] = {}  # whether a type of device has operators
_OPERATORS: dict[str, tuple[Operator, Operator]] = {}  # by unit: for a fixed sigma, for a learned


def operator(unit: str, x: Tensor, sigma: float | Tensor) -> Operator | None:
    """Return the operator that computes a gated unit of x and sigma, or None for plain operations.

    Args:
        unit: zilu, zilu_approx, gelu_s or silu_s.

    Raises:
        RuntimeError: ZILU_KERNELS=fused, but the operators cannot be built.
    """
    if MODE == "plain" or type(x) not in _TENSORS or x.dtype not in _DTYPES:
        return None
    if MODE == "auto" and torch.compiler.is_compiling():
        return None
    learned = isinstance(sigma, Tensor)
    if isinstance(sigma, Tensor) and sigma.device != x.device:
        return None
    ready = _ready("cpu") if x.is_cpu else x.is_cuda and _ready("cuda")
    return _OPERATORS[unit][learned] if ready else None


def backend(device: str) -> str:
    """Return "fused" or "plain": how a type of device computes gated units in eager mode.

    The operators are built first, if they have not been.

    Raises:
        RuntimeError: ZILU_KERNELS=fused, but the operators cannot be built.
    """
    has_kernels = MODE != "plain" and device in ("cpu", "cuda")
    return "fused" if has_kernels and _ready(device) else "plain"


@not_traced
def _ready(device: str) -> bool:
    """Return whether a type of device has operators; build and load them in the first call."""
    if device not in _READY:
        _READY[device] = _load(device)
    return _READY[device]


def _load(device: str) -> bool:
    from zilu.kernels import operators  # here, because it loads what only operators need

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
