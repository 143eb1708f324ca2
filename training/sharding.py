"""Shard a network over the processes: each keeps some rows of every parameter (--shard).

torch's fully_shard (FSDP2) does the work in forward and backward: before a block runs, its
parameters are gathered, and after it they are given back; gradients arrive as the mean over the
ranks, of which each keeps its rows. Here stands the rest. A parameter outside forward and backward
is a DTensor, and `local` is this rank's rows of it as a plain parameter, over the same memory:
optimizer and averages work on those, with the kernels that they have without --shard. That is right
for optimizers that work number by number; `check_optimizer` refuses the others.
"""

import importlib
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torch.utils.weak import WeakTensorKeyDictionary

from cli.training import TrainingConfig
from run_folder.checkpoint import save_rows, shards_of
from run_folder.shards import KEY, MARK, Rows, apart, is_mark, rows_of
from training import processes
from training.blocks import repeated_blocks
from training.layer_decay import NumberedLayers
from training.recompute import recompute_blocks
from utils import UserError, rank, world_size
from zilu.custom.activation import is_custom
from zilu.replacement.kinds import kind_of_module

FSDP = "torch.distributed.fsdp"  # half a second to import, for runs with --shard alone
_LOCAL = WeakTensorKeyDictionary()  # the plain parameter over a DTensor's rows
CLOSE = 1e-6  # two ways to round differ by less in float64, and two optimizers by more


# --- the network ---


def is_asked(config: TrainingConfig) -> bool:
    """Return whether a network is to be sharded."""
    return config.shard and world_size() > 1


def first_device(config: TrainingConfig, device: torch.device) -> torch.device:
    """Return where a network is built: one that is to be sharded may not fit on its device."""
    return torch.device("cpu") if is_asked(config) else device


def prepare(model: nn.Module, config: TrainingConfig, device: torch.device) -> None:
    """Let a network recompute its activations, and shard it, as the flags ask for.

    Args:
        model: the network, complete; it is changed in place.
        config: with the flags.
        device: this process's.

    Raises:
        UserError: that cannot be done with this network.
    """
    if config.activation_checkpointing:
        recompute_blocks(model)
    if is_asked(config):
        shard(model, device)
    elif config.shard:
        print("Note: --shard has no effect with one process; torchrun starts several")


def is_sharded(model: nn.Module) -> bool:
    """Return whether `shard` has been called on the network."""
    return hasattr(model, "set_requires_gradient_sync")


def is_parted(tensor: object) -> bool:
    """Return whether a tensor is a DTensor, of which this rank has some rows."""
    return hasattr(tensor, "to_local")


def shard(model: nn.Module, device: torch.device) -> None:
    """Shard a network, in place: its repeated blocks one by one, and what is left as the last.

    All ranks get the main process's weights. No more than one block is whole on the device at once.

    Args:
        model: the network; it may be on the CPU.
        device: where it is to be.

    Raises:
        UserError: a parameter has no dimensions, so that it cannot be parted.
    """
    for name, parameter in model.named_parameters():
        if not parameter.dim():
            raise UserError(
                f"--shard: {name} is a parameter without dimensions, which cannot be parted; make "
                "it one of shape (1,)"
            )
        parameter.data = parameter.data.contiguous()  # not channels last: FSDP2 takes no others
        distributed.broadcast(parameter.data, src=0)
    processes.share_buffers(model)
    # Casts that autocast keeps for a second use would stay whole until the end of forward.
    torch.set_autocast_cache_enabled(False)
    mesh = distributed.init_device_mesh(device.type, (world_size(),))
    fully_shard = importlib.import_module(FSDP).fully_shard
    for unit in (*repeated_blocks(model).values(), model):
        name = type(unit).__name__
        fully_shard(unit, mesh=mesh)
        type(unit).__name__ = name  # its class is one of FSDP's now, which model.txt is not to show
    model.register_forward_hook(_give_back)


def _give_back(model: Any, _: object, output: object) -> None:
    """Give the parameters outside the blocks back, which FSDP2 keeps for a backward pass.

    Without one, a change of the weights, as to averaged ones, would not reach the next pass.
    """
    if not torch.is_grad_enabled():
        model.reshard()


def local(tensor: Tensor) -> Tensor:
    """Return this rank's rows of a sharded parameter, over its memory; else the tensor itself."""
    if not is_parted(tensor):
        return tensor
    if tensor not in _LOCAL:
        rows = cast(Any, tensor).to_local().detach()
        _LOCAL[tensor] = nn.Parameter(rows, requires_grad=tensor.requires_grad)
    return cast(Tensor, _LOCAL[tensor])


def local_groups(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return an optimizer's groups with this rank's rows in the place of sharded parameters."""
    return [group | {"params": [local(p) for p in group["params"]]} for group in groups]


def synchronised(replicas: nn.Module, model: nn.Module, now: bool) -> AbstractContextManager[None]:
    """Return a context in which backward averages the gradients so far, or leaves them local.

    Args:
        replicas: what `processes.replicated` returned.
        model: the network.
        now: average them.
    """
    return _parted(model, now) if is_sharded(model) else processes.synchronised(replicas, now)


@contextmanager
def _parted(model: Any, now: bool) -> Iterator[None]:
    """Average the gradients of the backward pass inside, or add them up whole, without a message.

    Averaged with those before, each parameter's rows are the gradient of its plain parameter.
    """
    model.set_requires_gradient_sync(now)
    yield
    if now:
        for parameter in model.parameters():
            if parameter.grad is not None:
                local(parameter).grad = parameter.grad.to_local()
                parameter.grad = None


@contextmanager
def whole_activations(model: nn.Module) -> Iterator[None]:
    """Give the activations whole parameters inside the block, to be read.

    All ranks must call it: a sigma has one number, which one rank has.
    """
    replaced: list[tuple[dict[str, Any], str, Any, nn.Parameter]] = []
    modules = model.modules() if is_sharded(model) else ()
    for module in (m for m in modules if kind_of_module(m) or is_custom(m)):
        parameters: dict[str, Any] = module._parameters
        for name, parameter in parameters.items():
            if is_parted(parameter):
                whole = nn.Parameter(parameter.full_tensor().detach(), parameter.requires_grad)
                replaced.append((parameters, name, parameter, whole))
    for parameters, name, _, whole in replaced:
        parameters[name] = whole
    try:
        yield
    finally:
        for parameters, name, parameter, _ in replaced:
            parameters[name] = parameter


# --- a step of the optimizer ---


def unscale_and_clip(
    model: nn.Module, optimizer: Optimizer, scaler: torch.amp.GradScaler, config: TrainingConfig
) -> None:
    """Bring the gradients to their own scale, and their norm over all ranks to --clip_grad_norm.

    Args:
        model: the network.
        optimizer: of it.
        scaler: of fp16; all ranks skip a step that one of them would.
        config: with the largest norm; 0 leaves it as it is.
    """
    largest = config.clip_grad_norm
    if not is_sharded(model):
        if largest:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), largest)
        return
    scaler.unscale_(optimizer)
    if scaler.is_enabled():
        for found in scaler._found_inf_per_device(optimizer).values():
            distributed.all_reduce(found, distributed.ReduceOp.MAX)
    if largest:
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        own = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        norm = processes.total(own.square()).sqrt()
        nn.utils.clip_grads_with_norm_(trained, largest, norm)


def check_optimizer(name: str, build: Callable[[nn.Module], Optimizer]) -> None:
    """Refuse an optimizer that looks at more than each number by itself.

    Its steps on two halves of the rows are compared with those on the whole.

    Args:
        name: of the optimizer.
        build: returns it for a network.

    Raises:
        UserError: they differ, so that it cannot work on rows.
    """
    generator = torch.Generator().manual_seed(0)
    # Two layers, large enough for optimizers that leave small matrices alone; three steps.
    whole = torch.randn(2, 64, 48, generator=generator, dtype=torch.float64)
    gradients = torch.randn(3, 2, 64, 48, generator=generator, dtype=torch.float64)
    gradients[:, :, 20:] *= 10
    parts = (slice(0, 64), slice(0, 20), slice(20, 64), slice(64, 64))
    try:
        found, *by_parts = (_change(build, whole[:, p], gradients[:, :, p]) for p in parts)
        difference = (found - torch.cat(by_parts, 1)).abs().max()
        if difference < CLOSE * found.abs().max():
            return
    except Exception:  # of many kinds, in many libraries, for no rows
        pass
    raise UserError(
        f"--shard: --optimizer {name} needs whole matrices, of which each process has some rows "
        "here; take adamw, sgd or another that works number by number, or leave out --shard"
    )


def _change(build: Callable[[nn.Module], Optimizer], weights: Tensor, gradients: Tensor) -> Tensor:
    """Return by how much a few steps change the weights of layers (layers, rows, width).

    Raises:
        ValueError: the optimizer's state is not of the weights' shape.
    """
    layers = [nn.Linear(1, 1, bias=False, device="meta") for _ in weights]
    for layer, values in zip(layers, weights, strict=True):
        layer.weight = nn.Parameter(values.clone())
    network = NumberedLayers(*layers)
    own = list(network.parameters())
    optimizer = build(network)
    for of_step in gradients:
        for parameter, gradient in zip(own, of_step, strict=True):
            parameter.grad = gradient.clone()
        with torch.compiler.set_stance("force_eager"):
            optimizer.step()
    states = [(p, value) for p, state in optimizer.state.items() for value in state.values()]
    if any(isinstance(x, Tensor) and x.dim() and x.shape != p.shape for p, x in states):
        raise ValueError("state of another shape")
    return torch.stack([parameter.detach() for parameter in own]) - weights


# --- checkpoints ---


def put_away(trainer: Any) -> dict[str, Any]:
    """Return what a checkpoint of a trainer is to hold; this rank's rows are written beside it.

    All ranks must call it, and the main one then save the content, which names the rows. Without
    --shard it is all in there.
    """
    content: dict[str, Any] = trainer.state_dict()
    model, optimizer, path = trainer.model, trainer.optimizer, trainer.folder.checkpoint
    if not is_sharded(model):
        return content
    shapes = _shapes(model)
    state = {
        number: {key: _as_rows(value, shape) for key, value in each.items()}
        for shape, (number, each) in _with_shapes(content["optimizer"]["state"], model, optimizer)
    }
    content = content | {"optimizer": content["optimizer"] | {"state": state}}
    for part in ("model", "trained_weights"):
        if part in content:
            content[part] = _named_rows(content[part], shapes)
    if "ema" in content:
        content["ema"] = content["ema"] | {"model": _named_rows(content["ema"]["model"], shapes)}
    left, rows = apart(content)
    name = processes.from_main(f"step{content['step']}-{secrets.token_hex(4)}")
    save_rows(path, name, rank(), world_size(), rows)
    processes.wait_for_all()
    return left | {KEY: {"name": name, "files": world_size()}}


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the whole shapes of the sharded tensors, by their names in the network's state."""
    state = model.state_dict(keep_vars=True).items()
    return {name: tuple(value.shape) for name, value in state if is_parted(value)}


def _with_shapes(
    state: dict[int, Any], model: nn.Module, optimizer: Any
) -> Iterator[tuple[tuple[int, ...], tuple[int, Any]]]:
    """Yield each entry of an optimizer's state behind the whole shape of its parameter."""
    whole = {id(local(p)): tuple(p.shape) for p in model.parameters()}
    stepped = [p for group in optimizer.param_groups for p in group["params"]]
    for number, entry in state.items():
        yield whole[id(stepped[number])], (number, entry)


def _named_rows(tensors: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    return {
        name: _as_rows(value, shapes[name]) if name in shapes else value
        for name, value in tensors.items()
    }


def _as_rows(value: Any, shape: tuple[int, ...]) -> Any:
    """Return Rows of a tensor of this rank's part of `shape`; anything else as it is."""
    if not isinstance(value, Tensor) or not value.dim():
        return value
    rows = cast(Any, value).to_local() if is_parted(value) else value
    rows = rows.detach().cpu()
    if rows.untyped_storage().nbytes() != rows.nbytes:  # all of a storage would be written
        rows = rows.clone()
    return Rows(rows, shape)


def restored(saved: dict[str, Any], trainer: Any, path: Path) -> dict[str, Any]:
    """Return a checkpoint's content as the trainer loads it.

    Args:
        saved: what is in the checkpoint, with marks where tensors are in shards.
        trainer: its network is sharded, over any number of processes, or not.
        path: of the checkpoint.

    Raises:
        UserError: the shards cannot be read.
    """
    shards, model = shards_of(path, saved), trainer.model
    if not is_sharded(model):
        return saved if shards is None else shards.whole(saved)

    def own_rows(place: str, value: Any) -> Tensor:
        """Return this rank's rows of a mark, or of a whole tensor."""
        own = rows_of(_shape(value)[0], rank(), world_size())
        if is_mark(value) and shards is not None:
            return shards.rows(place, value[MARK], own)
        return cast(Tensor, value[own].clone())

    content = {key: value for key, value in saved.items() if key != KEY}
    content["optimizer"] = content["optimizer"] | {
        "state": {
            number: {
                key: own_rows(f"/optimizer/state/{number}/{key}", value) if _shape(value) else value
                for key, value in each.items()
            }
            for number, each in saved["optimizer"]["state"].items()
        }
    }
    parameters = dict(model.state_dict(keep_vars=True))
    names = _shapes(model).keys()
    for part in ("model", "trained_weights"):
        if part in saved:
            content[part] = {
                name: _as_dtensor(own_rows(f"/{part}/{name}", value), value, parameters[name])
                if name in names and _shape(value)
                else value
                for name, value in saved[part].items()
            }
    if "ema" in saved:
        averages = {
            name: own_rows(f"/ema/model/{name}", value) if name in names else value
            for name, value in saved["ema"]["model"].items()
        }
        content["ema"] = saved["ema"] | {"model": averages}
    return content


def _shape(value: Any) -> tuple[int, ...]:
    """Return the whole shape of what stands for a tensor; none of anything else."""
    if is_mark(value):
        return tuple(value[MARK])
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _as_dtensor(rows: Tensor, value: Any, like: Any) -> Tensor:
    """Return rows as the part of a tensor that is sharded as another one."""
    shape = _shape(value)
    stride = torch.empty(shape, device="meta").stride()
    part: Tensor = type(like.data).from_local(
        rows, like.device_mesh, like.placements, run_check=False, shape=torch.Size(shape),
        stride=stride,
    )  # fmt: skip
    return part
