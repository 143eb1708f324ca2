"""Replace a network's activations, and report what was done: `replace_activations`."""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from zilu.names import did_you_mean
from zilu.replacement.calls import Observations
from zilu.replacement.gradual import Gradual
from zilu.replacement.kinds import (
    FUNCTIONS,
    Key,
    Request,
    Target,
    function_name,
    is_activation_function,
    kind_of_module,
)
from zilu.replacement.observing import ExampleInput, observe
from zilu.replacement.rewriting import Planner
from zilu.replacement.sites import (
    FUNCTION_CALL,
    ActivationSite,
    find_calls,
    find_modules,
    in_one_line,
)
from zilu.replacement.swap import Swap

FUNCTIONAL = ("report", "rewrite")


def replace_activations(
    model: nn.Module,
    mapping: Mapping[Key, Target] | Target,
    sigma: float = 1.0,
    learnable: bool = False,
    example_input: ExampleInput | None = None,
    strict: bool = False,
    functional: str = "report",
    leave: Collection[str] = (),
    save: str = "input",
    gradual: Gradual | None = None,
) -> Report:
    """Replace a network's activations, in place.

        report = replace_activations(model, {"ReLU": "ZiLU"}, sigma=0.5)
        report = replace_activations(
            model, "ZiLU", example_input=images, functional="rewrite", strict=True
        )

    Weights, devices, modes, hooks and all other keys of the state_dict stay as they are. Every
    place gets a module of its own, also where one was shared. Call this function before you make
    the optimizer, and before DistributedDataParallel and torch.compile.

    Args:
        model: any network.
        mapping: what is replaced, each with what takes its place. What is replaced: a name ("ReLU",
            "GELU" with its approximations, "SiLU", "ReLU6", ...), which also means the functions of
            that name; a class of modules; or a class's name. What takes its place: a name as in
            `create_activation`, a class, a function without arguments that makes a module, or a
            function of one tensor. One such target instead of a mapping takes the place of every
            activation except those that gates and squeeze-excitation are made of: Sigmoid,
            Hardsigmoid, Tanh, Hardtanh, Softplus, Softsign.
        sigma: sharpness of the new activations that have one.
        learnable: make sigma a parameter of each new activation.
        example_input: a tensor, a tuple of arguments or a mapping of keyword arguments. The network
            is run on it, in training and in evaluation mode (BatchNorm in evaluation both times;
            buffers and random states are restored), to find activations that are called as
            functions: F.relu(x), torch.relu(x), x.relu(), F.gelu, F.silu, in-place forms; and
            x.clamp(min=0), clip, clamp_min, clamp(0, 6), F.threshold(x, 0, 0), F.hardtanh(x, 0, 6).
            Then all places are tried out with stand-ins that compute what was there before: the
            network must do what it did, or nothing is changed.
        strict: fail, and change nothing, if an activation that is to be replaced would be left,
            also one that is written out in several operations, which is recognised by its values:
            torch.maximum(x, zeros), x * (x > 0), x * sigmoid(x).
        functional: "report" function calls, or "rewrite" them: each place in the code gets a
            module, which its owner registers under the names relu_call_0 and so on. (A function
            that is an attribute of its owner becomes a module there.) Within one run of the owner's
            forward, calls of one kind are told apart by their order. Calls beyond those that
            example_input showed go to the last module. Where forward takes several ways, all calls
            of a kind go to one module.
        leave: activations that stay: by the path of a module, which means all that is below it, or
            by a line of code, as a report names it ("package.module:216").
        save: what ZiLU, ZiLU_Approx and SquarePlus keep for backward, "input" or "output", which
            the layer that follows keeps anyway; see `zilu.ZiLU`.
        gradual: makes each new activation compute (1 - t) old + t new, with a t that is set while
            the network is trained; see `zilu.replacement.gradual.Gradual`.

    A clamp or a written-out rectifier is a bound on numbers and no activation where the network's
    input does not lead to it (positions), where no gradient would go back (rounded numbers), where
    it holds whole numbers, and where nothing that it got on example_input was below 0 (variances,
    norms). The report lists such bounds, and they stay.

    Only the ways that example_input takes are seen, and only calls inside `forward` are reached:
    not those in another method that is called from outside, nor those that activation checkpointing
    of a method runs again in backward (checkpointing of modules is fine). copy.copy and
    torch.jit.script do not support a new forward; copy.deepcopy, pickle, torch.export,
    torch.jit.trace and torch.compile do. torch.fx does where the new forward is not that of the
    outermost module (which it runs by its class: trace nn.Sequential(model)), and where the calls
    are functions and not methods.

    Returns:
        What was replaced, and what was left and why, site by site.

    Raises:
        ValueError: there is nothing to replace; with `strict`, something would be left; on trial,
            the network does something else; a name is unknown; sigma is not above 0; `learnable` is
            set for an activation without sigma; `strict` or "rewrite" come without example_input;
            `leave` names no activation.
            The network is then unchanged.
        TypeError: a target makes no module, or is one.
    """
    if functional not in FUNCTIONAL:
        raise ValueError(f"functional must be one of {', '.join(FUNCTIONAL)}, not {functional!r}")
    if example_input is None and (strict or functional == "rewrite"):
        raise ValueError("calls of functions are only seen with an example_input: give one")
    request = Request(mapping, sigma, learnable, save, model)
    observed: Observations = {}
    notes: tuple[str, ...] = ()
    if example_input is not None:
        observed, notes = observe(model, example_input)
    modules = find_modules(model, request, observed)
    activations = {site.slot.module for site in modules}
    calls = find_calls(model, request, observed, activations, functional == "rewrite")
    _leave((*modules, *calls), leave)
    planner = Planner(calls, observed)
    if example_input is None:
        notes = tuple(_hints_of_calls(model, request, activations))
    sites: tuple[ActivationSite, ...] = (*modules, *calls)
    _check(model, request, sites, notes, strict)
    swap = Swap(model, modules, calls, planner, observed, gradual)
    if example_input is not None:
        swap.try_out(example_input)
    swap.carry_out()
    if notes or any(site.missed for site in sites):
        warnings.warn(_shortfall(sites, notes), stacklevel=2)
    return Report(tuple(_reported(site) for site in sites), notes)


# --- the report ---


@dataclass(frozen=True)
class Site:
    """Report one activation of a network.

    Attributes:
        path: the module's path, or that of the module whose forward makes the call.
        kind: which activation it was: "ReLU".
        was: its text before: "ReLU(inplace=True)", or the called function, "relu()".
        now: its text now, if it was replaced.
        reason: why it was left, or a remark.
        source: of a call, the line of code: "torchvision.models.densenet:216".
        calls: how often it ran on example_input, in the mode in which it ran more often.
    """

    path: str
    kind: str
    was: str
    now: str | None = None
    reason: str | None = None
    source: str | None = None
    calls: int | None = None

    @property
    def replaced(self) -> bool:
        return self.now is not None

    def __str__(self) -> str:
        place = f" at {self.source}" if self.source else ""
        change = f" -> {self.now}" if self.replaced else ""
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.path or 'the model itself'}: {self.was}{place}{change}{reason}"


@dataclass(frozen=True)
class Report:
    """Report what `replace_activations` did. `str(report)` lists every site.

    Attributes:
        sites: all activations found, those left included.
        notes: what could not be looked at.
    """

    sites: tuple[Site, ...]
    notes: tuple[str, ...] = ()

    @property
    def replaced(self) -> tuple[Site, ...]:
        return tuple(site for site in self.sites if site.replaced)

    @property
    def left(self) -> tuple[Site, ...]:
        return tuple(site for site in self.sites if not site.replaced)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"Replaced: {_counted(self.replaced)}"
        yield from (f"  {site}" for site in self.replaced)
        yield f"Left: {_counted(self.left)}"
        yield from (f"  {site}" for site in self.left)
        yield from (f"Note: {note}" for note in self.notes)


def _counted(sites: Sequence[Site | ActivationSite]) -> str:
    """Return how many sites there are of each kind: "17 (16 ReLU, 1 GELU)"."""
    kinds = Counter(site.kind for site in sites)
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return f"{len(sites)} ({listed})" if listed else "none"


def _reported(site: ActivationSite) -> Site:
    reasons = [site.problem if site.factory else site.remark or "not named"]
    if site.new and site.writes_back:
        reasons.append("in place, and its input is read later: it gets the result as well")
    calls = max(site.runs.values(), default=None)
    if calls == 0:
        reasons.append("example_input does not reach it")
    reason = "; ".join(filter(None, reasons)) or None
    now = in_one_line(site.new) if site.new else None
    return Site(site.path, site.kind, site.was, now, reason, site.source, calls)


# --- refusing ---


def _leave(sites: Sequence[ActivationSite], names: Collection[str]) -> None:
    """Let the sites be that the caller names by a path, or by a line of code.

    Raises:
        ValueError: a name is that of no site.
    """
    for name in [names] if isinstance(names, str) else names:
        named = [
            site for site in sites if name == site.source or f"{site.path}.".startswith(f"{name}.")
        ]
        if not named:
            known = {each: None for site in sites for each in (site.path, site.source) if each}
            hint = did_you_mean(name, {each.lower(): each for each in known})
            raise ValueError(f"leave names {name!r}, where no activation is; {hint}".rstrip("; "))
        for site in named:
            site.let_be("to be left")


def _check(
    model: nn.Module,
    request: Request,
    sites: Sequence[ActivationSite],
    notes: Sequence[str],
    strict: bool,
) -> None:
    """Raise ValueError if nothing can be replaced, or with `strict` not all that is asked for."""
    if strict and (notes or any(site.missed for site in sites)):
        raise ValueError(f"{_shortfall(sites, notes)}; nothing was changed")
    if any(site.replaceable for site in sites):
        return
    if request.for_module(model, kind_of_module(model)):
        raise ValueError("the model is itself an activation, which cannot be replaced in place")
    parts = [f"no {request} could be replaced in {type(model).__name__}"]
    parts += [f"its activations: {_counted(sites)}", _shortfall(sites, notes)]
    raise ValueError("; ".join(filter(None, parts)))


def _shortfall(sites: Sequence[ActivationSite], notes: Sequence[str]) -> str:
    """Describe what was asked for and is left; return "" if that is nothing."""
    missed = [site for site in sites if site.missed]
    parts = [f"activations left as they were: {len(missed)}"] if missed else []
    parts += [str(_reported(site)) for site in missed[:8]] + (["..."] if missed[8:] else [])
    if any(site.problem == FUNCTION_CALL for site in missed):
        parts.append('functional="rewrite" replaces function calls')
    if missed:
        parts.append('leave=["..."] lets activations be, by path or by line')
    return "; ".join((*parts, *notes))


def _hints_of_calls(
    model: nn.Module, request: Request, activations: set[nn.Module]
) -> Iterator[str]:
    """Yield a note if the code hints at function calls, which only an example_input can show."""
    functions = [each for each, kind in FUNCTIONS.items() if request.for_kind(kind)]
    names = {function_name(function) for function in functions}
    hints: dict[str, set[str]] = {}
    for module in model.modules():
        called = set() if module in activations else _called_names(module, names, request)
        if called:
            hints.setdefault(type(module).__name__, set()).update(called)
    if hints:
        text = ", ".join(f"{owner} ({', '.join(sorted(of))})" for owner, of in hints.items())
        yield f"functions seem to be called, which only an example_input can show: {text}"


def _called_names(module: nn.Module, names: set[str], request: Request) -> set[str]:
    """Return the functions that a module's forward mentions, or that are its attributes."""
    forward: Any = getattr(type(module), "forward", None)
    code = getattr(inspect.unwrap(forward), "__code__", None)
    mentioned = names & set(code.co_names if code else ())
    held = [value for value in vars(module).values() if is_activation_function(value)]
    return {name for name in mentioned if not hasattr(module, name)} | {
        function_name(value) for value in held if request.for_kind(FUNCTIONS[value])
    }
