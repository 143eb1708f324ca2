"""Make the new modules, try their places out with stand-ins, and put them into the network."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zilu.replacement import rewriting
from zilu.replacement.calls import Args, Kwargs, Observation, Observations, StandIn
from zilu.replacement.gradual import Gradual, Old
from zilu.replacement.kinds import Function, function_name, works_in_place
from zilu.replacement.observing import ExampleInput, observe, same_output
from zilu.replacement.rewriting import Planner
from zilu.replacement.sites import (
    ActivationSite,
    CallSite,
    ModuleSite,
    Slot,
    joined,
    key_of,
    modules_of,
)

_HOOKS = [name for name in vars(nn.Module()) if "_hooks" in name and "state_dict" not in name]
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(eq=False)
class Replacement:
    """Pair one new module with the sites that it serves."""

    sites: Sequence[ActivationSite]
    new: nn.Module
    stand_in: StandIn


class Swap:
    """Swap a network's activations: on trial for stand-ins, then for the new modules.

    Args:
        modules, calls: all sites of the network. Those that can be replaced get their new module.
        planner: made from the same call sites.
        observed: how the network ran on example_input; empty where there was none.
        gradual: mixes what was there before into the new modules; None for nothing.

    Raises:
        ValueError: a factory gives one module to several sites.
        TypeError: a factory makes no module.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: list[ModuleSite],
        calls: list[CallSite],
        planner: Planner,
        observed: Observations,
        gradual: Gradual | None = None,
    ) -> None:
        self._model, self._planner, self._observed = model, planner, observed
        self._gradual = gradual
        self._known = {site.key: site for site in calls}
        self._modules = [site for site in modules if site.replaceable]
        self._calls = [site for site in calls if site.replaceable]
        _name_new_modules(self._calls, planner)
        self._twins = _registered_twins(self._modules)
        self._replacements = self._made_replacements()

    def _made_replacements(self) -> list[Replacement]:
        """Group the sites that share a new module, and make a module for each group."""
        groups: dict[object, list[ActivationSite]] = {}
        for module_site in self._modules:
            groups.setdefault(self._twins.get(module_site, module_site), []).append(module_site)
        for call_site in self._calls:
            shared = call_site.attribute or (call_site.holder.module, call_site.name)
            groups.setdefault(shared, []).append(call_site)
        made: list[Replacement] = []
        for sites in groups.values():
            new = _made(sites[0], self._model)
            if any(new is other.new for other in made):
                raise ValueError(f"the target gives one module, {new}, to several places")
            made.append(Replacement(sites, new, StandIn(sites[0].old)))
            for site in sites:
                site.new = new
        return made

    def try_out(self, example_input: ExampleInput) -> None:
        """Put stand-ins in, and check that the network does what it did. Then take them out.

        Raises:
            ValueError: the network does something else.
        """
        changes = Changes()
        try:
            self._put_in(changes, lambda replacement: replacement.stand_in)
            for replacement in self._replacements:
                for site in replacement.sites:
                    if isinstance(site, ModuleSite):
                        _share_hooks(site.slot.module, replacement.stand_in)
            observed, _ = observe(self._model, example_input)
        except Exception as error:
            raise ValueError(_refusal(f"it fails: {error}")) from error
        finally:
            changes.undo()
        for training in self._observed.keys() & observed.keys():
            difference = self._difference(training, observed[training])
            if difference:
                raise ValueError(_refusal(difference))

    def carry_out(self) -> None:
        """Put the new modules in for good, with the hooks of the old ones."""
        changes = Changes()
        try:
            if self._gradual is not None:
                for replacement in self._replacements:
                    changes.join(self._gradual, replacement.new, _old(replacement.sites[0]))
            self._put_in(changes, lambda replacement: replacement.new)
        except BaseException:
            changes.undo()
            raise
        taken_over: set[nn.Module] = set()
        for replacement in self._replacements:
            first = replacement.sites[0]
            if isinstance(first, ModuleSite):
                old = first.slot.module
                _take_over_hooks(old, replacement.new, copies=old in taken_over)
                taken_over.add(old)

    # --- putting modules in ---

    def _put_in(self, changes: Changes, choose: Callable[[Replacement], nn.Module]) -> None:
        """Put the module that `choose` gives into each replacement's sites."""
        names = _Names()
        for replacement in self._replacements:
            module, first = choose(replacement), replacement.sites[0]
            if isinstance(first, CallSite):
                _register(changes, first, module)
            for site in replacement.sites:
                if isinstance(site, ModuleSite):
                    self._fill(changes, site, module, names)
            rewritten = isinstance(first, CallSite) and first.is_rewritten
            if first.writes_back and not rewritten:  # a rewritten forward writes back by itself
                rewriting.write_back(module)
        self._rewrite_forwards(changes, [choose(each) for each in self._replacements])
        self._leave_fast_paths(changes)

    def _fill(self, changes: Changes, site: ModuleSite, module: nn.Module, names: _Names) -> None:
        """Fill a slot; register the module too if it could be neither trained nor saved there."""
        changes.put(site.slot, module)
        out_of_reach = not site.slot.registered and site not in self._twins
        if out_of_reach and module.state_dict():
            name = names.free(site.slot.owner, site.slot.name.replace(".", "_"))
            changes.register(site.slot.owner, name, module)

    def _rewrite_forwards(self, changes: Changes, new: list[nn.Module]) -> None:
        """Rewrite the forwards that make replaced calls, and protect those whose calls stay."""
        of_owner: dict[nn.Module, list[CallSite]] = {}
        for site in self._calls:
            if site.is_rewritten and site.owner is not None:
                of_owner.setdefault(site.owner, []).append(site)
        kinds = {site.kind for sites in of_owner.values() for site in sites}
        replaced = {site.slot.module for site in self._modules}
        staying = self._planner.staying_kinds(kinds, replaced)
        for owner, sites in of_owner.items():
            own = tuple(dict.fromkeys(site.kind for site in sites))
            plan = self._planner.plan(owner, own, staying.pop(owner, ()))
            changes.rewrite(owner, _holder(sites[0]), plan)
        for owner, staying_there in staying.items():
            changes.leave_calls(owner, staying_there)
        for module in new if kinds else ():
            if rewriting.may_call(module) and not isinstance(module, StandIn):
                rewriting.leave_calls(module, tuple(kinds))

    def _leave_fast_paths(self, changes: Changes) -> None:
        """Turn off the fused forms of torch's Transformer, which run its own activations."""
        changed = {site.owner for site in (*self._modules, *self._calls)}
        for module in modules_of(self._model):
            if isinstance(module, nn.TransformerEncoderLayer) and module in changed:
                changes.set(module, "activation_relu_or_gelu", 0)
            if isinstance(module, nn.TransformerEncoder) and not changed.isdisjoint(module.layers):
                changes.set(module, "use_nested_tensor", False)  # only the fused form can use one

    # --- comparing runs ---

    def _difference(self, training: bool, now: Observation) -> str | None:
        """Return what a run with stand-ins does otherwise than the run before, if anything."""
        before = self._observed[training]
        return (
            self._still_called(before, now)
            or self._otherwise_run(before, training)
            or (None if same_output(before.output, now.output) else "it gives another output")
        )

    def _still_called(self, before: Observation, now: Observation) -> str | None:
        kinds = {site.kind for site in self._calls}
        allowed = Counter(key_of(call) for call in before.calls)
        for call in now.calls:
            key = key_of(call)
            allowed[key] -= 1
            stays = key in self._known and not self._known[key].replaceable and allowed[key] >= 0
            if call.function_kind in kinds and not stays:
                return f"{call.kind} is still called at {call.source}"
        return None

    def _otherwise_run(self, before: Observation, training: bool) -> str | None:
        for path, replacements, expected in self._expected_runs(before, training):
            runs = sum(replacement.stand_in.runs[training] for replacement in replacements)
            if runs != expected:
                return f"{path} is run {runs} times, not {expected}"
        return None

    def _expected_runs(
        self, before: Observation, training: bool
    ) -> Iterator[tuple[str, set[Replacement], int]]:
        """Yield paths of old activations, their replacements, and how often those should run."""
        of_module: dict[nn.Module, set[Replacement]] = {}
        paths: dict[nn.Module, str] = {}
        for replacement in self._replacements:
            for site in replacement.sites:
                if isinstance(site, ModuleSite):
                    paths.setdefault(site.slot.module, site.path)
                    of_module.setdefault(site.slot.module, set()).add(replacement)
        for module, replacements in of_module.items():
            if before.runs[module]:  # a module whose forward is called directly has no count
                yield paths[module], replacements, before.runs[module]
        for replacement in self._replacements:
            if isinstance(replacement.sites[0], CallSite):
                expected = sum(site.runs[training] for site in replacement.sites)
                yield replacement.sites[0].path, {replacement}, expected


def _register(changes: Changes, site: CallSite, module: nn.Module) -> None:
    if site.attribute:
        changes.turn_into_child(*site.attribute, module)
    else:
        changes.register(_holder(site), site.name, module)


def _refusal(difference: str) -> str:
    return (
        "with what was there in the new places the network does not do what it did "
        f"({difference}), so that replacing would change more than activations; nothing was changed"
    )


# --- the new modules ---


def _name_new_modules(calls: list[CallSite], planner: Planner) -> None:
    """Set the paths of replaced call sites, and the new modules' names in their holders."""
    names = _Names()
    merged: dict[tuple[nn.Module | None, str], str] = {}
    for site in calls:
        if site.attribute:
            site.path = joined(site.path, site.attribute[1])
            continue
        key = (site.owner, site.kind)
        if key in merged:
            site.name = merged[key]
        else:
            stem = site.holder.prefix + function_name(site.function).strip("_")
            site.name = names.free(_holder(site), f"{stem}_call_0")
            if key in planner.merged:
                merged[key] = site.name
        site.path = joined(site.holder.path, site.name)


def _holder(site: CallSite) -> nn.Module:
    holder = site.holder.module
    assert holder is not None, "a call site without a holder has a problem"
    return holder


def _registered_twins(modules: list[ModuleSite]) -> dict[ModuleSite, ModuleSite]:
    """Map each unregistered slot to the one registered slot that holds the same module."""
    registered: dict[nn.Module, list[ModuleSite]] = {}
    for site in modules:
        if site.slot.registered:
            registered.setdefault(site.slot.module, []).append(site)
    return {
        site: registered[site.slot.module][0]
        for site in modules
        if not site.slot.registered and len(registered.get(site.slot.module, ())) == 1
    }


def _made(site: ActivationSite, model: nn.Module) -> nn.Module:
    """Make a site's new module, with the device and dtype of the weights around it."""
    assert site.factory is not None, "only replaceable sites get a new module"
    around = itertools.chain(_tensors(site.owner), _tensors(model))
    near = next((tensor for tensor in around if tensor.dtype in _FLOATS), torch.empty(0))
    with torch.inference_mode(False), near.device:
        new = site.factory()
        if not isinstance(new, nn.Module):
            raise TypeError(f"the target gives {new!r}, which is no module")
        new.to(near.device, near.dtype)
    like = site.slot.module if isinstance(site, ModuleSite) else site.owner
    return new.train(like is None or like.training)


def _old(site: ActivationSite) -> Old:
    """Return what a site computes before it is replaced, apart from the network."""
    if isinstance(site, ModuleSite):
        return Old.of_module(site.slot.module)
    assert isinstance(site, CallSite), "there are two kinds of sites"
    inplace = works_in_place(site.function, site.args, site.kwargs)
    call = functools.partial(_called, site.function, site.args, site.kwargs)
    return Old(call, inplace=inplace)


def _called(function: Function, args: Args, kwargs: Kwargs, x: Tensor, training: bool) -> Tensor:
    y: Tensor = function(x, *args, **kwargs)
    return y


def _tensors(module: nn.Module | None) -> Iterator[Tensor]:
    if module is not None:
        yield from module.parameters()
        yield from module.buffers()


class _Names:
    """Find names for new children."""

    def __init__(self) -> None:
        self._next: Counter[tuple[nn.Module, str]] = Counter()
        self._taken: set[tuple[nn.Module, str]] = set()

    def free(self, owner: nn.Module, name: str) -> str:
        """Take `name`, or if the owner has it already, the name with another number at its end."""
        stem = name.removesuffix("_0")
        while (owner, name) in self._taken or _has(owner, name):
            self._next[owner, stem] += 1
            name = f"{stem}_{self._next[owner, stem]}"
        self._taken.add((owner, name))
        return name


def _has(owner: nn.Module, name: str) -> bool:
    """Return whether a module has an attribute. (hasattr is true for any name in some classes.)"""
    own = (vars(owner), owner._modules, owner._parameters, owner._buffers)
    return any(name in names for names in own) or hasattr(type(owner), name)


# --- hooks ---


def _share_hooks(old: nn.Module, new: nn.Module) -> None:
    for name in (*_HOOKS, "_is_full_backward_hook"):
        setattr(new, name, getattr(old, name))


def _take_over_hooks(old: nn.Module, new: nn.Module, copies: bool) -> None:
    """Give a new module the old one's hooks, beside its own.

    It gets the tables of hooks themselves, so that handles still remove them; or with `copies`,
    where another module has got the tables, copies of them.
    """
    own = {name: dict(getattr(new, name)) for name in _HOOKS}
    full = new._is_full_backward_hook
    _share_hooks(old, new)
    for name, hooks in own.items():
        if copies:
            setattr(new, name, getattr(old, name).copy())
        getattr(new, name).update(hooks)
    if new._is_full_backward_hook is None:
        new._is_full_backward_hook = full


# --- changes ---


class Changes:
    """Change a network, and keep how to undo it."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []

    def undo(self) -> None:
        """Undo all changes, the latest first."""
        while self._undo:
            self._undo.pop()()

    def join(self, gradual: Gradual, new: nn.Module, old: Old) -> None:
        """Make a new module mix in what was there before."""
        gradual.join(new, old)
        self._undo.append(gradual.old.pop)

    def put(self, slot: Slot, module: nn.Module) -> None:
        """Put a module into a slot."""
        self._undo.append(lambda: slot.put(slot.module))
        slot.put(module)

    def register(self, holder: nn.Module, name: str, module: nn.Module) -> None:
        """Register a child under a name that the holder does not have yet."""
        self._undo.append(lambda: holder._modules.pop(name))
        holder._modules[name] = module

    def turn_into_child(self, owner: nn.Module, name: str, module: nn.Module) -> None:
        """Register a child in place of a plain attribute."""
        value = vars(owner).pop(name)
        self._undo.append(lambda: vars(owner).update({name: value}))
        self.register(owner, name, module)

    def set(self, module: nn.Module, name: str, value: object) -> None:
        """Set an attribute."""
        before = getattr(module, name)
        self._undo.append(lambda: setattr(module, name, before))
        setattr(module, name, value)

    def rewrite(self, module: nn.Module, holder: nn.Module, plan: rewriting.Plan) -> None:
        """Rewrite a forward, see `rewriting.rewrite`."""
        rewriting.rewrite(module, holder, plan)
        self._undo.append(lambda: rewriting.restore_forward(module))

    def leave_calls(self, module: nn.Module, kinds: Sequence[str]) -> None:
        """Protect a forward's calls, see `rewriting.leave_calls`."""
        rewriting.leave_calls(module, kinds)
        self._undo.append(lambda: rewriting.restore_forward(module))
