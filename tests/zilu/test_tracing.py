"""Test that tracers, subclasses and modes see the functions as they see torch's own."""

import copy
import io
import pickle

import pytest
import torch
from helpers.networks_to_rewrite import Block, Both, Calls, X, rewritten
from torch import Tensor, nn
from torch.overrides import BaseTorchFunctionMode, TorchFunctionMode

import zilu
from models import build_model
from zilu import functional as F
from zilu.names import SIGMA_NAMES

FUNCTIONS = {name: getattr(F, name.lower()) for name in (*SIGMA_NAMES, "SquarePlus", "GoLU")}
UNITS = [(name, learnable) for name in SIGMA_NAMES for learnable in (False, True)]
UNITS += [("SquarePlus", False), ("GoLU", False)]

by_unit = pytest.mark.parametrize(("name", "learnable"), UNITS)
by_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def network(name: str, learnable: bool) -> nn.Module:
    activation = zilu.create_activation(name, 0.7, learnable)
    return nn.Sequential(nn.Linear(8, 8), activation, nn.Linear(8, 3))


def rounded(x: Tensor) -> Tensor:
    """Round to a 64th: products with such numbers, and their sums, are exact in any order."""
    return (64 * x).round() / 64


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(model(x).square().sum(), list(model.parameters())))


# --- torch.fx ---


@by_unit
def test_a_unit_is_one_node_of_a_graph(name, learnable):
    model = network(name, learnable)
    traced = torch.fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes].count(FUNCTIONS[name]) == 1
    copies = copy.deepcopy(traced), pickle.loads(pickle.dumps(traced))
    for graph in (traced, *copies, torch.fx.symbolic_trace(traced)):
        assert torch.equal(graph(X), model(X))
        assert list(dict(graph.named_parameters())) == list(dict(model.named_parameters()))
        for mine, theirs in zip(gradients(graph, X), gradients(model, X), strict=True):
            torch.testing.assert_close(mine, theirs)


@by_function
def test_a_function_is_traced_by_any_of_its_arguments(function):
    x = torch.randn(5)
    of_x = torch.fx.symbolic_trace(lambda x: function(x))
    assert torch.equal(of_x(x), function(x))
    if function in (F.squareplus, F.golu):
        return
    for call in (lambda x, s: function(x, s), lambda x, s: function(x=x, sigma=s.exp())):
        traced = torch.fx.symbolic_trace(call)
        assert torch.equal(traced(x, torch.tensor(0.7)), call(x, torch.tensor(0.7)))
    of_sigma = torch.fx.symbolic_trace(lambda s: function(torch.ones(3), s))
    assert torch.equal(of_sigma(torch.tensor(0.7)), function(torch.ones(3), 0.7))


@pytest.mark.parametrize("name", ["resnet20", "vgg11", "vit-tiny"])
def test_our_networks_trace(name):
    activation = lambda: zilu.ZiLU(0.5, learnable=True)  # noqa: E731
    model = build_model(name, activation=activation, num_classes=10).eval()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), model(x))


@pytest.mark.parametrize("learnable", [False, True])
def test_features_of_torchvision_networks_are_extracted(learnable):
    torchvision = pytest.importorskip("torchvision")
    from torchvision.models.feature_extraction import create_feature_extractor

    x = torch.randn(2, 3, 32, 32)
    model = torchvision.models.resnet18(num_classes=10).eval()
    zilu.replace_activations(model, {"ReLU": "ZiLU"}, learnable=learnable)
    extracted = create_feature_extractor(model, {"layer3.0.relu": "feature", "fc": "output"})(x)
    features: list[Tensor] = []
    model.layer3[0].relu.register_forward_hook(lambda module, args, out: features.append(out))
    assert torch.equal(extracted["output"], model(x))
    assert torch.equal(extracted["feature"], features[-1])  # the block's second one


def test_quantised_by_graph():
    quantize_fx = pytest.importorskip("torch.ao.quantization.quantize_fx")
    from torch.ao.quantization import get_default_qconfig_mapping

    torch.manual_seed(0)
    model = network("ZiLU", False).eval()
    prepared = quantize_fx.prepare_fx(model, get_default_qconfig_mapping("x86"), (X,))
    for _ in range(3):
        prepared(X)
    converted = quantize_fx.convert_fx(prepared)
    assert any("quantize_per_tensor" in node.name for node in converted.graph.nodes)
    assert (converted(X) - model(X)).abs().max() < 0.05 * model(X).abs().max()


class TwoCalls(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return torch.relu(self.linear(nn.functional.relu(x) - 1)) - nn.functional.relu(x)


def test_a_rewritten_forward_traces_inside_a_network():
    """Trace a module in a network: torch.fx itself runs the outermost one by its class."""
    model = Both(TwoCalls())
    rewritten(model, learnable=True, sigma=0.7)
    for number, module in enumerate(m for m in model.modules() if isinstance(m, zilu.ZiLU)):
        module.sigma0.fill_(1.0 + number)
    traced = torch.fx.symbolic_trace(nn.Sequential(model))
    assert torch.equal(traced(X), model(X))
    targets = [node.target for node in traced.graph.nodes]
    assert targets.count(F.zilu) == 4


def test_methods_that_torch_fx_hides_from_a_rewritten_forward_are_refused():
    model = Both(Calls())
    rewritten(model)
    with pytest.raises(RuntimeError, match=r"method \.relu\(\)"):
        torch.fx.symbolic_trace(nn.Sequential(model))


# --- __torch_function__ ---


class Seen(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.functions = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.functions.append(function)
        return function(*args, **(kwargs or {}))


class Logged(Tensor):
    functions: list = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.functions.append(function)
        return super().__torch_function__(function, types, args, kwargs)


@by_function
def test_a_mode_and_a_subclass_see_one_call(function):
    x = torch.randn(5)
    with Seen() as seen:
        y = function(x)
    assert seen.functions == [function]
    assert torch.equal(y, function(x))
    Logged.functions.clear()
    z = function(x.as_subclass(Logged))
    assert Logged.functions == [function]
    assert type(z) is Logged
    torch.testing.assert_close(z.as_subclass(Tensor), y)


def test_a_sigma_may_be_the_subclass():
    Logged.functions.clear()
    sigma = torch.tensor(0.7).as_subclass(Logged)
    assert type(F.zilu(torch.ones(3), sigma)) is Logged
    assert Logged.functions == [F.zilu]


def test_what_overrides_torchs_functions_can_override_these():
    class Doubled(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            y = function(*args, **(kwargs or {}))
            return y * 2 if function is F.zilu else y

    with Doubled():
        y = network("ZiLU", False)[1](torch.tensor(1.0))
    assert y == 2 * F.zilu(torch.tensor(1.0), 0.7)


def test_kernels_run_under_a_default_device():
    x = torch.randn(5, requires_grad=True)
    with torch.device("cpu"):
        assert F.zilu(x).grad_fn.name() == F.gelu_s(x).grad_fn.name() != "AliasBackward0"
        assert torch.equal(F.zilu(x), F.zilu(x.detach()))


def test_masked_and_jagged_tensors_stay_what_they_are():
    x, mask = torch.randn(5), torch.tensor([True, False, True, True, False])
    masked = F.zilu(torch.masked.masked_tensor(x, mask))
    assert torch.equal(masked.get_mask(), mask)
    torch.testing.assert_close(masked.get_data()[mask], F.zilu(x)[mask])
    jagged = torch.nested.nested_tensor([x, x[:2]], layout=torch.jagged)
    torch.testing.assert_close(F.zilu(jagged).values(), F.zilu(torch.cat([x, x[:2]])))


@pytest.mark.parametrize("function", [F.zilu, F.gelu_s, F.arctan])
def test_a_subclass_compiles_whole(function):
    class Own(Tensor):
        pass

    x = torch.randn(5)
    torch.compiler.reset()
    y = torch.compile(function, fullgraph=True, backend="eager")(x.as_subclass(Own))
    assert type(y) is Own
    torch.testing.assert_close(y.as_subclass(Tensor), function(x))


@by_function
def test_compiled_whole_under_a_mode(function):
    def under_a_mode(x):
        with BaseTorchFunctionMode():
            return function(x)

    x = torch.randn(5)
    torch.compiler.reset()
    compiled = torch.compile(under_a_mode, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), function(x))


def test_sizes_and_steps_compile_once():
    torch.compiler.reset()
    counter = torch._dynamo.testing.CompileCounter()
    model = torch.compile(network("ZiLU", True), dynamic=True, backend=counter)
    for size in (4, 5, 6):
        model(torch.randn(size, 8)).sum().backward()
    assert counter.frame_count == 1


# --- torch.jit.script ---


@by_unit
def test_a_unit_is_scripted_saved_and_loaded(name, learnable):
    model = network(name, learnable)
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter.copy_(rounded(parameter))
    scripted = torch.jit.script(model)
    assert type(model[1]).__name__ == name  # the network itself stays
    assert list(scripted.state_dict()) == list(model.state_dict())
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    for other in (scripted, torch.jit.load(file)):
        # Twice, because TorchScript first runs as it was written.
        for x in (rounded(X), 2**13 * rounded(X)):
            torch.testing.assert_close(other(x), model(x))
            for mine, theirs in zip(gradients(other, x), gradients(model, x), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@by_function
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_scripted_functions_hold_the_digits_of_the_dtype(function, dtype):
    activation = zilu.create_activation(next(n for n, f in FUNCTIONS.items() if f is function))
    x = torch.cat([torch.linspace(-50, 50, 101), torch.tensor([-6e4, 6e4])]).to(dtype)
    y = torch.jit.script(activation)(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, function(x), rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_functions_are_called_in_scripts():
    @torch.jit.script
    def scripted(x: Tensor, sigma: Tensor) -> Tensor:
        return F.zilu(x, 0.5) + F.gelu_s(x, sigma) * F.arctan(x) + F.squareplus(x)

    sigma = torch.tensor([0.7])
    wanted = F.zilu(X, 0.5) + F.gelu_s(X, sigma) * F.arctan(X) + F.squareplus(X)
    torch.testing.assert_close(scripted(X, sigma), wanted)
    with pytest.raises(Exception, match=r"x\.float\(\) converts it"):
        scripted(X.long(), sigma)


def test_a_network_with_replaced_modules_is_scripted():
    model = nn.Sequential(Block(nn.ReLU()), Block(nn.GELU()))
    zilu.replace_activations(model, "ZiLU")
    torch.testing.assert_close(torch.jit.script(model)(X), model(X))


def test_a_rewritten_forward_is_recorded_and_not_scripted():
    model = Both(Calls())
    rewritten(model)
    with pytest.raises(AttributeError, match=r"torch\.jit\.trace"):
        torch.jit.script(model)
    recorded = torch.jit.trace(model, X)
    torch.testing.assert_close(recorded(X + 1), model(X + 1))
