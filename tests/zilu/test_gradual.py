"""Old activations that go over into new ones: (1 - t) old + t new."""

import copy
import functools
import pickle

import pytest
import torch
import torchvision
from helpers.small_images import CLASSES
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F

from zilu import ZiLU, replace_activations
from zilu.replacement.gradual import Gradual


class Calls(nn.Module):
    """Call functions, one of them in place on what is read later."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.slopes = nn.Parameter(torch.full((8,), 0.3))

    def forward(self, x):
        x = self.first(x)
        y = F.relu(x, inplace=True)
        y = F.prelu(self.second(y + x), self.slopes)
        return F.relu6(y).mean((2, 3)) + F.gelu(y, approximate="tanh").mean((2, 3))


def modules_that_write():
    """A module that works in place, and another way that reads what it wrote."""

    class Ways(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act, self.noise = nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.ELU()

        def forward(self, x):
            x = self.conv(x)
            return self.act(x) + self.noise(x - 1)

    return Ways()


NETWORKS = {
    "calls": Calls,
    "writes": modules_that_write,
    "prelu": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.BatchNorm2d(8), nn.SiLU()),
    "densenet": lambda: torchvision.models.DenseNet(8, (2, 1), 8, num_classes=CLASSES),
    "mobilenet": lambda: torchvision.models.mobilenet_v3_small(num_classes=CLASSES),
}  # fmt: skip


def replaced(network, target, x, **options):
    network = copy.deepcopy(network)
    replace_activations(
        network, target, example_input=x, functional="rewrite", strict=True, **options
    )
    return network


def ran(network, state, x, training):
    """Output and gradients of one run from this state."""
    network.load_state_dict(state, strict=False)
    network.train(training).zero_grad()
    torch.manual_seed(4)
    output = network(x)
    output.square().sum().backward()
    return output, {n: p.grad for n, p in network.named_parameters() if p.grad is not None}


def assert_same(mine, theirs):
    """The old activations' own parameters are no more the network's."""
    assert torch.equal(mine[0], theirs[0])
    assert mine[1].keys() <= theirs[1].keys()
    assert all(torch.equal(grad, theirs[1][name]) for name, grad in mine[1].items())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_at_0_it_is_the_old_network_and_at_1_the_new_one(name, training):
    """To the last bit, in value and gradient."""
    torch.manual_seed(0)
    own, x, gradual = NETWORKS[name](), torch.randn(4, 3, 32, 32), Gradual()
    state = copy.deepcopy(own.state_dict())
    plain = replaced(own, "ZiLU", x)
    network = replaced(own, "ZiLU", x, gradual=gradual)
    assert list(network.state_dict()) == list(plain.state_dict())
    assert_same(ran(network, state, x, training), ran(own, state, x, training))
    between = []
    for share in (0.25, 0.75):
        gradual.set(share)
        between.append(ran(network, state, x, training)[0])
    gradual.set(1)
    ends = ran(network, state, x, training), ran(plain, state, x, training)
    assert_same(*ends)
    assert not any(torch.equal(each, ends[0][0]) for each in between)
    assert not torch.equal(*between)


def test_between_it_is_the_sum_by_shares():
    x, gradual = torch.randn(64, dtype=torch.float64), Gradual()
    network = replaced(nn.Sequential(nn.Linear(64, 64), nn.PReLU()).double(), "ZiLU", x[None],
                       gradual=gradual, sigma=0.5)  # fmt: skip
    for share in (0.0, 0.3, 0.9):
        gradual.set(share)
        z = network[0](x)
        old, new = torch.where(z > 0, z, 0.25 * z), z * (0.5 + torch.atan(0.5 * z) / torch.pi)
        expected = (1 - gradual.t.double()) * old + gradual.t.double() * new
        assert gradual.t == pytest.approx(share)
        torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("options", [{"inplace": True, "save": "output"}, {"save": "output"}])
def test_new_activations_that_overwrite_or_keep_their_output(options):
    """While the old one is mixed in, it still gets the input."""
    torch.manual_seed(0)
    own, x = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)), torch.randn(4, 8)
    gradual = Gradual()
    state = copy.deepcopy(own.state_dict())
    target = functools.partial(ZiLU, 0.7, **options)
    network, plain = replaced(own, target, x, gradual=gradual), replaced(own, target, x)
    assert_same(ran(network, state, x, True), ran(own, state, x, True))
    gradual.set(0.5)
    reference = copy.deepcopy(own)
    reference[1] = _Half()
    torch.testing.assert_close(ran(network, state, x, True), ran(reference, state, x, True))
    gradual.set(1)
    assert_same(ran(network, state, x, True), ran(plain, state, x, True))


class _Half(nn.Module):
    def forward(self, x):
        return F.gelu(x) / 2 + ZiLU(0.7)(x) / 2


def test_old_parameters_are_neither_trained_nor_saved_with_the_network():
    x, gradual = torch.randn(4, 3, 8, 8), Gradual()
    own = NETWORKS["prelu"]()
    network = replaced(own, nn.PReLU, x, gradual=gradual)
    names = {name for name, _ in network.named_parameters()}
    assert names == {name for name, _ in own.named_parameters()} | {"3.weight"}
    assert network[1].weight.shape == (1,)
    assert len(gradual.old_state()) == 2
    assert gradual.old_state()[0]["weight"].shape == (8,)
    network(x).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    before = network(x)
    gradual.load_old_state([{"weight": torch.ones(8)}, {}])
    assert not torch.equal(network(x), before)


def test_an_old_activation_that_draws_does_so_in_training():
    x, gradual, network = torch.randn(99), Gradual(), nn.Sequential(nn.RReLU())
    replace_activations(network, {"RReLU": "ZiLU"}, gradual=gradual)
    for training in (True, False):
        torch.manual_seed(5)
        mine = network.train(training)(x)
        torch.manual_seed(5)
        assert torch.equal(mine, F.rrelu(x, training=training))


def test_copies_go_along():
    """An average of the weights is a copy of the network; it is evaluated at the same t."""
    x, gradual = torch.randn(4, 3, 8, 8), Gradual()
    network = replaced(NETWORKS["prelu"](), "ZiLU", x, gradual=gradual).eval()
    average = torch.optim.swa_utils.AveragedModel(network, use_buffers=True)
    for share in (0.0, 0.5, 1.0):
        gradual.set(share)
        average.update_parameters(network)
        assert torch.equal(average.eval()(x), network(x))
    gradual.set(0.5)
    assert torch.equal(pickle.loads(pickle.dumps(network))(x), network(x))


def test_torch_compile_compiles_once_and_at_the_end():
    torch.manual_seed(0)
    own = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3), nn.PReLU())
    x, gradual = torch.randn(4, 3, 8, 8), Gradual()
    network, plain = replaced(own, "ZiLU", x, gradual=gradual), replaced(own, "ZiLU", x)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda x: network(x), backend=counter, dynamic=False)
    for share in (0, 0.1, 0.5, 0.9):
        gradual.set(share)
        torch.testing.assert_close(compiled(x), network(x))
    assert counter.frame_count == 1
    gradual.set(1)
    torch.testing.assert_close(compiled(x), plain(x))
    gradual.set(1)
    compiled(x)
    assert counter.frame_count == 2


def test_a_refused_replacement_leaves_nothing_behind():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.PReLU(8))
    gradual, shared = Gradual(), nn.ReLU()
    with pytest.raises(ValueError, match="to several places"):
        replace_activations(network, lambda: shared, gradual=gradual)
    assert gradual.old == []
    replace_activations(network, "ZiLU", gradual=gradual)
    states = gradual.old_state()
    gradual.load_old_state(states)
    assert len(states) == 2
