"""Running a network to see what it does, and putting back what that changes."""

from __future__ import annotations

import contextlib
import itertools
import random
import sys
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedTensorMixin
from torch.utils._pytree import tree_map_only

from zilu.replacement.calls import Observation, Observer, tensors_in


def observe(model: nn.Module, example_input) -> tuple[dict[bool, Observation], tuple[str, ...]]:
    """Run a network as it is, and once more in the other mode of training and evaluation.

    BatchNorm stays in evaluation, so that no batch is too small. Modes, buffers and random states
    are put back.

    Args:
        example_input: a tensor, a tuple of arguments, or a mapping of keyword arguments.

    Returns:
        What was seen, by mode (True: training); notes on a mode that could not be run.

    Raises:
        Exception: whatever the network raises in the mode that it is in.
    """
    first = model.training
    found = {first: _observe(model, example_input, first)}
    try:
        found[not first] = _observe(model, example_input, not first)
    except Exception as error:
        mode = "evaluation" if first else "training"
        reason = " ".join(str(error).split())[:200]
        return found, (f"in {mode} mode example_input could not be run: {reason}",)
    return found, ()


def _observe(model: nn.Module, example_input, training: bool) -> Observation:
    plain = _run(model, example_input, training, marking=False)
    if not plain.held:
        return plain.found
    try:
        marked = _run(model, example_input, training, marking=True)
    except Exception:
        return plain.found
    return marked.found if same_output(plain.found.output, marked.found.output) else plain.found


def _run(model: nn.Module, example_input, training: bool, marking: bool) -> Observer:
    with _put_back(model):
        if training != model.training:
            model.train(training)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        observer = Observer(model, training, marking)
        # Compiled code has no frames to look at; checkpointing is at work where gradients are.
        with torch.compiler.set_stance("force_eager"), torch.set_grad_enabled(training):
            example = tree_map_only(Tensor, _copy, _plain(example_input))
            with observer.looking_on():
                output = _output(model, example)
            observer.finish(output)
        return observer


def same_output(before, now) -> bool:
    """Whether two outputs hold the same numbers."""
    pairs = itertools.zip_longest(tensors_in(before), tensors_in(now))
    return all(
        a is not None
        and b is not None
        and a.shape == b.shape
        and (a.is_meta or torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True))
        for a, b in pairs
    )


def _plain(example_input):
    """Of a mapping (Hugging Face's are classes of their own) a dict."""
    return dict(example_input) if isinstance(example_input, Mapping) else example_input


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _output(model: nn.Module, example_input):
    if isinstance(example_input, dict):
        return model(**example_input)
    if isinstance(example_input, tuple | list):
        return model(*example_input)
    return model(example_input)


@contextlib.contextmanager
def _put_back(model: nn.Module) -> Iterator[None]:
    training = model.training
    modes = [(module, module.training) for module in model.modules()]
    with _random_states(model), _buffers(model), _fragile_weights(model):
        try:
            yield
        finally:
            if model.training != training:
                model.train(training)  # which may be the network's own, and do more
            for module, mode in modes:
                module.training = mode


@contextlib.contextmanager
def _random_states(model: nn.Module) -> Iterator[None]:
    python, numpy = random.getstate(), sys.modules.get("numpy.random")
    of_numpy = numpy.get_state() if numpy else None
    try:
        with torch.random.fork_rng({p.device for p in model.parameters() if p.is_cuda}):
            yield
    finally:
        random.setstate(python)
        if numpy:
            numpy.set_state(of_numpy)


@contextlib.contextmanager
def _buffers(model: nn.Module) -> Iterator[None]:
    kept = [
        (module._buffers, name, buffer, None if _is_lazy(buffer) else buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    try:
        yield
    finally:
        for buffers, name, buffer, value in kept:
            buffers[name] = buffer
            if value is not None and not _is_lazy(buffer) and not _same(buffer, value):
                with torch.no_grad():
                    buffer.copy_(value)


@contextlib.contextmanager
def _fragile_weights(model: nn.Module) -> Iterator[None]:
    """Those that change when a mode is set (weights merged for evaluation) or in a forward pass."""
    kept = [
        (parameter, parameter.detach().clone())
        for module in model.modules()
        if type(module).train is not nn.Module.train or getattr(module, "max_norm", None)
        for parameter in module.parameters(recurse=False)
        if not isinstance(parameter, UninitializedTensorMixin)
    ]
    try:
        yield
    finally:
        for parameter, value in kept:
            if not _same(parameter, value):
                with torch.no_grad():
                    parameter.copy_(value)


def _is_lazy(buffer: Tensor | None) -> bool:
    return buffer is None or isinstance(buffer, UninitializedTensorMixin)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.is_meta or (a.shape == b.shape and torch.equal(a, b))
