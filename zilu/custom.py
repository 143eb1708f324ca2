"""Load an activation of the user's own: `package.module:Name` or `path/to/file.py:Name`.

Name is a class of modules, or a function of one tensor. Loading runs the code of the file or the
module, so it is only done for a name that the user has given. A file is imported under a name of
its own, and files beside it that it imports are found as a script finds them.
"""

import ast
import difflib
import functools
import hashlib
import importlib
import inspect
import itertools
import os
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zilu.names import CUSTOM_FORMS, CustomName, custom_name

# Arguments of a constructor that have a meaning here, and flags of their own in the programs.
OPTIONS = ("sigma", "learnable", "inplace")

# What an activation is tried on: as between convolutions, linear layers over a sequence, and others.
CHANNELS = 8
SHAPES: tuple[Callable[[int], tuple[int, ...]], ...] = (
    lambda channels: (2, channels, 4, 4),
    lambda channels: (2, 4, channels),
    lambda channels: (2, channels),
)
TORCH = "torch"
CURVE_FROM, CURVE_TO, CURVE_POINTS = -5.0, 3.0, 401


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
        default = self.parameters["sigma"].default if self.takes("sigma") else None
        return float(default) if isinstance(default, int | float) else None

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
                f"{self.name} takes `inplace`, but its attribute `inplace` does not say so, as those "
                "of torch.nn do: add self.inplace = inplace, or leave out inplace"
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
                f"{self.name} cannot be made with {_shown(options)} "
                f"({reason(error, self.source)}{takes})"
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
    sigma = getattr(module, "sigma", None)
    if isinstance(sigma, Tensor):
        return sigma.float().mean() if sigma.dim() and sigma.numel() else sigma
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
    module, contents = _import_file(name, Path(place)) if name.is_file else _import_module(name)
    target = getattr(module, name.name, None)
    if target is None:
        known = [each for each in vars(module) if not each.startswith("_")]
        near = difflib.get_close_matches(name.name, known, n=1)
        hint = f"; did you mean {name.place}:{near[0]}?" if near else ""
        raise ValueError(f"{name}: there is no {name.name} in {name.place}{hint}")
    _check_target(name, target)
    if not name.is_file:
        contents |= _file_of(sys.modules.get(getattr(target, "__module__", None) or ""))
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


def _import_module(name: CustomName) -> tuple[types.ModuleType, dict[str, bytes]]:
    try:
        module = importlib.import_module(name.place)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not f"{name.place}.".startswith(f"{missing}."):
            raise ValueError(_failed_import(name, error)) from None
        raise ValueError(
            f"{name}: there is no module {missing} here: install it, set PYTHONPATH, or name a file, "
            "path/to/file.py:Name"
        ) from None
    except (Exception, SystemExit) as error:
        raise ValueError(_failed_import(name, error)) from None
    return module, _file_of(module)


def _failed_import(name: CustomName, error: BaseException, path: str | None = None) -> str:
    return f"{name}: its import fails ({_described(error, path)})"


def _file_of(module: types.ModuleType | None) -> dict[str, bytes]:
    """Return the bytes of a module's file by the module's name; none for one that is built in."""
    path = getattr(module, "__file__", None)
    if module is None or path is None or not Path(path).is_file():
        return {}
    return {module.__name__: Path(path).read_bytes()}


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
            return (
                f"{each} had SHA-256 {digests[0]} ({before.get('path')}) and has {digests[1]} "
                f"({now.path})"
            )
    if before.get("version") != now.version:
        return f"{name.place} was of version {before.get('version')} and is of {now.version}"
    return None


# --- importing a file ---


def _import_file(name: CustomName, path: Path) -> tuple[types.ModuleType, dict[str, bytes]]:
    """Run a file as a module of a name that nothing else has.

    Returns:
        The module, and the bytes of the file and its neighbours by their names.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        beside = "" if os.path.isabs(name.place) else f" in {os.getcwd()}"
        raise ValueError(f"{name}: there is no file {name.place}{beside}") from None
    except OSError as error:
        raise ValueError(f"{name}: {path} cannot be read ({error.strerror})") from None
    digest = hashlib.sha256(str(path).encode("utf-8", "surrogateescape") + content).hexdigest()
    module = types.ModuleType(f"custom_{path.stem}_{digest[:16]}")
    module.__file__ = str(path)
    is_new = module.__name__ not in sys.modules  # else another name of this file has been loaded
    module = sys.modules.setdefault(module.__name__, module)
    try:
        code = compile(content, str(path), "exec", dont_inherit=True)
        neighbours = _neighbours(path, content)
        _check_loaded(name, neighbours)
        if is_new:
            _run(code, module, path.parent)
        _check_loaded(name, neighbours)
    except (Exception, SystemExit) as error:
        sys.modules.pop(module.__name__, None)
        if isinstance(error, _Shadowed):
            raise ValueError(str(error)) from None
        raise ValueError(_failed_import(name, error, str(path))) from None
    except BaseException:
        sys.modules.pop(module.__name__, None)
        raise
    files = {str(each.relative_to(path.parent)): each for each in _files(neighbours)}
    beside = {name: each.read_bytes() for name, each in sorted(files.items())}
    return module, {path.name: content} | beside


def _run(code: types.CodeType, module: types.ModuleType, folder: Path) -> None:
    """Run a module's code, which finds its neighbours in `folder`."""
    sys.path.insert(0, str(folder))
    try:
        exec(code, module.__dict__)
    finally:
        if str(folder) in sys.path:  # unless the code has removed it
            sys.path.remove(str(folder))


def _neighbours(path: Path, content: bytes) -> dict[str, Path]:
    """Return what a file imports from its own folder, and what that does: file or folder by name.

    This toolkit's own package is none of them.
    """
    found: dict[str, Path] = {}
    queue = [content]
    while queue:
        for name in _imported_names(queue.pop()):
            place = next(filter(Path.is_file, _places(path.parent, name)), None)
            if place is None or name in found or name == __package__ or place == path:
                continue
            found[name] = place
            queue += [each.read_bytes() for each in _files({name: place})]
    return found


def _places(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / name / "__init__.py", folder / f"{name}.py"


def _imported_names(content: bytes) -> Iterator[str]:
    """Yield the first parts of the names of modules that a file imports, anywhere in it."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


def _files(neighbours: Mapping[str, Path]) -> Iterator[Path]:
    """Yield the files of these modules, all of a package's."""
    for place in neighbours.values():
        yield from sorted(place.parent.rglob("*.py")) if place.name == "__init__.py" else [place]


class _Shadowed(Exception):
    """Report that an import would get, or got, another module than the file in the same folder."""


def _check_loaded(name: CustomName, neighbours: Mapping[str, Path]) -> None:
    for each, place in neighbours.items():
        module = sys.modules.get(each)
        there = getattr(module, "__file__", None)
        if module is not None and (there is None or Path(there).resolve() != place.resolve()):
            raise _Shadowed(
                f"{name} imports {each}, which lies beside it, but another module of that name is "
                f"loaded already ({there or 'built in'}): rename {place.name} there"
                if place.name != "__init__.py"
                else f"{name} imports the package {each} beside it, but another of that name is "
                f"loaded already ({there or 'built in'}): rename it"
            )


def reason(error: BaseException, source: Source) -> str:
    """Return an error's type, message, and the line of the activation's file that it came from."""
    return _described(error, source.path)


def _described(error: BaseException, path: str | None) -> str:
    text = " ".join(str(error).split()).partition(" Hint: ")[0]
    text = f"{text[:300]} ..." if len(text) > 300 else text
    if isinstance(error, SyntaxError):
        file, line = error.filename, error.lineno
        text = str(error.msg)
    else:
        frames = traceback.extract_tb(error.__traceback__)
        mine = [frame for frame in frames if path is None or frame.filename == path]
        last = mine[-1] if mine else None
        file, line = (last.filename, last.lineno) if last else (None, None)
    place = f"line {line} of {Path(file).name}: " if file else ""
    return f"{place}{type(error).__name__}{': ' if text else ''}{text}"


def is_to_blame(error: BaseException, source: Source) -> bool:
    """Return whether an error came out of the activation's file."""
    return any(frame.filename == source.path for frame in traceback.extract_tb(error.__traceback__))


# --- trying out ---


def check(
    name: str,
    sigma: float = 1.0,
    learnable: bool = False,
    inplace: bool = False,
    args: Mapping[str, Any] | None = None,
) -> CustomActivation:
    """Load an activation and try it on small tensors, forward and backward, on the CPU.

    Random generators stay as they are.

    Raises:
        ValueError: it cannot be loaded or made, or is not fit to train with. One line with the
            reason.
    """
    with torch.random.fork_rng(devices=[]):
        found = load(name)
        module = found.make(sigma, learnable, inplace, args)
        _fitting_shape(found, module, learnable)
    return found


def _fitting_shape(
    found: CustomActivation, module: nn.Module, learnable: bool = False
) -> tuple[int, ...]:
    """Return a shape that the activation takes, as (samples, ...).

    Raises:
        ValueError: there is none; the reason is that of the first one.
    """
    if learnable and not any(p.requires_grad for p in module.parameters()):
        raise ValueError(f"{found.name} made with learnable=True has no parameters to learn")
    tensors = itertools.chain(module.parameters(), module.buffers())
    sizes = (size for tensor in tensors for size in tensor.shape if size > 1)
    problems = []
    for channels in dict.fromkeys((CHANNELS, *sizes)):
        for shape in SHAPES:
            problem = _problem(found, module, shape(channels))
            if problem is None:
                return shape(channels)
            problems.append(problem)
    raise ValueError(f"{found.name} {problems[0]}")


def _problem(found: CustomActivation, module: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Return what is wrong with an activation on inputs of that shape, None if nothing is."""
    count = torch.Size(shape).numel()
    leaf = torch.linspace(-3, 3, count).view(shape).requires_grad_()  # an even count: 0 is left out
    x = leaf * 1  # autograd lets nothing work in place on a leaf
    before = x.detach().clone()
    with torch.enable_grad():
        try:
            y = module(x)
        except Exception as error:
            return f"fails on a tensor of shape {shape} ({reason(error, found.source)})"
        wrong = _wrong_result(y, shape)
        if wrong:
            return wrong
        if not torch.equal(x.detach(), before) and not getattr(module, "inplace", False):
            return (
                "overwrites its input, which networks may still need: compute without in-place "
                "operations, or take an argument `inplace` for that"
            )
        known = {id(leaf), *map(id, module.parameters())}
        if any(id(each) not in known for each in _leaves(y)):
            return (
                "uses a tensor with requires_grad that is no parameter of a module, so it would not "
                "be trained: make it a class, with self.NAME = nn.Parameter(...) in its __init__"
            )
        try:
            y.backward(torch.ones_like(y))
        except Exception as error:
            return f"fails in the backward pass ({reason(error, found.source)})"
    if leaf.grad is None:
        return "gives a result that does not depend on its input by differentiable operations"
    for what, values in (("", y), ("slopes that are ", leaf.grad)):
        if values.isnan().all():
            return f"gives {what}NaN everywhere between -3 and 3"
    return None


def _wrong_result(y: Any, shape: tuple[int, ...]) -> str | None:
    if not isinstance(y, Tensor):
        return f"returns a {type(y).__name__}, not a tensor"
    if y.shape != shape:
        return f"returns a tensor of shape {tuple(y.shape)} for one of {shape}: it must be the same"
    if y.dtype != torch.float32:
        names = [str(dtype).removeprefix("torch.") for dtype in (y.dtype, torch.float32)]
        return f"returns a tensor of {names[0]} for one of {names[1]}: it must be the same"
    if not y.requires_grad:
        return (
            "gives a result without a gradient (detach, no_grad, a comparison, or NumPy in it): "
            "use differentiable operations of torch alone"
        )
    return None


def _leaves(y: Tensor) -> Iterator[Tensor]:
    """Yield the tensors that a result's gradient flows to."""
    stack, seen = [y.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        stack += [each for each, _ in node.next_functions]


def curve(found: CustomActivation, module: nn.Module) -> dict[str, list[float | None]]:
    """Return x, f(x) and f'(x) as numbers for a figure; None stands for what is not finite.

    Where an activation mixes elements, all of a sample have the value x, and the means count.

    Args:
        found: the activation.
        module: one of its modules, which stays as it is but for its mode.
    """
    with torch.random.fork_rng(devices=[]):
        shape = _fitting_shape(found, module)
        points = torch.linspace(CURVE_FROM, CURVE_TO, CURVE_POINTS)
        x = points.view(-1, *(1 for _ in shape[1:])).expand(-1, *shape[1:]).clone().requires_grad_()
        y = module.eval()(x * 1)
        (slope,) = torch.autograd.grad(y.sum(), x)
    sample = x[0].numel()
    return {
        "x": _numbers(points),
        "f": _numbers(y.detach().reshape(CURVE_POINTS, -1).mean(1)),
        "slope": _numbers(slope.reshape(CURVE_POINTS, -1).sum(1) / sample),
    }


def _numbers(values: Tensor) -> list[float | None]:
    return [
        float(f"{value:.6g}") if finite else None
        for value, finite in zip(values.tolist(), values.isfinite().tolist(), strict=True)
    ]


def outside(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Return a network's modules by path, without those inside a user's own activation."""
    inside = {part for site in model.modules() if is_custom(site) for part in site.modules()}
    return [(path, part) for path, part in model.named_modules() if part not in inside]
