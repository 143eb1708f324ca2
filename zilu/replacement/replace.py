"""`replace_activations`: see what there is, refuse what cannot be, then change the network."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence

import torch
from torch import nn

from zilu.replacement.calls import Observation, observe
from zilu.replacement.kinds import CALLING_NONE, FUNCTIONS, function_name, kind_of_module
from zilu.replacement.report import Report, counted
from zilu.replacement.rewriting import Entry, Plan, guard, rewrite
from zilu.replacement.sites import (
    FUNCTION_CALL,
    Found,
    FoundCall,
    FoundModule,
    find_calls,
    find_modules,
    site_key,
)
from zilu.replacement.slots import joined
from zilu.replacement.wanted import Key, Target, Wanted

FUNCTIONAL = ("report", "rewrite")
_HOOKS = [name for name in vars(nn.Module()) if "_hooks" in name and "state_dict" not in name]


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
            functions: F.relu(x), torch.relu(x), x.relu(), F.gelu, F.silu, in-place forms.
        strict: fail, and change nothing, if an activation that is to be replaced would be left.
        functional: "report" such calls, or "rewrite" them: each place in the code gets a module,
            which its owner registers, as relu_call_0 and so on. Within one run of the owner's
            forward, calls are told apart by their order; if there are more than example_input
            showed, the further ones go to the last module. Only what happens inside `forward` is
            reached, not another method that is called from outside.

    Returns:
        What was replaced, what was left and why, site by site.

    Raises:
        ValueError: nothing to replace; with `strict`, something left; an unknown name; sigma not
            above 0; `learnable` for an activation without sigma; `strict` or "rewrite" without
            example_input. The network is then unchanged.
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
    if not seen:
        notes = tuple(_not_looked_for(model, wanted, activations))
    found = (*modules, *calls)
    _check(model, wanted, found, notes, strict)
    _place_modules(model, modules)
    _place_calls(model, calls)
    _rewrite_calls(calls, seen)
    _guard_modules(modules, calls)
    owners = {each.slot.owner for each in modules if each.new}
    _leave_fast_paths(model, owners | {each.owner for each in calls if each.new})
    report = Report(tuple(each.site() for each in found), notes)
    if notes or any(each.forgotten for each in found):
        warnings.warn(_shortfall(found, notes), stacklevel=2)
    return report


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
    return isinstance(value, Hashable) and wanted.for_kind(FUNCTIONS.get(value)) is not None


# --- changing ---


def _place_modules(model: nn.Module, modules: list[FoundModule]) -> None:
    registered: dict[nn.Module, list[FoundModule]] = {}
    for found in modules:
        if found.slot.registered:
            registered.setdefault(found.slot.module, []).append(found)
    for found in sorted(modules, key=lambda each: not each.slot.registered):
        if not found.replaceable:
            continue
        slot = found.slot
        same = [] if slot.registered else registered.get(slot.module, [])
        if len(same) == 1:  # a second way to a registered module
            found.new = same[0].new
        else:
            found.new = _made(found, model, slot.owner)
            _take_over(slot.module, found.new)
            if not slot.registered and found.new.state_dict():  # it could not be trained or saved
                slot.owner.add_module(_free_name(slot.owner, slot.name), found.new)
        slot.put(found.new)


def _made(found: Found, model: nn.Module, owner: nn.Module) -> nn.Module:
    """The new module, where the weights around it are, and of their type."""
    new = found.factory()
    for tensor in (*_tensors(owner), *_tensors(model)):
        if tensor.dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            new.to(tensor.device, tensor.dtype)
            break
    return new.train(owner.training)


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _take_over(old: nn.Module, new: nn.Module) -> None:
    """Mode and hooks; the tables of hooks themselves, so that handles can still remove them."""
    new.train(old.training)
    for name in _HOOKS:
        setattr(new, name, getattr(old, name))


def _place_calls(model: nn.Module, calls: list[FoundCall]) -> None:
    for found in calls:
        if not found.replaceable:
            continue
        found.new = _made(found, model, found.owner)
        if found.attribute:
            setattr(found.owner, found.attribute, found.new)
            found.path = joined(found.path, found.attribute)
        else:
            found.name = _free_name(found.holder, f"{found.prefix}_call_0")
            found.holder.add_module(found.name, found.new)
            found.path = joined(found.holder_path, found.name)


def _rewrite_calls(calls: list[FoundCall], seen: dict[bool, Observation]) -> None:
    owners: dict[nn.Module, list[FoundCall]] = {}
    for found in calls:
        if found.name:
            owners.setdefault(found.owner, []).append(found)
    for owner, of_owner in owners.items():
        rewrite(owner, of_owner[0].holder, _plan(owner, of_owner, seen))


def _plan(owner: nn.Module, calls: list[FoundCall], seen: dict[bool, Observation]) -> Plan:
    kinds = tuple(dict.fromkeys(found.kind for found in calls))
    entries = {
        site_key(each): Entry(each.name, _calls_activations(each.new), each.writes_back)
        for each in calls
    }
    orders = {
        mode: tuple(
            entries.get(site_key(call), Entry(None))
            for call in run.sequences.get(owner, ())
            if call.kind in kinds and not call.written_out and not call.attribute
        )
        for mode, run in seen.items()
    }
    some = next(order for order in orders.values() if order)
    return Plan(kinds, orders.get(True) or some, orders.get(False) or some)


def _guard_modules(modules: list[FoundModule], calls: list[FoundCall]) -> None:
    """Where calls around a new module are replaced, its own operations must not be."""
    rewritten = {found.owner for found in calls if found.name}
    inside = {module for owner in rewritten for module in owner.modules()}
    placed = [(found, found.slot.owner) for found in modules if found.new]
    placed += [(found, found.owner) for found in calls if found.new and found.attribute]
    for found, owner in placed:
        if found.writes_back or (owner in inside and _calls_activations(found.new)):
            guard(found.new, found.writes_back)


def _calls_activations(module: nn.Module) -> bool:
    """Whether a new module may itself call functions that are replaced around it."""
    return type(module) not in CALLING_NONE


def _free_name(owner: nn.Module, wanted: str) -> str:
    name = wanted.replace(".", "_")
    stem = name.removesuffix("_0")
    numbers = itertools.count(1)
    while hasattr(owner, name):
        name = f"{stem}_{next(numbers)}"
    return name


def _leave_fast_paths(model: nn.Module, changed: set[nn.Module]) -> None:
    """torch's Transformer has fused forms of its own activations, for evaluation."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and module in changed:
            module.activation_relu_or_gelu = 0
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and not changed.isdisjoint(module.layers):
            module.use_nested_tensor = False  # which only the fused form takes
