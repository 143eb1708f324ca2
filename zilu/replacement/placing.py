"""New modules where activations were."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from zilu.replacement import rewriting
from zilu.replacement.calls import Observation
from zilu.replacement.changes import Changes
from zilu.replacement.kinds import CALLING_NONE
from zilu.replacement.observing import observe, same_output
from zilu.replacement.orders import CallOrders
from zilu.replacement.sites import Found, FoundCall, FoundModule, site_key
from zilu.replacement.slots import joined, walk
from zilu.replacement.stand_in import StandIn

_HOOKS = [name for name in vars(nn.Module()) if "_hooks" in name and "state_dict" not in name]
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class Placing:
    """The places for new modules in a network, and how they are filled.

    Args:
        seen: the runs of example_input, by mode; empty where there was none.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: list[FoundModule],
        calls: list[FoundCall],
        orders: CallOrders,
        seen: dict[bool, Observation],
    ):
        self.model, self.orders, self.seen = model, orders, seen
        self.found = [*modules, *calls]
        self.modules = [found for found in modules if found.replaceable]
        self.calls = [found for found in calls if found.replaceable]
        self._twins = _twins(self.modules)
        self._name_calls()
        self._make()

    # --- before anything is changed ---

    def _name_calls(self) -> None:
        names = _Names()
        merged: dict[tuple, str] = {}
        for found in self.calls:
            if found.attribute:
                found.path = joined(found.path, found.attribute[1])
                continue
            key = (found.owner, found.kind)
            if key not in merged:
                name = names.free(found.holder, f"{found.prefix}_call_0")
                if key in self.orders.merged:
                    merged[key] = name
            found.name = merged.get(key, name)
            found.path = joined(found.holder_path, found.name)

    def _make(self) -> None:
        made: dict[object, nn.Module] = {}
        for found in (*self.modules, *self.calls):
            place = self._place(found)
            if place not in made:
                new = _made(found, self.model)
                if any(new is other for other in made.values()):
                    raise ValueError(f"the target gives one module, {new}, to several places")
                made[place] = new
            found.new = made[place]

    def _expected_runs(self, before: Observation, mode: bool) -> Iterator[tuple[str, set, int]]:
        """Of what there was: its path, the places that it has now, how often those should run."""
        of_module: dict[nn.Module, set] = {}
        for found in self.modules:
            of_module.setdefault(found.slot.module, set()).add(self._place(found))
        for found in self.modules:
            # Where forward is called directly, there is no count.
            if before.runs[found.slot.module]:
                module = found.slot.module
                yield found.path, of_module[module], before.runs[module]
        of_calls: Counter = Counter()
        for found in self.calls:
            of_calls[self._place(found)] += found.runs[mode]
        for found in self.calls:
            yield found.path, {self._place(found)}, of_calls[self._place(found)]

    def _place(self, found: Found) -> object:
        """Equal for what is one place: another way to a registered module, calls merged."""
        if isinstance(found, FoundCall):
            return found.attribute or (found.holder, found.name)
        return self._twins.get(found, found)

    # --- filling them ---

    def try_out(self, example_input) -> None:
        """Fill them with what computes what was there, and see that the network does as before.

        Raises:
            ValueError: it does not. In any case the network is as it was.
        """
        stand_ins: dict[object, StandIn] = {}
        for found in (*self.modules, *self.calls):
            stand_ins.setdefault(self._place(found), StandIn(found))
        changes = Changes()
        try:
            self._fill(changes, lambda found: stand_ins[self._place(found)])
            for found in self.modules:
                _share_hooks(found.slot.module, stand_ins[self._place(found)])
            now, _ = observe(self.model, example_input)
        except Exception as error:
            raise ValueError(_unlike(f"it fails: {error}")) from error
        finally:
            changes.take_back()
        for mode in self.seen.keys() & now.keys():
            difference = self._difference(self.seen[mode], now[mode], mode, stand_ins)
            if difference:
                raise ValueError(_unlike(difference))

    def carry_out(self) -> None:
        """Fill them with the new modules."""
        changes = Changes()
        try:
            self._fill(changes, lambda found: found.new)
        except BaseException:
            changes.take_back()
            raise
        done: set[nn.Module] = set()
        for found in self.modules:
            if found.new not in done:
                _take_over_hooks(found.slot.module, found.new, found.slot.module in done)
                done |= {found.new, found.slot.module}

    def _fill(self, changes: Changes, choose: Callable[[Found], nn.Module]) -> None:
        names, filled = _Names(), set()
        for found in (*self.modules, *self.calls):
            module = choose(found)
            if isinstance(found, FoundModule):
                changes.put(found.slot, module)
                if self._is_out_of_reach(found, module):
                    name = names.free(found.owner, found.slot.name.replace(".", "_"))
                    changes.register(found.owner, name, module)
            elif module not in filled and found.attribute:
                changes.turn_into_child(*found.attribute, module)
            elif module not in filled:
                changes.register(found.holder, found.name, module)
            if module not in filled and found.writes_back and not found.name:
                rewriting.write_back(module)
            filled.add(module)
        self._rewrite(changes, filled)
        self._leave_fast_paths(changes)

    def _is_out_of_reach(self, found: FoundModule, module: nn.Module) -> bool:
        """Whether it has a state that could be neither trained nor saved where it lies."""
        return not found.slot.registered and found not in self._twins and bool(module.state_dict())

    def _rewrite(self, changes: Changes, new: set[nn.Module]) -> None:
        of_owner: dict[nn.Module, list[FoundCall]] = {}
        for found in self.calls:
            if found.is_rewritten:
                of_owner.setdefault(found.owner, []).append(found)
        kinds = {found.kind for calls in of_owner.values() for found in calls}
        left = self.orders.left_kinds(kinds, {found.slot.module for found in self.modules})
        for owner, calls in of_owner.items():
            own = tuple(dict.fromkeys(found.kind for found in calls))
            plan = self.orders.plan(owner, own, left.pop(owner, ()))
            changes.rewrite(owner, calls[0].holder, plan)
        for owner, of_left in left.items():
            changes.leave_calls(owner, of_left)
        for module in new if kinds else ():
            if type(module) not in CALLING_NONE and not isinstance(module, StandIn):
                rewriting.leave_calls(module, tuple(kinds))

    def _leave_fast_paths(self, changes: Changes) -> None:
        """torch's Transformer has fused forms of its own activations, for evaluation."""
        changed = {found.owner for found in (*self.modules, *self.calls)}
        everything = {self.model, *(slot.module for slot in walk(self.model))}
        for module in everything & changed:
            if isinstance(module, nn.TransformerEncoderLayer):
                changes.set(module, "activation_relu_or_gelu", 0)
        for module in everything:
            if isinstance(module, nn.TransformerEncoder) and not changed.isdisjoint(module.layers):
                changes.set(module, "use_nested_tensor", False)  # which only the fused form takes

    # --- comparing ---

    def _difference(
        self, before: Observation, now: Observation, mode: bool, stand_ins: dict[object, StandIn]
    ) -> str | None:
        """What a run does otherwise than before, if anything."""
        known = {found.key: found for found in self.found if isinstance(found, FoundCall)}
        allowed = Counter(site_key(call) for call in before.calls)
        kinds = {found.kind for found in self.calls}
        for call in now.calls:
            site = known.get(site_key(call))
            allowed[site_key(call)] -= 1
            stays = site is not None and not site.replaceable and allowed[site_key(call)] >= 0
            if call.seen_as in kinds and not stays:
                return f"{call.kind} is still called at {call.source}"
        for path, places, expected in self._expected_runs(before, mode):
            runs = sum(stand_ins[place].runs[mode] for place in places)
            if runs != expected:
                return f"{path} is run {runs} times, not {expected}"
        if not same_output(before.output, now.output):
            return "it gives another output"
        return None


def _unlike(difference: str) -> str:
    return (
        "with what was there in the new places the network does not do what it did "
        f"({difference}), so that replacing would change more than activations; nothing was changed"
    )


# --- parts ---


def _twins(modules: list[FoundModule]) -> dict[FoundModule, FoundModule]:
    """Of a module in a list, dict or attribute that is also a child, just once: the child."""
    children: dict[nn.Module, list[FoundModule]] = {}
    for found in modules:
        if found.slot.registered:
            children.setdefault(found.slot.module, []).append(found)
    return {
        found: children[found.slot.module][0]
        for found in modules
        if not found.slot.registered and len(children.get(found.slot.module, ())) == 1
    }


def _made(found: Found, model: nn.Module) -> nn.Module:
    """A new module, where the weights around it are, and of their type."""
    around = itertools.chain(_tensors(found.owner), _tensors(model))
    near = next((tensor for tensor in around if tensor.dtype in _FLOATS), torch.empty(0))
    with torch.inference_mode(False), near.device:
        new = found.factory()
        if not isinstance(new, nn.Module):
            raise TypeError(f"the target gives {new!r}, which is no module")
        new.to(near.device, near.dtype)
    is_module = isinstance(found, FoundModule)
    return new.train(found.slot.module.training if is_module else found.owner.training)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


class _Names:
    """Names for new children."""

    def __init__(self):
        self._next: Counter[tuple[nn.Module, str]] = Counter()
        self._taken: set[tuple[nn.Module, str]] = set()

    def free(self, owner: nn.Module, name: str) -> str:
        """`name`, or another number at its end. It is taken from now on."""
        stem = name.removesuffix("_0")
        while (owner, name) in self._taken or _has(owner, name):
            self._next[owner, stem] += 1
            name = f"{stem}_{self._next[owner, stem]}"
        self._taken.add((owner, name))
        return name


def _has(owner: nn.Module, name: str) -> bool:
    """Not by hasattr: some classes answer to any name."""
    own = (vars(owner), owner._modules, owner._parameters, owner._buffers)
    return any(name in names for names in own) or hasattr(type(owner), name)


def _share_hooks(old: nn.Module, new: nn.Module) -> None:
    for name in (*_HOOKS, "_is_full_backward_hook"):
        setattr(new, name, getattr(old, name))


def _take_over_hooks(old: nn.Module, new: nn.Module, copies: bool) -> None:
    """The tables of hooks themselves, so that handles still remove them; where others have them
    already, copies. Those that the new module came with are added."""
    own = {name: dict(getattr(new, name)) for name in _HOOKS}
    full = new._is_full_backward_hook
    _share_hooks(old, new)
    for name, hooks in own.items():
        if copies:
            setattr(new, name, getattr(old, name).copy())
        getattr(new, name).update(hooks)
    if new._is_full_backward_hook is None:
        new._is_full_backward_hook = full
