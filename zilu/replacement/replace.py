"""`replace_activations`: see what there is, refuse what cannot be, then change the network."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from zilu.replacement.kinds import (
    FUNCTIONS,
    function_name,
    is_activation_function,
    kind_of_module,
)
from zilu.replacement.observing import observe
from zilu.replacement.orders import CallOrders
from zilu.replacement.placing import Placing
from zilu.replacement.report import Report, counted
from zilu.replacement.sites import FUNCTION_CALL, Found, find_calls, find_modules
from zilu.replacement.wanted import Key, Target, Wanted

FUNCTIONAL = ("report", "rewrite")


def replace_activations(
    model: nn.Module,
    mapping: Mapping[Key, Target] | Target,
    sigma: float = 1.0,
    learnable: bool = False,
    example_input=None,
    strict: bool = False,
    functional: str = "report",
) -> Report:
    """Replace a network's activations, in place.

        report = replace_activations(model, {"ReLU": "ZiLU"}, sigma=0.5)
        report = replace_activations(
            model, "ZiLU", example_input=images, functional="rewrite", strict=True
        )

    Weights, devices, modes, hooks and all other keys of the state_dict stay as they are. Every
    place gets a module of its own, also where one was shared. Call it before the optimizer is
    made, before DistributedDataParallel, and before torch.compile.

    Args:
        model: any network.
        mapping: from what is replaced to what takes its place. What is replaced: a name
            ("ReLU", "GELU" with its approximations, "SiLU", "ReLU6", ...; the functions of that
            name are meant too), a class of modules, or a class's name. What takes its place: a
            name as in `create_activation`, a class, or a function without arguments that makes a
            module. One such target instead of a mapping takes the place of every activation but
            those that gates and squeeze-excitation are made of: Sigmoid, Hardsigmoid, Tanh,
            Hardtanh, Softplus, Softsign.
        sigma: sharpness of the new activations that have one.
        learnable: make it a parameter of each.
        example_input: a tensor, a tuple of arguments or a mapping of keyword arguments. The network
            is run on it, in training and in evaluation mode (BatchNorm in evaluation both times;
            buffers and random states are put back), to find activations that are called as
            functions: F.relu(x), torch.relu(x), x.relu(), F.gelu, F.silu, in-place forms. All
            places are then tried out, with what was there before put into them: the network must
            do what it did, or nothing is changed.
        strict: fail, and change nothing, if an activation that is to be replaced would be left.
        functional: "report" such calls, or "rewrite" them: each place in the code gets a module,
            which its owner registers, as relu_call_0 and so on. (A function that the owner has as
            an attribute becomes a module there.) Within one run of the owner's forward, calls of a
            kind are told apart by their order; if there are more than example_input showed, the
            further ones go to the last module, and where it takes several ways, all go to one.

    Only ways that example_input takes are seen, and only calls inside `forward` are reached: not
    those of another method that is called from outside, nor what is run again in backward by
    activation checkpointing of a method (that of modules is fine). copy.copy and torch.fx's tracer
    do not know of the new forward; copy.deepcopy, pickle, torch.export and torch.compile do.

    Returns:
        What was replaced, what was left and why, site by site.

    Raises:
        ValueError: nothing to replace; with `strict`, something left; places that, tried out, make
            the network do something else; an unknown name; sigma not above 0; `learnable` for an
            activation without sigma; `strict` or "rewrite" without example_input. The network is
            then unchanged.
        TypeError: a target that makes no module, or is one.
    """
    if functional not in FUNCTIONAL:
        raise ValueError(f"functional must be one of {', '.join(FUNCTIONAL)}, not {functional!r}")
    if example_input is None and (strict or functional == "rewrite"):
        raise ValueError("calls of functions are only seen with an example_input: give one")
    wanted = Wanted(mapping, sigma, learnable, model)
    seen, notes = ({}, ()) if example_input is None else observe(model, example_input)
    modules = find_modules(model, wanted, seen)
    activations = {found.slot.module for found in modules}
    calls = find_calls(model, wanted, seen, activations, functional == "rewrite")
    orders = CallOrders(calls, seen)
    if not seen:
        notes = tuple(_not_looked_for(model, wanted, activations))
    found = (*modules, *calls)
    _check(model, wanted, found, notes, strict)
    placing = Placing(model, modules, calls, orders, seen)
    if seen:
        placing.try_out(example_input)
    placing.carry_out()
    if notes or any(each.forgotten for each in found):
        warnings.warn(_shortfall(found, notes), stacklevel=2)
    return Report(tuple(each.site() for each in found), notes)


# --- refusing ---


def _check(
    model: nn.Module, wanted: Wanted, found: Sequence[Found], notes: Sequence[str], strict: bool
) -> None:
    if strict and (notes or any(each.forgotten for each in found)):
        raise ValueError(f"{_shortfall(found, notes)}; nothing was changed")
    if any(each.replaceable for each in found):
        return
    if wanted.for_module(model, kind_of_module(model)):
        raise ValueError("the model is itself an activation, which cannot be replaced in place")
    present = counted(tuple(each.site() for each in found))
    parts = [f"no {wanted} could be replaced in {type(model).__name__}"]
    parts += [f"its activations: {present}", _shortfall(found, notes)]
    raise ValueError("; ".join(filter(None, parts)))


def _shortfall(found: Sequence[Found], notes: Sequence[str]) -> str:
    forgotten = [each for each in found if each.forgotten]
    parts = [f"activations left as they were: {len(forgotten)}"] if forgotten else []
    parts += [str(each.site()) for each in forgotten[:8]] + (["..."] if forgotten[8:] else [])
    if any(each.problem == FUNCTION_CALL for each in forgotten):
        parts.append('functional="rewrite" replaces function calls')
    return "; ".join((*parts, *notes))


def _not_looked_for(model: nn.Module, wanted: Wanted, activations: set[nn.Module]) -> Iterator[str]:
    """What hints at calls of functions where no example_input shows them."""
    names = {function_name(each) for each, kind in FUNCTIONS.items() if wanted.for_kind(kind)}
    hints: dict[str, set[str]] = {}
    for module in model.modules():
        if module in activations:
            continue
        code = getattr(inspect.unwrap(getattr(type(module), "forward", None)), "__code__", None)
        mentioned = names & set(code.co_names if code else ())
        called = {name for name in mentioned if not hasattr(module, name)}
        held = [value for value in vars(module).values() if _is_function_of(value, wanted)]
        called |= {function_name(value) for value in held}
        if called:
            hints.setdefault(type(module).__name__, set()).update(called)
    if hints:
        text = ", ".join(f"{owner} ({', '.join(sorted(of))})" for owner, of in hints.items())
        yield f"functions seem to be called, which only an example_input can show: {text}"


def _is_function_of(value, wanted: Wanted) -> bool:
    return is_activation_function(value) and wanted.for_kind(FUNCTIONS[value]) is not None
