"""A command: compile the Triton kernels for GPUs that need not be there, and say what came out.

It reads cases from its argument, as JSON, and prints a line for each, as JSON.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from zilu.kernels import triton_kernels as K

DISASSEMBLER = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
KERNELS = {
    "value": K._value_kernel,
    "gradients": K._gradients_kernel,
    "total": K._total_kernel,
    "product": K._product_kernel,
    "product_gradients": K._product_gradients_kernel,
    "expanded": K._expanded_kernel,
    "expanded_gradients": K._expanded_gradients_kernel,
    "expanded_product": K._expanded_product_kernel,
    "expanded_product_gradients": K._expanded_product_gradients_kernel,
}
SIGMAS = ("fixed", "learned", "product")


def main() -> None:
    """Print the facts of each case."""
    for unit, dtype, kernel, sigma, capability in json.loads(sys.argv[1]):
        print(json.dumps(facts_of(unit, dtype, kernel, sigma, capability)), flush=True)


def facts_of(unit: str, dtype: str, kernel: str, sigma: str, capability: int) -> dict[str, Any]:
    """Compile a kernel; return instructions and accesses per block, and bytes of the stack."""
    function, learnable = KERNELS[kernel], SIGMAS.index(sigma)
    tensors = ("grad", "x", "y", "grad_x", "total", "a", "b", "grad_a", "grad_b")
    types = dict.fromkeys(tensors, f"*{dtype}")
    types |= dict.fromkeys(("alpha", "of_alpha", "of_sigma"), "*fp32")
    types["partials"] = "*fp32" if learnable else f"*{dtype}"
    types["sigma"] = "*fp32" if learnable else "fp32"
    types["second"] = "*fp32" if sigma == "product" else "fp32"
    types["n"] = "i64"
    block = K._TOTAL_BLOCK if kernel == "total" else K.BLOCK_BYTES // BYTES[dtype]
    constants = {
        "UNIT": unit,
        "SHORT": dtype != "fp32",
        "LEARNABLE": learnable,
        "BLOCK": block,
    }
    names = function.arg_names
    source = ASTSource(
        fn=function,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): v for name, v in constants.items() if name in names},
        attrs={
            (i,): [["tt.divisibility", 16]]
            for i, name in enumerate(names)
            if types.get(name, "").startswith("*")
        },
    )
    options = {"num_warps": K._WARPS, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    accesses = re.findall(r"(ld|st)\.global\S*\.v4\.b32", compiled.asm["ptx"])
    return facts(compiled.asm["cubin"]) | {
        "wide_loads": accesses.count("ld"),
        "wide_stores": accesses.count("st"),
    }


def facts(cubin: bytes) -> dict[str, int]:
    """Return how many instructions a compiled kernel has, and the bytes of a thread's stack.

    What does not fit into registers is spilled onto the stack, which other kernels do not need.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [DISASSEMBLER, "-sass", "-res-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    instructions = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", text, re.MULTILINE)
    (stack,) = re.findall(r"STACK:(\d+)", text)
    # The end is filled up with NOPs.
    return {
        "instructions": sum(name != "NOP" for name in instructions),
        "stack": int(stack),
    }


if __name__ == "__main__":
    main()
