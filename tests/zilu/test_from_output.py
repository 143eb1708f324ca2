"""Gradients from the output: their digits, their limits, what is kept, and working in place."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import zilu
from benchmarks.timing import saved_bytes
from zilu import functional as F
from zilu import kernels, reference
from zilu.names import GATED_NAMES, OUTPUT_NAMES

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SIGMAS = [0.1, 0.5, 1.0, 1.253, 5.0]
UNITS = {
    "zilu": (reference.ZILU, reference.ZILU_FROM_OUTPUT),
    "zilu_approx": (reference.ZILU_APPROX, reference.ZILU_APPROX_FROM_OUTPUT),
}
by_unit = pytest.mark.parametrize("name", UNITS)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
by_sigma = pytest.mark.parametrize("sigma", SIGMAS)
by_path = pytest.mark.parametrize("path", ["fused", "plain"])


@pytest.fixture
def compute(path, monkeypatch):
    """Return value and gradients from the output, by the kernels or by plain operations."""
    if path == "fused" and kernels.backend("cpu") != "fused":
        pytest.skip("no fused kernels on this machine")
    monkeypatch.setattr(kernels, "MODE", "auto" if path == "fused" else "plain")

    def compute(name, x, sigma, grad, save="output"):
        x = x.detach().requires_grad_()
        inputs = (x, sigma) if isinstance(sigma, torch.Tensor) else (x,)
        y = getattr(F, name)(x, sigma, save=save)
        return y.detach(), *torch.autograd.grad(y, inputs, grad)

    return compute


def exact(name, x, sigma):
    """Return slope and sigma's slope at the true x, in float64."""
    formulas, _ = UNITS[name]
    return formulas.slope(x.double(), sigma), formulas.sigma_slope(x.double(), sigma)


def numbers(dtype):
    """Return numbers of all sizes, and those around 0 densely."""
    sizes = torch.logspace(-30, 30, 2001, dtype=torch.float64)
    x = torch.cat([-sizes, torch.linspace(-40, 40, 40001, dtype=torch.float64), sizes]).to(dtype)
    return x[x.isfinite()]


# --- digits ---


@by_path
@by_unit
@by_sigma
def test_slopes_in_fp32(path, name, sigma, compute):
    x = numbers(torch.float32)
    y, slope = compute(name, x, sigma, torch.ones_like(x))
    assert torch.equal(y, compute(name, x, sigma, torch.ones_like(x), save="input")[0])
    limit = 1e-6 if name == "zilu" else 3e-7
    assert (slope.double() - exact(name, x, sigma)[0]).abs().max() <= limit


@by_path
@by_unit
@by_sigma
@by_dtype
def test_gradients_of_normal_numbers(path, name, sigma, dtype, compute):
    """Compare root mean squares: a gradient in 16 bits is rounded itself, by as much."""
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, 100_000, generator=generator).to(dtype)
    want, by_sigma = exact(name, x, sigma)
    learned = torch.tensor(sigma, dtype=torch.float64, requires_grad=True)
    _, grad_x, grad_sigma = compute(name, x, learned, grad)
    _, from_input, _ = compute(name, x, learned, grad, save="input")

    def error(found):
        return ((found.double() - grad.double() * want).square().mean().sqrt()).item()

    scale = (grad.double() * want).square().mean().sqrt().item()
    rounding = torch.finfo(dtype).eps / 4
    assert error(grad_x) <= max(1.25 * error(from_input), rounding * scale / 2, 2e-7 * scale)
    terms = grad.double() * by_sigma
    # The rounding of y, which is kept, is in each term.
    limit = max(1e-6, torch.finfo(dtype).eps)
    assert abs(grad_sigma.item() - terms.sum().item()) <= limit * terms.abs().sum().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_squareplus(dtype):
    x = numbers(dtype).requires_grad_()
    y = F.squareplus(x, save="output")
    assert torch.equal(y, F.squareplus(x))
    (slope,) = torch.autograd.grad(y, x, torch.ones_like(y))
    wide = x.detach().double()
    want = (1 + wide / (wide.square() + 4).sqrt()) / 2
    assert (slope.double() - want).abs().max() <= (3e-7 if dtype == torch.float32 else 5e-3)


@by_unit
def test_fp64_keeps_the_input(name):
    x = torch.randn(7, dtype=torch.float64, requires_grad=True)
    sigma = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    function = getattr(F, name)
    assert torch.autograd.gradcheck(lambda *a: function(*a, save="output"), (x, sigma))
    assert torch.autograd.gradgradcheck(lambda *a: function(*a, save="output"), (x, sigma))


# --- limits ---


@by_path
@by_unit
@by_dtype
@pytest.mark.parametrize("sigma", [1e-30, 1e-3, 1.0, 1e3, 1e30])
def test_finite_for_every_finite_input(path, name, dtype, sigma, compute):
    info = torch.finfo(dtype)
    sizes = [0.0, info.smallest_normal / 2, info.tiny, 1e-3, 1.0, 1e3, info.max / 2, info.max]
    x = torch.tensor([*sizes, *(-size for size in sizes)], dtype=dtype)
    for number in x:
        learned = torch.tensor(sigma, requires_grad=True)
        y, slope, by_sigma = compute(name, number, learned, torch.ones_like(number))
        assert y.isfinite()
        assert 0 <= slope <= 1
        assert by_sigma.isfinite()


@by_path
@by_unit
@by_dtype
def test_infinity_and_nan(path, name, dtype, compute):
    x = torch.tensor([-math.inf, math.inf, math.nan], dtype=dtype)
    _, slope = compute(name, x, 0.7, torch.ones_like(x))
    assert slope[1] == 1
    assert slope[2].isnan()
    # The limit's rounding leaves the slope there a constant, at most 3e-4 in 16 bits.
    assert 0 <= slope[0] <= 3e-4
    learned = torch.tensor(0.7, requires_grad=True)
    assert compute(name, x[2:], learned, torch.ones_like(x[2:]))[2].isnan()
    assert compute(name, x[:2], learned, torch.ones_like(x[:2]))[2].isfinite()


# --- derivatives of derivatives, transforms ---


@by_path
@by_unit
def test_second_derivatives(path, name, compute):
    x = torch.linspace(-6, 6, 50).requires_grad_()
    results = []
    for save in ("input", "output"):
        sigma = torch.tensor(0.7, requires_grad=True)
        y = getattr(F, name)(x, sigma, save=save)
        first = torch.autograd.grad(y.square().sum(), (x, sigma), create_graph=True)
        loss = first[0].square().sum() + first[1]
        results.append(torch.autograd.grad(loss, (x, sigma)))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-4, atol=2e-4)


@by_unit
@pytest.mark.parametrize("inplace", [False, True])
def test_transforms(name, inplace):
    function = getattr(F, name)
    x = torch.linspace(-3, 3, 20)

    def unit(x):
        return function(x * 1, 0.7, save="output", inplace=inplace)

    plain = lambda x: function(x, 0.7)  # noqa: E731
    gradient = torch.func.grad(lambda x: unit(x).sum())(x)
    torch.testing.assert_close(gradient, torch.func.grad(lambda x: plain(x).sum())(x))
    mine, theirs = (torch.func.jvp(f, (x,), (torch.ones_like(x),)) for f in (unit, plain))
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(torch.vmap(unit)(x.view(4, 5)), plain(x).view(4, 5))
    torch.compiler.reset()
    compiled = torch.compile(unit, fullgraph=True, backend="aot_eager")
    x.requires_grad_()
    torch.testing.assert_close(compiled(x), plain(x))
    found, wanted = (torch.autograd.grad(f(x).sum(), x)[0] for f in (compiled, plain))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", OUTPUT_NAMES)
def test_a_module_is_exported_scripted_copied_and_pickled(name):
    model = nn.Sequential(
        nn.Linear(3, 4), zilu.create_activation(name, inplace=True, save="output")
    )
    x = torch.randn(2, 3)
    wanted = model(x)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), wanted)
    torch.testing.assert_close(torch.jit.script(model)(x), wanted)
    for again in (copy.deepcopy(model), torch.load(saved(model), weights_only=False)):
        assert (again[1].save, again[1].inplace) == ("output", True)
        assert torch.equal(again(x), wanted)
    assert "save=output, inplace=True" in repr(model)


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return file


@pytest.mark.skipif(kernels.backend("cpu") != "fused", reason="no fused kernels here")
@by_unit
@pytest.mark.parametrize("learned", [False, True])
def test_operators_are_well_made(name, learned):
    x, grad = torch.randn(2, 3, 5).requires_grad_()
    sigma = torch.tensor(0.7, requires_grad=True) if learned else 0.7
    kind = "learned" if learned else "default"
    forward = getattr(getattr(torch.ops.zilu, f"{name}_from_output"), kind)
    backward = getattr(getattr(torch.ops.zilu, f"{name}_from_output_backward"), kind)
    inplace = getattr(getattr(torch.ops.zilu, f"{name}_from_output_"), kind)
    torch.library.opcheck(forward, (x, sigma))
    torch.library.opcheck(backward, (grad, x, sigma))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(inplace, (x.detach().clone(), sigma), test_utils=checks)


# --- memory ---


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("name", OUTPUT_NAMES)
def test_it_keeps_as_much_as_relu(name, learnable):
    if learnable and name == "SquarePlus":
        pytest.skip("it has no sigma")
    size = 64 * 128 * 4

    def kept(activation, *others):
        model = nn.Sequential(nn.Linear(128, 128), activation, *others, nn.Linear(128, 128))
        x = torch.randn(64, 128)
        return saved_bytes(lambda: model(x), (*model.parameters(), *model.buffers(), x)) // size

    def made(**options):
        return zilu.create_activation(name, learnable=learnable, **options)

    assert kept(nn.ReLU()) == kept(made(save="output")) == 1
    assert kept(made(save="output", inplace=True)) == 1
    assert kept(made()) >= 2
    # Where what follows does not keep it, no more is kept than with the input.
    frozen = nn.Linear(128, 128).requires_grad_(False)
    assert kept(made(save="output"), nn.Dropout(0.5)) <= kept(made(), nn.Dropout(0.5))
    assert kept(made(save="output"), frozen) <= kept(made(), frozen)


# --- in place ---


@by_path
@by_unit
@by_dtype
def test_in_place_gives_the_same(path, name, dtype, compute):
    function = getattr(F, name)
    x = torch.randn(4, 6, 5, 7).to(dtype)
    layouts = [
        x, x.to(memory_format=torch.channels_last), x.transpose(0, 2), x[:, ::2], x[0, 0, 0, :3],
        torch.randn(70_000).to(dtype), x[:0],
    ]  # fmt: skip
    for layout in layouts:
        for sigma in (0.7, torch.tensor(0.7)):
            leaf = layout.detach().clone(memory_format=torch.preserve_format).requires_grad_()
            wanted = function(leaf, sigma, save="output")
            (slope,) = torch.autograd.grad(wanted.sum(), leaf)
            given = leaf * 1
            y = function(given, sigma, save="output", inplace=True)
            assert y.data_ptr() == given.data_ptr()
            assert torch.equal(given, wanted)
            assert torch.equal(torch.autograd.grad(y.sum(), leaf)[0], slope)
            with torch.no_grad():
                given = layout.clone()
                assert function(given, sigma, save="output", inplace=True) is given
                assert torch.equal(given, wanted)


@by_path
@by_unit
def test_in_place_where_it_must_not_be(path, name, compute):
    function = getattr(F, name)
    leaf = torch.randn(5, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        function(leaf, save="output", inplace=True)
    x = leaf * 1
    needed = x.square()  # its backward needs x as it was
    y = function(x, save="output", inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (needed + y).sum().backward()
    z = function(leaf * 1, save="output")
    z.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()
    with pytest.raises(ValueError, match="inplace=True needs save='output'"):
        function(leaf * 1, inplace=True)


@pytest.mark.parametrize("name", OUTPUT_NAMES)
def test_fp64_in_place(name):
    x = torch.randn(9, dtype=torch.float64, requires_grad=True)
    function = getattr(F, name.lower())
    given = x * 1
    y = function(given, save="output", inplace=True)
    assert y is given
    torch.testing.assert_close(y, function(x))
    mine, theirs = (torch.autograd.grad(z.sum(), x)[0] for z in (y, function(x)))
    torch.testing.assert_close(mine, theirs)


# --- recomputed, and repeated ---


def block(name, learnable, inplace):
    """Return a network that uses an activation twice, and an input; with those that take part."""
    sharpness = {} if name == "SquarePlus" else {"sigma": 0.7, "learnable": learnable}
    one, two = (
        zilu.create_activation(name, save="output", inplace=inplace, **sharpness) for _ in range(2)
    )
    network = nn.Sequential(nn.Linear(8, 8), one, nn.Linear(8, 8), two)
    x = torch.randn(40, 8, requires_grad=True)
    return network, x, (x, *network.parameters())


@by_path
@pytest.mark.parametrize("name", OUTPUT_NAMES)
@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
def test_activation_checkpointing(path, name, learnable, inplace, compute):
    network, x, leaves = block(name, learnable, inplace)
    wanted = torch.autograd.grad(network(x).square().sum(), leaves)
    for reentrant in (False, True):
        for leaf in leaves:
            leaf.grad = None
        checkpoint(network, x, use_reentrant=reentrant).square().sum().backward()
        assert all(torch.equal(leaf.grad, want) for leaf, want in zip(leaves, wanted, strict=True))


@by_path
@by_unit
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_whose_input_is_written_over_is_refused(path, name, reentrant, compute):
    """Recomputed from the output, the gradients would be wrong."""

    def first(x):
        return getattr(F, name)(x, save="output", inplace=True)

    x = torch.randn(40, 8, requires_grad=True)
    y = checkpoint(first, x * 1, use_reentrant=reentrant)
    with pytest.raises(RuntimeError, match=r"in-?place operation"):
        y.sum().backward()


@by_path
@by_unit
@by_dtype
@pytest.mark.parametrize("inplace", [False, True])
def test_backward_repeats_to_the_bit(path, name, dtype, inplace, compute, kernels_in_threads):
    x, grad = torch.randn(2, 100_003).to(dtype)
    x.requires_grad_()
    sigma = torch.tensor(0.7, requires_grad=True)

    def found():
        y = getattr(F, name)(x * 1, sigma, save="output", inplace=inplace)
        return [torch.autograd.grad(y, (x, sigma), grad, retain_graph=True) for _ in range(2)]

    first = found()
    torch.use_deterministic_algorithms(True)  # new memory is full of NaN from now on
    for grad_x, grad_sigma in (*first, *found()):
        assert torch.equal(grad_x, first[0][0])
        assert torch.equal(grad_sigma, first[0][1])
        assert grad_x.isfinite().all()


@pytest.fixture
def kernels_in_threads(path):
    """Let the kernels share their work; torch's own operations would wait for busy processors."""
    before = torch.get_num_threads()
    torch.set_num_threads(2 if path == "fused" else before)
    yield
    torch.set_num_threads(before)


# --- who offers it ---


@pytest.mark.parametrize(
    "name", [*sorted(set(GATED_NAMES) - set(OUTPUT_NAMES)), "ArcTan", "GELU", "Tanh"]
)
def test_others_say_why_they_do_not(name):
    with pytest.raises(ValueError, match="increase everywhere, so that the output tells"):
        zilu.create_activation(name, save="output")


def test_a_word_that_is_neither_is_refused():
    with pytest.raises(ValueError, match="save must be one of input, output, not 'both'"):
        zilu.ZiLU(save="both")
    with pytest.raises(ValueError, match="save must be one of input, output, not 'both'"):
        F.zilu(torch.ones(3), save="both")


def test_inplace_alone_changes_nothing():
    """timm passes it everywhere."""
    module = zilu.ZiLU(inplace=True)
    assert (module.save, module.inplace, repr(module)) == ("input", False, "ZiLU(sigma=1)")
    x = torch.ones(3)
    module(x)
    assert torch.equal(x, torch.ones(3))


def test_a_replaced_network():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4))
    zilu.replace_activations(model, "ZiLU", sigma=0.5, save="output")
    assert (model[1].save, model[1].inplace) == ("output", False)
    with pytest.raises(ValueError, match="increase everywhere"):
        zilu.replace_activations(model, {"ZiLU": "GELU_s"}, save="output")


@pytest.mark.parametrize("name", OUTPUT_NAMES)
def test_a_mode_sees_one_call_with_what_is_kept(name):
    calls = []

    class Seen(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            calls.append((function, kwargs))
            return function(*args, **(kwargs or {}))

    function = getattr(F, name.lower())
    x = torch.ones(3)
    with Seen():
        function(x, save="output")
    ((seen, options),) = calls
    assert seen is function
    assert options["save"] == "output"
