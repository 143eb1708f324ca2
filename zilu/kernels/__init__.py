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

import textwrap
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

_FLOAT32 = torch.float32

# Whether there are operators: by a type of device, its index, and a dtype.
_READY: dict[tuple[str, int, torch.dtype], bool] = {}
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
    if x.is_cuda:
        ready = _ready("cuda", x.get_device(), x.dtype)
    else:
        ready = x.is_cpu and _ready("cpu", 0, _FLOAT32)
    return _OPERATORS[unit][learned] if ready else None


def backend(device: str, dtype: torch.dtype = _FLOAT32) -> str:
    """Return "fused" or "plain": how a device computes gated units of a dtype in eager mode.

    The operators are built first, if they have not been.

    Args:
        device: as torch names it; "cuda" is the current one.

    Raises:
        RuntimeError: ZILU_KERNELS=fused, but the operators cannot be built.
    """
    where = torch.device(device)
    if MODE == "plain" or where.type not in ("cpu", "cuda"):
        return "plain"
    if where.type == "cpu":
        return "fused" if _ready("cpu", 0, _FLOAT32) else "plain"
    index = torch.cuda.current_device() if where.index is None else where.index
    return "fused" if _ready("cuda", index, dtype) else "plain"


@not_traced
def _ready(device: str, index: int, dtype: torch.dtype) -> bool:
    """Return whether there are operators; build, load and try them in the first call.

    A GPU's are tried for each dtype, because old ones may lack bf16: Triton 3.2, that of torch 2.6,
    cannot compile it for those before Ampere.
    """
    key = device, index, dtype
    if key not in _READY:
        _READY[key] = _load(*key)
    return _READY[key]


def _load(device: str, index: int, dtype: torch.dtype) -> bool:
    from zilu.kernels import operators  # here, because it loads what only operators need

    try:
        _OPERATORS.update(operators.load(device))
        if device == "cuda":
            operators.try_on_gpu(index, dtype)
    except Exception as error:
        reason = textwrap.shorten(str(error), 300)
        where = f"this {device}" + f" for {dtype}" * (device == "cuda")
        if MODE == "fused":
            raise RuntimeError(
                f"ZILU_KERNELS=fused, but there are no kernels on {where}: {reason}"
            ) from None
        warnings.warn(
            f"zilu: no fused kernels on {where} ({reason}); plain operations, several times "
            "slower, take their place. ZILU_KERNELS=plain hides this.",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True
