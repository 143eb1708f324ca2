"""Find the repeated blocks of any network by its structure."""

from collections import Counter
from collections.abc import Iterator

from torch import nn

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def repeated_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Return the blocks of a network by their paths, none inside another.

    A block is of a class that a container (Sequential, ModuleList, ModuleDict) has at least twice,
    with several layers inside, and no container itself: a ResNet's residual blocks, a transformer's
    layers. Where blocks are in stages that are repeated as well (ConvNeXt, Swin), those inside
    count. A block that shares a parameter with what is outside it is left out.
    """
    found = {path: block for path, block in model.named_modules() if _is_unit(block)}
    kinds = {kind for parent in model.modules() for kind in _repeated_in(parent)}
    stages = {
        type(block)
        for block in found.values()
        if any(type(inner) in kinds for inner in block.modules() if inner is not block)
    }
    kept: dict[str, nn.Module] = {}
    for path, block in found.items():
        is_inside = any(path.startswith(f"{outer}.") for outer in kept)
        if type(block) in kinds - stages and not is_inside and _in_container(model, path):
            kept[path] = block
    return {path: block for path, block in kept.items() if not _shares(model, block)}


def _is_unit(module: nn.Module) -> bool:
    """Return whether a module has several layers with parameters, and is no mere container."""
    layers = [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]
    return not isinstance(module, CONTAINERS) and len(layers) > 1


def _repeated_in(parent: nn.Module) -> Iterator[type[nn.Module]]:
    """Yield the classes that a container has at least twice."""
    if isinstance(parent, CONTAINERS):
        kinds = Counter(type(child) for child in parent.children() if _is_unit(child))
        yield from (kind for kind, count in kinds.items() if count > 1)


def _in_container(model: nn.Module, path: str) -> bool:
    return isinstance(model.get_submodule(path.rpartition(".")[0]), CONTAINERS)


def _shares(model: nn.Module, block: nn.Module) -> bool:
    own = set(block.modules())
    inside = {id(p) for p in block.parameters()}
    outside = (m for m in model.modules() if m not in own)
    return any(id(p) in inside for m in outside for p in m.parameters(recurse=False))
