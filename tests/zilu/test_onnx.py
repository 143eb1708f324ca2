"""Compare exports to ONNX, run by onnxruntime, with torch, far into both tails."""

import logging

import pytest
import torch
from torch import nn

import zilu
from zilu.names import ACTIVATIONS, SIGMA_NAMES

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

# onnxscript reaches newer opsets by converting from 18, which fails for torch's own GELU.
OPSET = min(25, onnx.defs.onnx_opset_version())

POSITIVE = torch.cat([torch.logspace(-3, 4, 60), torch.tensor([1e30])])
X = torch.cat([-POSITIVE.flip(0), torch.zeros(1), POSITIVE])[:, None]

# torch exports LogSigmoid as the logarithm of a sigmoid, which onnxruntime cuts off at -18.
UNFAITHFUL = ("LogSigmoid",)
LARGEST = {"ReLU2": 1e15}  # squares of larger numbers are infinite

# These keep their digits where the value is nearly 0. The others do not, because ONNX has no erfc
# and onnxruntime's sigmoid and exp are coarse there: about 1e-7 of x, as in torch's own GELU.
EXACT = ("ArcTan", "ArcTan_Approx", "ZiLU", "ZiLU_Approx", "SquarePlus")
CASES = [
    pytest.param(
        name, learnable,
        id=f"{name}{'-learnable' * learnable}",
        marks=[] if name in ("ZiLU", "ZiLU_Approx") and not learnable else pytest.mark.slow,
    )
    for name in ACTIVATIONS
    if name not in UNFAITHFUL
    for learnable in ([False, True] if name in SIGMA_NAMES else [False])
]  # fmt: skip


def network(name, learnable):
    """Return a network that computes act(x) and act(-x) between linear layers."""
    activation = zilu.create_activation(name, sigma=0.5, learnable=learnable)
    model = nn.Sequential(nn.Linear(1, 2), activation, nn.Linear(2, 2)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model[2].weight.copy_(torch.eye(2))
        model[0].bias.zero_()
        model[2].bias.zero_()
        if learnable:
            activation.rho.fill_(0.7)
    return model


def export(model):
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(
        model, (X[:2],), dynamo=True, opset_version=OPSET, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip
    return program.model_proto


def run(proto, x):
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(result)


@pytest.mark.parametrize(("name", "learnable"), CASES)
def test_onnxruntime_computes_what_torch_does(name, learnable):
    model, largest = network(name, learnable), LARGEST.get(name, X.max().item())
    x = X.clamp(-largest, largest)
    proto = export(model)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version == OPSET
    with torch.no_grad():
        wanted = model(x)
    torch.testing.assert_close(run(proto, x), wanted, rtol=2e-6, atol=0 if name in EXACT else 2e-6)
    assert wanted.isfinite().all()
