"""Find optimizers in their libraries, give them their arguments, and put two behind one step."""

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch.optim import Optimizer

from cli.converters import arguments, mapping_text
from cli.optimizer_names import LIBRARIES, SCHEDULE_FREE
from cli.training import TrainingConfig
from utils import UserError, nearest

# Arguments that flags give: of every class, and of a class of torch's that has flags of its own.
FLAGS = {"lr": "--lr", "weight_decay": "--weight_decay"}
OWN_FLAGS = {"momentum": "--momentum", "nesterov": "--nesterov", "betas": "--beta1, --beta2"}
CLASSES = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}


@dataclass(frozen=True)
class Source:
    """Hold how a library makes an optimizer.

    Attributes:
        make: returns the optimizer of parameter groups, and of arguments by name.
        takes: the arguments, with the library's defaults.
    """

    make: Callable[..., Optimizer]
    takes: dict[str, Any]


def source_of(name: str) -> Source:
    """Return where an optimizer comes from; `name` is as --optimizer converts it.

    Raises:
        UserError: the library is not installed, too old, or has no such optimizer.
    """
    if name in CLASSES:
        return _class_source(CLASSES[name])
    prefix, slash, in_library = name.partition("/")
    if not slash:
        return _class_source(_attribute(torch.optim, name, name))
    if prefix == "timm":
        return _timms(name, in_library)
    return _class_source(_attribute(_library(name, prefix), in_library, name))


def _class_source(found: type[Optimizer]) -> Source:
    return Source(found, _parameters(found))


def _parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """Return what a class takes beside the parameters to train, with the defaults."""
    named = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in named if each.name != "params"}


def _library(name: str, module: str) -> ModuleType:
    package = LIBRARIES[name.partition("/")[0]]
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(
            f"--optimizer {name}: {package} is not installed; pip install {package}"
        ) from None


def _attribute(module: ModuleType, name: str, shown: str) -> type[Optimizer]:
    found = getattr(module, name, None)
    if found is None:
        raise UserError(
            f"--optimizer {shown}: {module.__name__} has none of that name in the version that is "
            "installed; take another one"
        )
    return found


def _timms(shown: str, name: str) -> Source:
    """Return what timm.optim.create_optimizer_v2 makes of a name, else the class of that name."""
    optim = _library(shown, "timm.optim")
    if not hasattr(optim, "get_optimizer_info"):
        raise UserError(f"--optimizer {shown}: needs timm 1.0.12 or newer; pip install -U timm")
    names = optim.list_optimizers()
    if name.removeprefix("lookahead_") in names:
        info = optim.get_optimizer_info(name.removeprefix("lookahead_"))
        if info.second_order:
            raise UserError(f"--optimizer {shown}: it needs second derivatives (create_graph)")
        takes = _parameters(info.opt_class) | (info.defaults or {})
        takes |= {"momentum": 0.9} if info.has_momentum else {}  # create_optimizer_v2's own
        return Source(partial(optim.create_optimizer_v2, opt=name), takes)
    classes = {
        each.lower(): found
        for each, found in vars(optim).items()
        if inspect.isclass(found) and issubclass(found, Optimizer)
    }
    if name not in classes:
        raise UserError(f"--optimizer {shown}: unknown to timm; {nearest(name, names)}")
    return _class_source(classes[name])


# --- arguments ---


def arguments_of(config: TrainingConfig, source: Source) -> dict[str, Any]:
    """Return the arguments of the configuration's optimizer beside groups, lr and weight decay.

    Raises:
        UserError: the class does not take one of them, or one is given in two ways.
    """
    by_flags = _given_by_flags(config, source)
    given = {name: _as_tuple(value) for name, value in arguments(config.optimizer_args).items()}
    taken_by_flags = FLAGS | (OWN_FLAGS if not config.has_library_optimizer else {})
    taken_by_flags |= {name: OWN_FLAGS[name] for name in by_flags}
    if config.optimizer.startswith(SCHEDULE_FREE):
        taken_by_flags |= {"warmup_steps": "--warmup"}
    for name in given:
        if name in taken_by_flags:
            raise UserError(f"--optimizer_args: {name} is what {taken_by_flags[name]} gives")
        if name not in source.takes:
            known = [each for each in source.takes if each not in taken_by_flags]
            raise UserError(
                f"--optimizer_args: {config.optimizer} takes no {name}; {nearest(name, known)}"
            )
    return by_flags | given


def _given_by_flags(config: TrainingConfig, source: Source) -> dict[str, Any]:
    """Return momentum and betas, as far as the flags give them."""
    if config.optimizer == "sgd":
        return {"momentum": config.momentum, "nesterov": config.nesterov}
    if not config.has_library_optimizer:
        return {"betas": (config.beta1, config.beta2)}
    found = {"momentum": config.momentum, "nesterov": config.nesterov}
    found = {name: value for name, value in found.items() if value is not None}
    if config.beta1 is not None or config.beta2 is not None:
        found["betas"] = _betas(config, source)
    for name in found:
        if name not in source.takes:
            raise UserError(f"{OWN_FLAGS[name]}: {config.optimizer} takes no {name}; leave it out")
    return found


def _betas(config: TrainingConfig, source: Source) -> Any:
    """Return --beta1 and --beta2, the class's own in the place of one that is not given."""
    default = source.takes.get("betas", (None, None))
    own = default if isinstance(default, tuple) else (None, None)
    flags = (config.beta1, config.beta2)
    found = tuple(mine if flag is None else flag for flag, mine in zip(flags, own, strict=False))
    if len(own) != 2 or ("betas" in source.takes and None in found):
        raise UserError(
            f"--beta1, --beta2: not the betas of {config.optimizer}; give them all by "
            "--optimizer_args"
        )
    return found


def _as_tuple(value: Any) -> Any:
    """Return lists of YAML as the tuples that the classes have."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def settings_text(optimizer: Optimizer, name: str) -> str:
    """Return all arguments that an optimizer came to but rate and decay, for args.txt."""
    group = optimizer.param_groups[0]
    names = [each for each in source_of(name).takes if each in group and each not in FLAGS]
    return mapping_text({each: group[each] for each in names if _is_plain(group[each])})


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, tuple))


# --- two optimizers, and weights that are not those that are trained ---


class Together(Optimizer):
    """Make one optimizer of several, each with parameters of its own.

    Groups and state are shared with the parts: what is set here, they see.
    """

    def __init__(self, *parts: Optimizer):
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            own = [next(groups) for _ in part.param_groups]
            part.__setstate__({"state": self.state, "param_groups": own})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Make a step of each part."""
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of all parts."""
        super().load_state_dict(state_dict)
        self._share()


def averages(optimizer: Optimizer) -> bool:
    """Return whether other weights are to be evaluated than those that are trained."""
    return hasattr(optimizer, "eval")


@contextmanager
def evaluated_weights(optimizer: Optimizer) -> Iterator[None]:
    """Give the network the weights that are to be evaluated, and then back those of the training.

    schedulefree's own way back is another rounding; here a copy is put back, bit for bit.
    """
    if not averages(optimizer):
        yield
        return
    trained = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    keep_evaluated_weights(optimizer)
    try:
        yield
    finally:
        copies = iter(trained)
        with torch.no_grad():
            for group in optimizer.param_groups:
                group["train_mode"] = True
                for parameter in group["params"]:
                    parameter.copy_(next(copies))


def begin_training(optimizer: Any) -> None:
    """Tell an optimizer that averages weights that it is to be stepped."""
    if averages(optimizer):
        with redirect_stdout(None):  # some of schedulefree's say so each time
            optimizer.train()


def keep_evaluated_weights(optimizer: Any) -> None:
    """Give the network the weights that are to be evaluated, for good."""
    if averages(optimizer):
        with redirect_stdout(None):
            optimizer.eval()
