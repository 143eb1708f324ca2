"""In which order a module's forward makes its calls: by that they are told apart when it runs."""

from __future__ import annotations

from torch import nn

from zilu.replacement.calls import Observation
from zilu.replacement.kinds import CALLING_NONE
from zilu.replacement.rewriting import Entry, Plan
from zilu.replacement.sites import FoundCall, site_key

MANY_WAYS = "its forward takes several ways, and one of its calls has to stay"


class CallOrders:
    """Of what was seen, the orders of calls, by their sites' keys.

    Where the runs of one forward make calls of a kind in different orders, all calls of that kind
    in it are to have one module together (`merged`).
    """

    def __init__(self, calls: list[FoundCall], seen: dict[bool, Observation]):
        self._sites = {found.key: found for found in calls}
        self._seen = seen
        self.merged: set[tuple[nn.Module | None, str]] = set()
        for owner, kind in {(f.owner, f.kind) for f in calls if f.is_rewritten}:
            if any(not _are_prefixes(self._of(owner, kind, mode)) for mode in seen):
                self.merged.add((owner, kind))
                self._refuse_where_some_stay(owner, kind)

    def _of(self, owner: nn.Module | None, kind: str, mode: bool) -> set[tuple]:
        """The orders of what a mode will take for calls of `kind`."""
        return {
            tuple(site_key(call) for call in run if self._is_seen_as(call, kind))
            for run in self._seen[mode].sequences.get(owner, ())
        } - {()}

    def _is_seen_as(self, call, kind: str) -> bool:
        # A replaced attribute is a module, of whose calls there will be none.
        site = self._sites.get(site_key(call))
        return call.seen_as == kind and not (site and site.attribute and site.replaceable)

    def _refuse_where_some_stay(self, owner: nn.Module | None, kind: str) -> None:
        keys = {k for mode in self._seen for order in self._of(owner, kind, mode) for k in order}
        sites = [self._sites[key] for key in keys]
        if any(not site.replaceable for site in sites):
            for site in sites:
                site.problem = site.problem or MANY_WAYS

    def plan(self, owner: nn.Module, kinds: tuple[str, ...], left: tuple[str, ...]) -> Plan:
        """For an owner of which calls of `kinds` are replaced, and calls of `left` have to stay."""
        stay = tuple((kind, (Entry(None),)) for kind in left if kind not in kinds)
        both = [
            tuple((kind, self._entries(owner, kind, mode)) for kind in kinds) + stay
            for mode in (True, False)
        ]
        return Plan(*both)

    def _entries(self, owner: nn.Module, kind: str, mode: bool) -> tuple[Entry, ...]:
        """In the order of that mode, or of the other one where it has no such calls."""
        orders = [
            order
            for each in (mode, not mode)
            if each in self._seen
            for order in sorted(self._of(owner, kind, each), key=len, reverse=True)[:1]
        ]
        entries = tuple(self._entry(key) for key in orders[0])
        if (owner, kind) in self.merged:
            return entries[:1]
        return entries

    def _entry(self, key: tuple) -> Entry:
        site = self._sites[key]
        if not site.replaceable:
            return Entry(None)
        return Entry(site.name, type(site.new) not in CALLING_NONE, site.writes_back)

    def left_kinds(
        self, kinds: set[str], replaced: set[nn.Module]
    ) -> dict[nn.Module, tuple[str, ...]]:
        """By module, the kinds of its calls that stay; without modules that are replaced."""
        left: dict[nn.Module, set[str]] = {}
        for run in self._seen.values():
            for call in run.calls:
                site = self._sites.get(site_key(call))
                stays = site is None or not site.replaceable
                is_there = call.owner is not None and call.owner not in replaced
                if stays and is_there and call.seen_as in kinds:
                    left.setdefault(call.owner, set()).add(call.seen_as)
        return {owner: tuple(sorted(of_owner)) for owner, of_owner in left.items()}


def _are_prefixes(orders: set[tuple]) -> bool:
    """Whether each is how the longest one begins."""
    longest = max(orders, key=len, default=())
    return all(longest[: len(order)] == order for order in orders)
