"""Test the fused operators against plain operations and float64, and in torch's transforms."""

import json
import math
import sys

import pytest
import torch
from helpers.torch_process import TorchProcess
from torch.utils.checkpoint import checkpoint

import zilu
from zilu import functional as F
from zilu import kernels, reference
from zilu.names import FUSED_NAMES

UNITS = {
    u.operator: u
    for u in (reference.ZILU, reference.ZILU_APPROX, reference.GELU_S, reference.SILU_S)
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

pytestmark = pytest.mark.skipif(
    kernels.backend("cpu") != "fused", reason="no fused kernels on this machine"
)
by_unit = pytest.mark.parametrize("name", UNITS)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
by_sigma = pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])


def sigma_of(learned: bool, value: float = 0.7):
    return torch.tensor(value, requires_grad=True) if learned else value


def operator(name: str, learned: bool):
    packet = getattr(torch.ops.zilu, name)
    return packet.learned if learned else packet.default


def backward_operator(name: str, learned: bool):
    return operator(f"{name}_backward", learned)


def run_with(mode: str, code: str, *flags: object) -> tuple[int, str, str]:
    """Return exit code, output and errors of a process in which torch alone is loaded."""
    process = TorchProcess(code, *flags, environment={"ZILU_KERNELS": mode})
    output, errors = process.communicate()
    return process.returncode, output, errors


def exact(name: str, x, sigma: float, grad):
    """Return value and gradients in float64, which test_functional.py checks against mpmath."""
    x = x.detach().double().requires_grad_()
    sigma = torch.tensor(sigma, dtype=torch.float64, requires_grad=True)
    y = getattr(F, name)(x, sigma)
    return y.detach(), *torch.autograd.grad(y, (x, sigma), grad.double())


def test_functions_take_the_operators():
    assert {name.lower() for name in FUSED_NAMES} == set(UNITS)
    x = torch.randn(5, requires_grad=True)
    for name in UNITS:
        assert "FixedFunction" in getattr(F, name)(x).grad_fn.name()
        assert "LearnedFunction" in getattr(F, name)(x, sigma_of(True)).grad_fn.name()


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(5, dtype=torch.float64),
        torch.randn(5).as_subclass(type("Own", (torch.Tensor,), {})),
    ],
    ids=["float64", "subclass"],
)
def test_functions_take_plain_operations(x):
    y = F.zilu(x.requires_grad_())
    assert type(y) is type(x)
    # torch gives a result the subclass by one more node of the graph.
    nodes = [y.grad_fn, *(node for node, _ in y.grad_fn.next_functions)]
    assert "Analytic" in str(nodes)
    assert "FixedFunction" not in str(nodes)


def kinds_of_operators():
    """Each unit and each kind of sigma in fp32, and one of each in the other dtypes."""
    for name in UNITS:
        for learned in (False, True):
            for dtype in DTYPES:
                marks = [] if dtype == torch.float32 else [pytest.mark.slow]
                yield pytest.param(name, learned, dtype, marks=marks)


@pytest.mark.parametrize(("name", "learned", "dtype"), kinds_of_operators())
def test_operators_are_well_made(name, learned, dtype):
    """Check schema, autograd registration, shapes for tracers, compiling with dynamic shapes."""
    x = torch.randn(3, 5, dtype=dtype, requires_grad=True)
    grad = torch.randn(3, 5, dtype=dtype, requires_grad=True)
    torch.library.opcheck(operator(name, learned), (x, sigma_of(learned)))
    torch.library.opcheck(backward_operator(name, learned), (grad, x, sigma_of(learned)))


# --- numbers ---


@by_unit
@by_dtype
@pytest.mark.parametrize("sigma", [1e-3, 0.5, 1.0, 1e3])
def test_fused_and_plain_agree(name, dtype, sigma):
    """Compare to a few ulp of the largest term; test_functional.py checks the tails."""
    x = (torch.randn(5000) * 3 / sigma).clamp(-6e4, 6e4).to(dtype)
    grad = torch.randn(5000).to(dtype)
    results = []
    for call in (operator(name, False), lambda x, s: reference.analytic(UNITS[name], x, s)):
        leaf = x.clone().requires_grad_()
        y = call(leaf, sigma)
        results.append((y.detach().float(), torch.autograd.grad(y, leaf, grad)[0].float()))
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(results[0][0], results[1][0], rtol=4 * eps, atol=4 * eps / sigma)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=4 * eps, atol=4 * eps)


@pytest.mark.parametrize(("name", "limit"), [("gelu_s", 7), ("silu_s", 4)])
@pytest.mark.parametrize("sigma", [1e-3, 0.5, 0.7, 1.253, 1e3])
def test_rivals_hold_their_tails(name, limit, sigma):
    """Check ulp down to the smallest normal number, where torch's own functions lose every digit.

    Slopes cross zero, so their error is measured in ulp of the larger of their two terms.
    """
    z = torch.linspace(-14, 14, 20_001) if name == "gelu_s" else torch.linspace(-95, 95, 20_001)
    x = (z / sigma).requires_grad_()
    want, wanted_slope, _ = exact(name, x, sigma, torch.ones_like(x))
    y = operator(name, False)(x, sigma)
    (slope,) = torch.autograd.grad(y.sum(), x)
    eps, tiny = torch.finfo(torch.float32).eps, torch.finfo(torch.float32).tiny
    ulp = eps * torch.exp2(want.abs().clamp(min=tiny).log2().floor())
    error = (y.detach().double() - want).abs() / ulp
    assert error[want.abs() >= tiny].max() <= limit
    gate = torch.where(x == 0, 0.5, want / x.detach().double())
    term = torch.maximum(wanted_slope.abs(), gate).clamp(min=tiny)
    assert ((slope.double() - wanted_slope).abs() / (eps * term)).max() <= 8


@by_unit
@by_dtype
@pytest.mark.parametrize("sigma", [1e-3, 0.7, 1e3])
@pytest.mark.parametrize("count", [1, 63, 64, 1000, 100_000])
def test_the_gradient_of_sigma_against_float64(name, dtype, sigma, count):
    x = (torch.randn(count) * 3 / sigma).clamp(-6e4, 6e4).to(dtype)
    grad = torch.randn(count).to(dtype)
    learned = torch.tensor(sigma, requires_grad=True)
    got = torch.autograd.grad(getattr(F, name)(x, learned), learned, grad)[0].item()
    # Each term is off by a few ulp of fp32, or by 2^-16 with the short polynomials, and df/dsigma
    # has one sign. So this bounds the sum's error however much cancels in it.
    tolerance = 1e-6 if dtype == torch.float32 else 4e-5
    _, _, want = exact(name, x, learned.item(), grad)
    _, _, size = exact(name, x, learned.item(), grad.abs())
    assert abs(got - want.item()) <= tolerance * size.item()


@by_unit
@by_dtype
def test_finite_for_every_number(name, dtype):
    """Take all finite fp16 and bf16 numbers, and as many of fp32; sum sigma's gradient in parts."""
    bits = torch.arange(-(2**15), 2**15)
    if dtype == torch.float32:
        x = (bits * 2**16 + 12345).to(torch.int32).view(dtype)
    else:
        x = bits.to(torch.int16).view(dtype)
    x = x[x.isfinite()]
    for sigma in (1e-3, 1.0, 1e3):
        y = operator(name, False)(x, sigma)
        slope = backward_operator(name, False)(torch.ones_like(x), x, sigma)
        assert y.isfinite().all()
        assert slope.isfinite().all()
        learned = torch.tensor(sigma)
        for part in x.split(64):
            _, by_sigma = backward_operator(name, True)(torch.ones_like(part), part, learned)
            assert by_sigma.isfinite()


@by_unit
@by_dtype
def test_nan_and_infinity(name, dtype):
    x = torch.tensor([math.nan, math.inf, -math.inf], dtype=dtype)
    y = operator(name, False)(x, 1.0)
    slope = backward_operator(name, False)(torch.ones_like(x), x, 1.0)
    limit = {"zilu": -1 / math.pi, "zilu_approx": -0.5}.get(name, 0.0)
    assert y[0].isnan()
    assert slope[0].isnan()
    assert y[1] == math.inf
    assert y[2].item() == pytest.approx(limit, rel=4e-3)
    assert slope[1:].tolist() == [1, 0]


@by_unit
@by_sigma
def test_second_derivatives(name, learned):
    """Compare those in fp32 with those of plain operations in float64."""
    grads = []
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([-3.0, -1.1, -0.4, 0.3, 0.9, 2.5], dtype=dtype, requires_grad=True)
        sigma = torch.tensor(0.7, dtype=dtype, requires_grad=True) if learned else 0.7
        inputs = (x, sigma) if learned else (x,)
        first = torch.autograd.grad(
            getattr(F, name)(x, sigma).sin().sum(), inputs, create_graph=True
        )
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        grads.append([g.double() for g in (*first, *second)])
    torch.testing.assert_close(grads[0], grads[1], rtol=2e-5, atol=2e-6)


@by_unit
def test_second_derivatives_of_a_product(name):
    """Differentiate the gradients for x and rho, as GPUs' operators give them, in float64."""
    x = torch.tensor([-3.0, -1.1, -0.4, 0.3, 2.5], dtype=torch.float64, requires_grad=True)
    grad = torch.linspace(-1, 1, 5, dtype=torch.float64)
    rho = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    sigma = torch.tensor(0.7, dtype=torch.float64)
    got = getattr(torch.ops.zilu, f"{name}_backward").product(grad, x, sigma, rho)
    y = getattr(F, name)(x, sigma * rho.view(()).exp())
    want = torch.autograd.grad(y, (x, rho), grad, create_graph=True)
    for firsts in (got, want):
        assert firsts[1].shape == (1,)
    torch.testing.assert_close(got, want)
    seconds = [
        torch.autograd.grad(sum(each.square().sum() for each in firsts), (x, rho))
        for firsts in (got, want)
    ]
    torch.testing.assert_close(*seconds)


# --- layouts, sizes, threads ---

LAYOUTS = {
    "contiguous": lambda: torch.randn(6, 8, 10, 12),
    "channels_last": lambda: torch.randn(6, 8, 10, 12).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(300, 70).t(),
    "rows": lambda: torch.randn(70, 600)[:, ::2],
    "half of each row": lambda: torch.randn(9, 1000)[:, 300:600],
    "narrow rows": lambda: torch.randn(500, 9)[:, :5],
    "unaligned": lambda: torch.randn(10_001)[1:],
    "expanded": lambda: torch.randn(1, 300).expand(20, 300),
    "scalar": lambda: torch.randn(()),
    "empty": lambda: torch.randn(3, 0, 2),
}


@by_unit
@by_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(name, dtype, layout):
    """Expect a dense copy's numbers bit for bit, with the strides of torch's own functions."""
    x = LAYOUTS[layout]().to(dtype)
    dense = x.contiguous()
    y = operator(name, False)(x, 0.7)
    assert y.stride() == torch.nn.functional.silu(x).stride()
    assert torch.equal(y, operator(name, False)(dense, 0.7))
    ones = torch.ones((), dtype=dtype).expand(x.shape)  # the gradient that sum() sends back
    for grad in (torch.randn(x.shape).to(dtype), torch.randn_like(x), ones):
        got = backward_operator(name, False)(grad, x, 0.7)
        want = backward_operator(name, False)(grad.contiguous(), dense, 0.7)
        assert torch.equal(got, want)
        got, by_sigma = backward_operator(name, True)(grad, x, torch.tensor(0.7))
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(got, want, rtol=4 * eps, atol=4 * eps)
        _, dense_by_sigma = backward_operator(name, True)(
            grad.contiguous(), dense, torch.tensor(0.7)
        )
        torch.testing.assert_close(by_sigma, dense_by_sigma, rtol=1e-5, atol=1e-4)


@by_unit
@pytest.mark.parametrize("count", [100, 32_768, 200_003, 5_000_001])
def test_results_do_not_depend_on_the_number_of_threads(name, count):
    x, grad = torch.randn(count), torch.randn(count)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = operator(name, False)(x, 0.7)
            results.append((y, *backward_operator(name, True)(grad, x, torch.tensor(0.7))))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@by_dtype
def test_neighbours_do_not_matter(dtype):
    """Expect one result for an element wherever it is: streamed, in a whole group, or padded."""
    numbers = torch.randn(77).to(dtype)
    for count in (1, 64, 77, 1000, 4_000_000):
        x = numbers.repeat(count // 77 + 1)[:count].clone()
        for name in UNITS:
            y = operator(name, False)(x, 0.7)
            want = operator(name, False)(numbers, 0.7).repeat(count // 77 + 1)[:count]
            assert torch.equal(y, want)


@pytest.mark.slow
def test_more_than_two_to_the_31_elements():
    count = 2**31 + 100
    x = torch.zeros(count, dtype=torch.bfloat16)
    x[-1] = 3
    y = F.zilu_approx(x, 0.5)
    assert y[-1].item() == F.zilu_approx(x[-1:], 0.5).item() != 0
    del y
    grad = torch.ones((), dtype=torch.bfloat16).expand(count)
    slope, by_sigma = torch.ops.zilu.zilu_approx_backward.learned(grad, x, torch.tensor(0.5))
    assert slope[0] == 0.5
    assert slope[-1] > 0.9
    assert by_sigma.item() == pytest.approx(0.5 * (3 / 2.5) ** 2, rel=1e-4)


def test_wrong_gradients_are_refused():
    x = torch.randn(4)
    with pytest.raises(ValueError, match="the gradient must have the input's shape and dtype"):
        torch.ops.zilu.zilu_backward(torch.randn(3), x, 1.0)
    with pytest.raises(TypeError, match="float32, bfloat16 or float16"):
        torch.ops.zilu.zilu(x.double(), 1.0)


# --- what torch does to operators ---


@pytest.fixture
def forced(monkeypatch):
    """Set ZILU_KERNELS=fused, which uses the operators under torch.compile too."""
    torch._dynamo.reset()
    monkeypatch.setattr(kernels, "MODE", "fused")
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@by_unit
@by_sigma
def test_compiled_operators_equal_eager_ones(name, learned, forced):
    def call(x, sigma):
        return getattr(F, name)(x * 2, sigma).square().sum()

    graphs = []

    def backend(module, inputs):
        graphs.append(module)
        return module

    x = torch.randn(33, 65, requires_grad=True)
    sigma = sigma_of(learned)
    inputs = (x, sigma) if learned else (x,)
    want = torch.autograd.grad(call(x, sigma), inputs)
    for how in ({}, {"dynamic": True}, {"backend": backend}):
        compiled = torch.compile(call, fullgraph=True, **how)
        torch.testing.assert_close(torch.autograd.grad(compiled(x, sigma), inputs), want)
    if not hasattr(torch.compiler, "_is_exporting_flag"):
        return  # torch 2.6 cannot tell compiling from exporting, which needs plain operations
    targets = [node.target for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert operator(name, learned) in targets


def test_the_first_use_may_be_compiled(tmp_path):
    """Trace a call with dynamo before anything has loaded the operators."""
    code = """
import torch
from zilu import functional as F
x = torch.randn(100, requires_grad=True)
y = torch.compile(F.zilu, fullgraph=True, backend="aot_eager")(x, 0.5)
y.sum().backward()
assert torch.allclose(y, F.zilu(x, 0.5))
"""
    for mode in ("auto", "fused"):
        status, _, errors = run_with(mode, code)
        assert status == 0, errors


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant):
    layer = torch.nn.Sequential(torch.nn.Linear(8, 8), zilu.ZiLU(0.5, learnable=True))
    x = torch.randn(4, 8, requires_grad=True)
    wanted = (x, *layer.parameters())
    want = torch.autograd.grad(layer(x).square().sum(), wanted)
    checkpoint(layer, x, use_reentrant=reentrant).square().sum().backward()
    for parameter, gradient in zip(wanted, want, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_keeps_the_operator_and_the_dtype(dtype):
    layer = torch.nn.Linear(8, 8)
    with torch.autocast("cpu", dtype):
        y = F.zilu(layer(torch.randn(2, 8)))
    assert y.dtype == dtype
    assert "FixedFunction" in y.grad_fn.name()


def test_distributed_data_parallel(tmp_path):
    """Compare gradients of a wrapped network, with sigma's, in a group of one process."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1
    )
    try:
        network = torch.nn.Sequential(torch.nn.Linear(8, 8), zilu.ZiLU(0.5, learnable=True))
        x = torch.randn(4, 8)
        want = torch.autograd.grad(network(x).square().sum(), list(network.parameters()))
        wrapped = torch.nn.parallel.DistributedDataParallel(network)
        wrapped(x).square().sum().backward()
        for parameter, gradient in zip(network.parameters(), want, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)
    finally:
        torch.distributed.destroy_process_group()


def test_subnormal_numbers_survive_in_the_process():
    """Check that the build sets no flushing to zero in the process, as -ffast-math would."""
    F.zilu(torch.randn(4))
    tiny = torch.tensor(1e-40)
    assert (tiny * 0.5).item() > 0
    assert float.fromhex("0x0.0000000000001p-1022") > 0
    assert F.zilu(tiny).item() == pytest.approx(5e-41, rel=1e-4)


def test_torchs_own_threads_are_the_only_ones():
    """Check that there is one OpenMP: a second one would compete with torch's for processors."""
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    code = """
import torch
from zilu import functional as F
torch.set_num_threads(2)
F.zilu(torch.randn(2**20))
F.gelu_s(torch.randn(2**20, requires_grad=True), torch.tensor(1.0)).sum().backward()
files = {line.split()[-1] for line in open("/proc/self/maps")}
print(sum("omp" in name.rsplit("/", 1)[-1] and ".so" in name for name in files))
"""
    assert run_with("auto", code)[1].strip() == "1"


# --- the choice ---


def test_the_mode_decides():
    code = """
import torch
from zilu import functional as F, kernels
print(kernels.backend("cpu"), F.zilu(torch.randn(3, requires_grad=True)).grad_fn)
"""
    _, plain, _ = run_with("plain", code)
    assert plain.startswith("plain")
    assert "Analytic" in plain
    for mode in ("auto", "fused"):
        _, output, _ = run_with(mode, code)
        assert output.startswith("fused")
        assert "Analytic" not in output
    _, _, errors = run_with("fast", code)
    assert "ZILU_KERNELS=fast: must be one of auto, plain, fused" in errors


def test_a_program_says_its_backend_and_refuses_an_unknown_mode(run_loaded, tmp_path):
    flags = ("--dataset", "digits", "--model", "resnet20", "--max_steps", "1", "--resize", "8")
    for mode, backend in (("auto", "fused"), ("plain", "plain")):
        folder = tmp_path / mode
        run = run_loaded(
            "vision_main.py", *flags, "--output_dir", folder, "--device", "cpu", ZILU_KERNELS=mode
        )
        assert run.returncode == 0, run.stderr
        assert f"kernels: {backend}" in (folder / "args.txt").read_text()
    folder = tmp_path / "no"
    for program in (
        ("vision_main.py", *flags),
        ("vision_main.py", *flags, "--test_only"),
        ("benchmark.py",),
    ):
        run = run_loaded(*program, "--output_dir", folder, ZILU_KERNELS="fast")
        assert run.returncode == 2
        assert run.stderr == "error: ZILU_KERNELS=fast: must be one of auto, plain, fused\n"
        assert not folder.exists()


@pytest.mark.slow
def test_training_follows_the_same_curve(run_loaded, tmp_path):
    """Train ResNet-20 for three epochs: only the backends' rounding differs."""
    flags = ("--dataset", "digits", "--model", "resnet20", "--num_epochs", "3", "--lr", "0.001")
    losses = []
    for mode in ("plain", "fused"):
        run = run_loaded(
            "vision_main.py", *flags, "--batch_size", "64", "--device", "cpu",
            "--output_dir", tmp_path / mode, ZILU_KERNELS=mode,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        lines = (tmp_path / mode / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        losses.append([record["train"]["loss"] for record in records if "epoch" in record])
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
