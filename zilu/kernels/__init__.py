"""Choose how a gated unit is computed: by a fused operator, or with plain tensor operations.

| file | what it does |
|---|---|
| `operators.py` | completes the operators with second derivatives and the GPU's kernels |
| `operators.cpp`, `kernels.h` | declare the operators to torch |
| `cpu.cpp`, `gpu.cpp`, `units.h` | compute on CPUs; take CUDA tensors to Triton; the formulas |
| `triton_kernels.py` | computes on NVIDIA GPUs |
| `coefficients.py` | the polynomials of both |
| `build.py` | compiles the C++ files on first use, and keeps the library |

A fused operator is one compiled kernel that passes over memory once. The plain operations are those
of `zilu.reference`. The environment variable `ZILU_KERNELS` decides: `plain` never takes an
operator, `fused` always does, and `auto` (the default) takes whichever is faster:

- In eager mode, the operators, on CPUs (cpu.cpp) and NVIDIA GPUs (triton_kernels.py).
- Under torch.compile, plain operations, which Inductor fuses into their neighbours. Measured in
  compiled blocks on a CPU (MLP; convolution, norm, activation; fp32, bf16; each unit): as fast as
  the operator within 3 %, and after a norm backward keeps 24 MiB where it keeps 40 with the
  operator, whose input and output must both be saved. On a GPU, where fusing saves whole passes
  over memory, they are those of `zilu.compiled`.
- Without a compiler, on other devices, for fp64 and for subclasses of Tensor: plain operations.
"""

import textwrap
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from zilu.dynamo import not_traced
from zilu.names import kernel_mode

# Computes f(x) from x and sigma, or from x, sigma and rho.
Operator = Callable[..., Tensor]

_is_compiling = torch.compiler.is_compiling

_DTYPES = frozenset((torch.float32, torch.bfloat16, torch.float16))
# Other subclasses of Tensor (DTensor, fake tensors) only know how to run torch's own operations.
_TENSORS = frozenset((Tensor, torch.nn.Parameter))

MODE = kernel_mode()

# Whether there are operators for a dtype on a device.
_READY: dict[tuple[torch.device, torch.dtype], bool] = {}
# By unit: for a fixed sigma, for a learned one, and for sigma e^rho.
_OPERATORS: dict[str, tuple[Operator, ...]] = {}
# The same, by unit, index of the GPU and dtype, for those that are ready: in a single look-up.
ON_GPU: dict[tuple[str | None, int, torch.dtype], tuple[Operator, ...]] = {}


def operator(unit: str, x: Tensor, sigma: float | Tensor) -> Operator | None:
    """Return the operator that computes a gated unit of x and sigma, or None for plain operations.

    Args:
        unit: zilu, zilu_approx, gelu_s or silu_s.

    Raises:
        RuntimeError: ZILU_KERNELS=fused, but the operators cannot be built.
    """
    if MODE == "plain" or type(x) not in _TENSORS:
        return None
    compiling = _is_compiling()
    if MODE == "auto" and compiling:
        return None
    key = x.device, x.dtype
    # torch.compile keeps what _ready returns as a constant. Other calls save its time.
    ready = None if compiling else _READY.get(key)
    if ready is None:
        ready = _ready(*key)
    if not ready:
        return None
    if isinstance(sigma, float):
        return _OPERATORS[unit][0]
    assert isinstance(sigma, Tensor)
    return _OPERATORS[unit][1] if sigma.device == x.device else None


def backend(device: str, dtype: torch.dtype = torch.float32) -> str:
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
    if where.type == "cuda" and where.index is None:
        where = torch.device("cuda", torch.cuda.current_device())
    return "fused" if _ready(where, dtype) else "plain"


@not_traced
def _ready(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether there are operators; build, load and try them in the first call.

    A GPU's are tried for each dtype, because old ones may lack bf16: Triton 3.2, that of torch 2.6,
    cannot compile it for those before Ampere.
    """
    key = device, dtype
    if key not in _READY:
        _READY[key] = _find(device, dtype)
        if _READY[key] and device.type == "cuda":
            for unit, operators in _OPERATORS.items():
                # Without OpOverload's __call__, which takes half a microsecond and checks nothing.
                ON_GPU[unit, device.index, dtype] = tuple(
                    getattr(operator, "_op", operator) for operator in operators
                )
    return _READY[key]


def _find(device: torch.device, dtype: torch.dtype) -> bool:
    if device.type not in ("cpu", "cuda") or dtype not in _DTYPES:
        return False
    if device.type == "cpu" and dtype != torch.float32:
        return _ready(device, torch.float32)  # one build for all, and one warning
    return _load(device, dtype)


def _load(device: torch.device, dtype: torch.dtype) -> bool:
    from zilu.kernels import operators  # here, because it loads what only operators need

    try:
        _OPERATORS.update(operators.load(device.type))
        if device.type == "cuda":
            operators.try_on_gpu(device, dtype)
    except torch.OutOfMemoryError:
        raise  # the GPU can, once it has room
    except Exception as error:
        reason = textwrap.shorten(str(error), 300)
        where = f"this {device.type}" + f" for {dtype}" * (device.type == "cuda")
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
