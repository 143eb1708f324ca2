"""Run a network to observe it, and undo what a run changes in it."""

from __future__ import annotations

import contextlib
import itertools
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map_only

from zilu.replacement.calls import Observation, Observations, Observer, tensors_in
from zilu.replacement.sites import modules_of

# A tensor, positional arguments, or keyword arguments.
ExampleInput: TypeAlias = Tensor | Sequence[Any] | Mapping[str, Any]


def observe(model: nn.Module, example_input: ExampleInput) -> tuple[Observations, tuple[str, ...]]:
    """Run a network as it is, and once more in the other mode of training and evaluation.

    BatchNorm stays in evaluation, so that no batch is too small. Modes, buffers and random states
    are restored afterwards.

    Returns:
        The observation in each mode (True: training), and a note on a mode that could not be run.

    Raises:
        Exception: whatever the network raises in the mode that it is in.
    """
    first = model.training
    observed = {first: _observe(model, example_input, first)}
    try:
        observed[not first] = _observe(model, example_input, not first)
    except Exception as error:
        mode = "evaluation" if first else "training"
        reason = " ".join(str(error).split())[:200]
        return observed, (f"in {mode} mode example_input could not be run: {reason}",)
    return observed, ()


def _observe(model: nn.Module, example_input: ExampleInput, training: bool) -> Observation:
    """Observe a run; mark functions that are attributes, unless that changes the output."""
    plain = _run(model, example_input, training, marking=False)
    if not plain.held:
        return plain.observation
    try:
        marked = _run(model, example_input, training, marking=True)
    except Exception:
        return plain.observation
    same = same_output(plain.observation.output, marked.observation.output)
    return marked.observation if same else plain.observation


def _run(model: nn.Module, example_input: ExampleInput, training: bool, marking: bool) -> Observer:
    with _restored(model):
        if training != model.training:
            model.train(training)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        example = tree_map_only(Tensor, _copy, _with_plain_dict(example_input))
        observer = Observer(modules_of(model), training, marking, example)
        # Compiled code has no frames to look at; checkpointing only acts where gradients are on.
        with torch.compiler.set_stance("force_eager"), torch.set_grad_enabled(training):
            with observer.watching():
                output = _output(model, example)
            observer.finish(output)
        return observer


def same_output(before: Any, now: Any) -> bool:
    """Return whether two outputs hold the same numbers."""
    pairs = itertools.zip_longest(tensors_in(before), tensors_in(now))
    return all(
        a is not None
        and b is not None
        and a.shape == b.shape
        and (a.is_meta or torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True))
        for a, b in pairs
    )


def _with_plain_dict(example_input: ExampleInput) -> ExampleInput:
    """Turn a mapping into a dict: Hugging Face's mappings are of their own classes."""
    return dict(example_input) if isinstance(example_input, Mapping) else example_input


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _output(model: nn.Module, example_input: ExampleInput) -> Any:
    if isinstance(example_input, dict):
        return model(**example_input)
    if isinstance(example_input, tuple | list):
        return model(*example_input)
    return model(example_input)


# --- restoring what a run changes ---


@contextlib.contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    training = model.training
    modes = [(module, module.training) for module in model.modules()]
    with _random_states(model), _buffers(model), _fragile_weights(model):
        try:
            yield
        finally:
            if model.training != training:
                model.train(training)  # a network's own `train` may do more than set the modes
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
        (
            module._buffers,
            name,
            buffer,
            None if buffer is None or is_lazy(buffer) else buffer.clone(),
        )
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    try:
        yield
    finally:
        for buffers, name, buffer, value in kept:
            buffers[name] = buffer
            if buffer is not None and value is not None:
                _restore(buffer, value)


@contextlib.contextmanager
def _fragile_weights(model: nn.Module) -> Iterator[None]:
    """Restore weights that change when a mode is set (merged for evaluation), or in forward."""
    kept = [
        (parameter, parameter.detach().clone())
        for module in model.modules()
        if type(module).train is not nn.Module.train or getattr(module, "max_norm", None)
        for parameter in module.parameters(recurse=False)
        if not is_lazy(parameter)
    ]
    try:
        yield
    finally:
        for parameter, value in kept:
            _restore(parameter, value)


def _restore(tensor: Tensor, value: Tensor) -> None:
    """Copy a value back into a tensor, if that has changed."""
    if tensor.is_meta or (tensor.shape == value.shape and torch.equal(tensor, value)):
        return
    with torch.no_grad():
        tensor.copy_(value)
