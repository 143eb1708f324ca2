"""Hold a user's own activation, loaded by its name: the class or the function, and its source."""

import difflib
import functools
import hashlib
import inspect
import os
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zilu.custom.importing import described, file_of, import_file, import_module
from zilu.names import CUSTOM_FORMS, CustomName, custom_name

# Arguments of a constructor that have a meaning here, and flags of their own in the programs.
OPTIONS = ("sigma", "learnable", "inplace")
TORCH = "torch"


class FunctionActivation(nn.Module):
    """Apply a function of one tensor.

    Args:
        function: takes the input and `options`.
        name: what the module's text calls it.
        options: further arguments of the function.
    """

    def __init__(
        self, function: Callable[..., Tensor], name: str, options: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.function, self.name, self.options = function, name, dict(options or {})

    @property
    def inplace(self) -> bool:
        """Return whether the function is told to write over its input."""
        return bool(self.options.get("inplace"))

    @inplace.setter
    def inplace(self, inplace: bool) -> None:
        self.options["inplace"] = inplace

    @property
    def sigma(self) -> float | None:
        """Return the sharpness that the function is given."""
        return self.options.get("sigma")

    def forward(self, input: Tensor) -> Tensor:
        return self.function(input, **self.options)

    def _get_name(self) -> str:
        return self.name

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.options.items())


@dataclass(frozen=True)
class Source:
    """Say where an activation's code came from.

    Attributes:
        name: as the user named it, PLACE:NAME.
        path: of the file, or of the module's.
        sha256: of each file that is covered, by its name: the file and those beside it that it
            imports; or the module that was named, and the one that defines the activation.
        version: of the module's package, if it says one.
        text: of those files.
    """

    name: str
    path: str
    sha256: dict[str, str]
    version: str | None
    text: str = field(repr=False)

    def record(self) -> dict[str, Any]:
        """Return what a run keeps of it."""
        found = {"name": self.name, "path": self.path, "sha256": self.sha256}
        return found | ({"version": self.version} if self.version else {})


@dataclass(frozen=True)
class CustomActivation:
    """Hold a loaded activation.

    Attributes:
        name: its parts.
        target: the class, or the function.
        source: where it came from.
    """

    name: CustomName
    target: Callable[..., Any]
    source: Source

    @functools.cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Return what the class's constructor or the function takes; nothing if it does not say."""
        try:
            return inspect.signature(self.target).parameters
        except (TypeError, ValueError):  # a function in C
            return {}

    @property
    def own_sigma(self) -> float | None:
        """Return the sigma that the activation has where none is given."""
        default: Any = self.parameters["sigma"].default if self.takes("sigma") else None
        return float(default) if isinstance(default, int | float) else None

    def reason(self, error: BaseException) -> str:
        """Return an error's type, message, and the line of the activation's code."""
        return described(error, self.source.path)

    def is_to_blame(self, error: BaseException) -> bool:
        """Return whether an error came out of the activation's code."""
        home = sys.modules.get(getattr(self.target, "__module__", None) or "")
        files = {self.source.path, getattr(home, "__file__", None), __file__}
        return any(each.filename in files for each in traceback.extract_tb(error.__traceback__))

    def takes(self, argument: str) -> bool:
        """Return whether there is an argument of that name."""
        return argument in self.parameters

    def make(
        self,
        sigma: float = 1.0,
        learnable: bool = False,
        inplace: bool = False,
        args: Mapping[str, Any] | None = None,
    ) -> nn.Module:
        """Make a new module of the activation.

        Args:
            sigma: passed on where there is an argument of that name.
            learnable: likewise, where it is set; there must be a `sigma` too.
            inplace: likewise, where it is set; ignored where there is no such argument.
            args: further arguments.

        Raises:
            ValueError: an argument that there is not, or the constructor fails.
        """
        options = dict(args or {})
        self._check_options(options, sigma, learnable)
        if self.takes("sigma"):
            options["sigma"] = sigma
        if learnable:
            options["learnable"] = True
        if inplace and self.takes("inplace"):
            options["inplace"] = True
        module = self._made(options)
        if options.get("inplace") and getattr(module, "inplace", None) is not True:
            raise ValueError(
                f"{self.name} takes `inplace`, but has no attribute `inplace` that says so, as "
                "those of torch.nn have: add self.inplace = inplace, or leave out inplace"
            )
        _mark(module)
        return module

    def _check_options(self, args: dict[str, Any], sigma: float, learnable: bool) -> None:
        for option in OPTIONS:
            if option in args:
                raise ValueError(
                    f"{self.name}: {option} is not among the further arguments, but one of its own"
                )
        if learnable and not (self.takes("sigma") and self.takes("learnable")):
            raise ValueError(
                f"{self.name} has no sigma to learn: it must take the arguments `sigma` and "
                "`learnable`"
            )
        if sigma != 1 and not self.takes("sigma"):
            raise ValueError(
                f"{self.name} has no argument `sigma`: leave out sigma, or give it under the name "
                "that it has there, with the further arguments"
            )

    def _made(self, options: dict[str, Any]) -> nn.Module:
        if not isinstance(self.target, type):
            return FunctionActivation(self.target, self.name.name, options)
        try:
            module = self.target(**options)
        except Exception as error:
            known = [p for p in self.parameters if p not in OPTIONS]
            takes = f"; it takes {', '.join(known)}" if known else ""
            raise ValueError(
                f"{self.name} cannot be made with {_shown(options)} ({self.reason(error)}{takes})"
            ) from None
        if not isinstance(module, nn.Module):
            raise ValueError(f"{self.name} makes a {type(module).__name__}, not a module")
        return module


def _shown(options: Mapping[str, Any]) -> str:
    shown = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return shown or "no arguments"


def _mark(module: nn.Module) -> None:
    module.is_custom_activation = True  # type: ignore[assignment]  # torch types them as modules


def is_custom(module: nn.Module) -> bool:
    """Return whether a module is an activation of the user's own."""
    return "is_custom_activation" in vars(module)


def sigma_of(module: nn.Module) -> Tensor | float | None:
    """Return an activation's sigma, the mean where there are several; None if it has no number."""
    sigma: Any = getattr(module, "sigma", None)
    if isinstance(sigma, Tensor):
        several = sigma.float().mean() if sigma.numel() else None
        return several if sigma.dim() else sigma
    is_number = isinstance(sigma, int | float) and not isinstance(sigma, bool)
    return float(sigma) if is_number else None


def is_function_of_a_tensor(target: object) -> bool:
    """Return whether a callable wants an argument, and is no class: torch.tanh, F.mish."""
    if isinstance(target, type) or not callable(target):
        return False
    if isinstance(target, types.BuiltinFunctionType):
        return True
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    wanted = [p for p in parameters if p.default is p.empty and p.kind in positional]
    return len(wanted) == 1


# --- loading ---


def load(name: str) -> CustomActivation:
    """Return the activation of that name; its file or module is imported, once.

    Raises:
        ValueError: there is none, its import fails, or it is neither a class of modules nor a
            function. One line with the reason.
    """
    parts = custom_name(name)
    if parts is None:
        raise ValueError(f"an activation of your own is named {CUSTOM_FORMS}, not {name!r}")
    return _loaded(parts, os.path.abspath(parts.place) if parts.is_file else parts.place)


@functools.cache
def _loaded(name: CustomName, place: str) -> CustomActivation:
    module, contents = import_file(name, Path(place)) if name.is_file else import_module(name)
    target = getattr(module, name.name, None)
    if target is None:
        known = [each for each in vars(module) if not each.startswith("_")]
        near = difflib.get_close_matches(name.name, known, n=1)
        hint = f"; did you mean {name.place}:{near[0]}?" if near else ""
        raise ValueError(f"{name}: there is no {name.name} in {name.place}{hint}")
    _check_target(name, target)
    if not name.is_file:
        contents |= file_of(sys.modules.get(getattr(target, "__module__", None) or ""))
    return CustomActivation(name, target, _source(name, module, contents))


def _check_target(name: CustomName, target: object) -> None:
    if isinstance(target, nn.Module):
        raise ValueError(
            f"{name} is one module, which all places would share: name its class, or a function "
            "of one tensor"
        )
    if isinstance(target, type) and not issubclass(target, nn.Module):
        further = ", or a function that calls its apply" * issubclass(
            target, torch.autograd.Function
        )
        raise ValueError(
            f"{name} is a class, but not of modules: derive it from torch.nn.Module, or name a "
            f"function of one tensor{further}"
        )
    if not callable(target):
        raise ValueError(
            f"{name} is of type {type(target).__name__}, and cannot be called: name a class of "
            "modules, or a function of one tensor"
        )


def _source(name: CustomName, module: types.ModuleType, contents: dict[str, bytes]) -> Source:
    texts = {each: content.decode("utf-8", "replace") for each, content in contents.items()}
    is_text = {each: "\0" not in text for each, text in texts.items()}
    if len(texts) == 1:  # as it is, to be taken from there again
        text = "".join(text for each, text in texts.items() if is_text[each])
    else:
        text = "\n".join(f"# --- {each}\n\n{texts[each]}" for each in texts if is_text[each])
    package = sys.modules.get(name.place.partition(".")[0]) if not name.is_file else None
    version = getattr(package, "__version__", None)
    return Source(
        name=str(name),
        path=str(getattr(module, "__file__", None) or name.place),
        sha256={each: hashlib.sha256(content).hexdigest() for each, content in contents.items()},
        version=None if version is None else str(version),
        text=text,
    )


def difference(before: Mapping[str, Any], now: Source) -> str | None:
    """Return in what a source differs from the record of an earlier one, None if in nothing.

    Where it lies does not matter. torch's own modules change with torch, as all of its operations
    do: its version is noted by whoever records sources, and is no difference here.
    """
    name = custom_name(now.name)
    assert name is not None, "a source has the name that it was loaded by"
    if name.place.partition(".")[0] == TORCH and not name.is_file:
        return None
    then: Mapping[str, str] = before.get("sha256", {})
    for each in sorted({*then, *now.sha256}):
        if then.get(each) != now.sha256.get(each):
            digests = [digests.get(each, "no part of it") for digests in (then, now.sha256)]
            folders = [os.path.dirname(path) for path in (before.get("path", ""), now.path)]
            return (
                f"{each} had SHA-256 {digests[0]} (in {folders[0]}) and has {digests[1]} "
                f"(in {folders[1]})"
            )
    if before.get("version") != now.version:
        return f"{name.place} was of version {before.get('version')} and is of {now.version}"
    return None
