"""Count what really runs in other people's networks after all activations are replaced."""

import copy

import pytest
import torch
from helpers.activation_count import FUSED, OTHERS, Counted, operators_of, units_in
from helpers.foreign_networks import HUGGING_FACE, QUICK_HUGGING_FACE, QUICK_VISION, VISION

from zilu import replace_activations

QUICK = {*QUICK_VISION, *QUICK_HUGGING_FACE}


def cases(names):
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", cases(VISION))
def test_vision(name):
    pytest.importorskip(name.split("/")[0])
    check(VISION[name])


@pytest.mark.parametrize("name", cases(HUGGING_FACE))
def test_hugging_face(name):
    pytest.importorskip("transformers")
    check(HUGGING_FACE[name])


def check(case):
    torch.manual_seed(0)
    model, inputs = case.build()
    run = lambda model: model(**inputs)  # noqa: E731
    learned = copy.deepcopy(model)
    before = {mode: operators_of(model, run, mode) for mode in (True, False)}
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    options = {"example_input": inputs, "functional": "rewrite", "strict": True}

    report = replace_activations(model, Counted, **options)
    torch.testing.assert_close(model.state_dict(), weights, rtol=0, atol=0)
    assert not any(site.kind in ("ReLU", "GELU", "SiLU", "ReLU6") for site in report.left)
    for mode, counts in before.items():
        after = operators_of(model, run, mode)
        replaced = units_in(counts) + (counts[case.written] if case.written else 0)
        assert Counted.calls == replaced > 0
        assert units_in(after) == after[FUSED] == 0
        for gate in OTHERS - {case.written}:
            assert after[gate] == counts[gate]

    report = replace_activations(learned, "ZiLU", learnable=True, **options)
    loss(learned.train()(**inputs)).backward()
    sigmas = [p for key, p in learned.named_parameters() if key.endswith("rho")]
    assert len(sigmas) == len(report.replaced)
    assert all(p.grad is None or p.grad.isfinite().all() for p in learned.parameters())
    assert sum(p.grad is not None for p in sigmas) == sum(
        site.calls > 0 for site in report.replaced
    )


def loss(output):
    """Return a number that depends on every output."""
    values = output.values() if isinstance(output, dict) else output
    tensors = [output] if isinstance(output, torch.Tensor) else values
    floats = [t for t in tensors if isinstance(t, torch.Tensor) and t.is_floating_point()]
    return sum(t.float().square().mean() for t in floats)
