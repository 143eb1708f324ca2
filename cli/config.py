"""Declare the flags that both programs share, and what every configuration can do.

A configuration has four parts, `model`, `data`, `training` and `run`. It is made once, by
cli/parser.py or from the values of a checkpoint; nothing changes it afterwards.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeVar

import models
from cli.converters import (
    LOG_SINKS,
    activation_name,
    arguments,
    device_name,
    log_sinks,
    mapping,
    milestones,
    not_negative,
    number,
    one_of,
    path,
    positive,
    positive_int,
    save_interval,
    seed_number,
    share,
    warmup_length,
)
from cli.fields import GROUPS, Effect, Evaluated, Flag, flag, flags_of_part
from cli.optimizer_names import (
    SCHEDULE_FREE,
    has_betas_of_its_own,
    has_settings_of_its_own,
    is_of_library,
    optimizer_name,
)
from utils import UserError, user_errors
from zilu import names as activations

C = TypeVar("C", bound="Config")
AUTO = "auto"  # --resume without a value: go on with the run in --output_dir, if there is one


@dataclass(frozen=True)
class ModelConfig:
    """Hold the flags that decide the network. Programs declare `model` and flags of their own."""

    model: str = ""
    activation: str = flag(
        "ZiLU", activation_name, "Model",
        f"activation function: {', '.join(activations.ACTIVATIONS)}; or your own, "
        f"{activations.CUSTOM_FORMS}: a class of modules, or a function of one tensor",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    sigma: float = flag(
        1.0, activations.check_sigma, "Model",
        f"sharpness of {', '.join(activations.SIGMA_NAMES)}, and of your own where it takes sigma",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    learn_sigma: bool = flag(
        False, bool, "Model",
        "make sigma a parameter of each layer; your own activation must take learnable for it",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    activation_args: str | None = flag(
        None, mapping, "Model",
        "arguments of your own activation, as YAML or JSON: '{beta: 2}'",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    expand_gate: bool = flag(
        False, bool, "Model",
        "widen the gate's range to (-alpha, 1 + alpha) by an alpha trained in each layer, 0 at "
        f"first: {', '.join(activations.GATED_NAMES)}",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    rescale_init: float | None = flag(
        None, number(float, at_least=1e-30, below=1e30), "Model",
        "scale the initial weights around each activation, so that the network starts as the "
        "function that --sigma times this would give: the control for scans of sigma",
    )  # fmt: skip
    norm: str = flag(
        "auto", one_of(*models.NORMS), "Model",
        "norms: bn (BatchNorm), gn (GroupNorm) or none in VGGs and ResNets; layer (LayerNorm), bn "
        "or none in ViTs, layer or none in GPT-2; auto is bn, in transformers layer",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    init_gain: str = flag(
        "torch", one_of(*models.INIT_GAINS), "Model",
        "unit scales the initial weights that read an activation, so that every activation keeps "
        "the second moment that ReLU does with torch, which has ReLU's gain for all",
    )  # fmt: skip
    save_for_backward: str = flag(
        "input", one_of(*activations.SAVES), "Model",
        "what the activation keeps for its backward pass: output, which the next layer keeps "
        f"anyway, takes as little memory as ReLU: {', '.join(activations.OUTPUT_NAMES)}",
        Effect.ARITHMETIC,
    )  # fmt: skip
    inplace: bool = flag(
        False, bool, "Model",
        f"overwrite the input, to save memory: {', '.join(activations.INPLACE_NAMES)}; with "
        f"--save_for_backward output also {', '.join(activations.OUTPUT_NAMES)}; your own where it "
        "takes inplace",
        Effect.NOTHING,
    )  # fmt: skip

    @property
    def is_custom(self) -> bool:
        """Return whether the activation is the user's own, whose code must be loaded."""
        return activations.custom_name(self.activation) is not None

    @property
    def has_sigma(self) -> bool:
        """Return whether the activation has a sigma; the user's own, if the flags give it one."""
        is_given = self.sigma != 1 or self.learn_sigma
        return self.activation in activations.SIGMA_NAMES or (self.is_custom and is_given)

    @property
    def saved(self) -> str:
        """Return what the activation keeps for its backward pass."""
        return self.save_for_backward if self.activation in activations.OUTPUT_NAMES else "input"

    @property
    def is_inplace(self) -> bool:
        """Return whether the activation overwrites its input, as was asked for."""
        has_form = self.activation in activations.INPLACE_NAMES or self.saved == "output"
        return self.inplace and (has_form or self.is_custom)

    @property
    def start(self) -> str | None:
        """Return the checkpoint that the weights start from; None where they start otherwise."""
        return None

    @property
    def is_third_party(self) -> bool:
        """Return whether the network is another package's."""
        return models.is_third_party(self.model)

    def check(self) -> None:
        """Refuse flags that contradict each other.

        Raises:
            UserError: with the remedy.
        """
        name = self.activation
        self._check_args()
        if self.learn_sigma and not self.has_sigma:
            raise UserError(
                f"--learn_sigma: {name} has no sigma; leave it out, or take one of "
                f"{', '.join(activations.SIGMA_NAMES)}"
            )
        if self.expand_gate and name not in activations.GATED_NAMES:
            raise UserError(
                f"--expand_gate: {name} has no gate to expand; leave it out, or take one of "
                f"{', '.join(activations.GATED_NAMES)}"
            )
        if self.expand_gate and self.saved == "output":
            raise UserError(
                "--expand_gate does not go with --save_for_backward output: the function no longer "
                "increases everywhere; leave out one of them"
            )
        if self.rescale_init is not None and name not in activations.GATED_NAMES:
            raise UserError(
                f"--rescale_init: {name} is not of the form f(sigma x) / sigma; leave it out, or "
                f"take one of {', '.join(activations.GATED_NAMES)}"
            )
        self._check_initial_weights()

    def _check_args(self) -> None:
        if self.activation_args is not None and not self.is_custom:
            raise UserError(
                f"--activation_args: {self.activation} takes none; classes do: --activation "
                "torch.nn:LeakyReLU"
            )
        options = {"sigma": "sigma", "learnable": "learn_sigma", "inplace": "inplace"}
        for name in arguments(self.activation_args):
            if name in options:
                raise UserError(
                    f"--activation_args: {name} has a flag of its own: --{options[name]}"
                )

    def _check_initial_weights(self) -> None:
        scaled_by = {
            "rescale_init": self.rescale_init is not None,
            "init_gain": self.init_gain != "torch",
        }
        for name, is_given in scaled_by.items():
            if is_given and self.start is not None:
                raise UserError(f"--init_from replaces what --{name} scales; leave out one of them")
            if is_given and self.is_third_party:
                raise UserError(
                    f"--{name} does not apply to {self.model}, only to the project's own models: "
                    "leave it out"
                )
        if all(scaled_by.values()):
            raise UserError(
                "--init_gain unit depends on the activation's own sigma, and --rescale_init on "
                "another one; leave out one of them"
            )


@dataclass(frozen=True)
class DataConfig:
    """Hold the flags that decide the data. Each program declares all of them."""

    dataset: str = ""
    data_path: str = ""
    batch_size: int = 0  # over all processes


@dataclass(frozen=True)
class TrainingConfig:
    """Hold the flags that decide the training. Each program declares `num_epochs`."""

    num_epochs: int = 0
    max_steps: int | None = flag(
        None, positive_int, "Training",
        "stop after this many steps, where --num_epochs is not over before",
    )  # fmt: skip
    grad_accum_steps: int = flag(
        1, positive_int, "Training",
        "batches that a step adds up the gradients of: one step sees --batch_size times as many",
    )  # fmt: skip
    eval_interval: int | None = flag(
        None, positive_int, "Training",
        "evaluate every so many steps too (after each epoch only)",
        Effect.NOTHING,
    )  # fmt: skip
    use_amp: bool = flag(
        False, bool, "Training", "automatic mixed precision", Effect.ARITHMETIC,
        evaluated=Evaluated.PRECISION,
    )  # fmt: skip
    amp_dtype: str = flag(
        "auto", one_of("auto", "bf16", "fp16"), "Training",
        "auto: bf16 where the GPU has it, else fp16 with gradient scaling; on a CPU bf16",
        Effect.ARITHMETIC, evaluated=Evaluated.PRECISION,
    )  # fmt: skip
    use_compiled: bool = flag(False, bool, "Training", "torch.compile", Effect.ARITHMETIC)
    compile_mode: str = flag(
        "default", one_of("default", "reduce-overhead", "reduce-memory", "max-autotune"),
        "Training",
        "torch.compile's mode; reduce-memory keeps half of the activation memory for backward",
        Effect.ARITHMETIC,
    )  # fmt: skip
    clip_grad_norm: float = flag(1.0, not_negative, "Training", "largest gradient norm; 0 is off")
    optimizer: str = flag(
        "adamw", optimizer_name, "Optimization",
        "adamw, adam or sgd; a class of torch.optim (RMSprop, Muon, ...), timm/NAME (timm/lamb) or "
        "schedulefree/NAME (schedulefree/AdamWScheduleFree)",
    )  # fmt: skip
    optimizer_args: str | None = flag(
        None, mapping, "Optimization",
        "further arguments of the optimizer's class, as YAML or JSON: '{alpha: 0.95}'",
    )  # fmt: skip
    lr: float = flag(1e-3, positive, "Optimization", "learning rate, after warm-up")
    weight_decay: float = flag(
        1e-6, not_negative, "Optimization",
        "weight decay; --decay says of what",
    )  # fmt: skip
    decay: str = flag(
        "weights", one_of("weights", "matrices", "all"), "Optimization",
        "what decays: the weights of linear, convolution and embedding layers; matrices, whatever "
        "has two dimensions, as in nanoGPT (positions too); or all, biases and norms included, as "
        "in torchvision's recipes. Parameters of activations never do",
    )  # fmt: skip
    momentum: float | None = flag(
        0.9, share, "Optimization",
        "momentum of sgd, and of a library's class, which else has its own",
        own_default=has_settings_of_its_own,
    )  # fmt: skip
    nesterov: bool | None = flag(
        False, bool, "Optimization", "Nesterov's momentum, as --momentum",
        own_default=has_settings_of_its_own,
    )  # fmt: skip
    beta1: float | None = flag(
        0.9, share, "Optimization",
        "decay of adam's mean of gradients; of a library's class, which else has its own",
        own_default=has_betas_of_its_own,
    )  # fmt: skip
    beta2: float | None = flag(
        0.999, share, "Optimization", "decay of adam's mean of their squares, as --beta1",
        own_default=has_betas_of_its_own,
    )  # fmt: skip
    scheduler: str = flag(
        "none",
        one_of("none", "step", "multistep", "cosine", "linear", "wsd", "restarts", "plateau"),
        "Optimization",
        "learning rate per step: cosine and linear fall to --min_lr at the end; wsd falls to it "
        "in a --cooldown alone; restarts is a cosine that begins anew after --lr_step epochs; step "
        "multiplies by --lr_gamma every --lr_step epochs, multistep at --lr_milestones; plateau "
        "does so after --lr_step epochs without a lower validation loss (training loss where "
        "there is no validation split)",
    )  # fmt: skip
    warmup: str = flag(
        "0", warmup_length, "Optimization",
        "linear warm-up: steps (500), epochs (3ep) or a share of all steps (5%)",
    )  # fmt: skip
    warmup_lr: float | None = flag(
        None, not_negative, "Optimization",
        "learning rate that the warm-up starts with (its first step's share of --lr)",
    )  # fmt: skip
    min_lr: float = flag(
        0.0, not_negative, "Optimization",
        "what cosine, linear, wsd and restarts fall to",
    )  # fmt: skip
    cooldown: str = flag(
        "20%", warmup_length, "Optimization", "length of wsd's linear fall, as for --warmup"
    )
    lr_step: int = flag(20, positive_int, "Optimization", "epochs; see --scheduler")
    lr_gamma: float = flag(0.1, positive, "Optimization", "factor; see --scheduler")
    lr_milestones: str | None = flag(
        None,
        milestones,
        "Optimization",
        "epochs (60,120,160) or shares of all steps (50%,75%); see --scheduler",
    )
    cycle_growth: int = flag(
        1, positive_int, "Optimization",
        "each cycle of restarts is so many times as long as the one before",
    )  # fmt: skip

    @property
    def has_library_optimizer(self) -> bool:
        """Return whether the optimizer is a class of a library, whose settings have no flags."""
        return is_of_library(self.optimizer)

    @property
    def milestones(self) -> list[str]:
        """Return the parts of --lr_milestones: epochs as `60ep`, shares of all steps as `50%`."""
        parts = self.lr_milestones.split(",") if self.lr_milestones else []
        return [part if part.endswith("%") else f"{part}ep" for part in parts]

    @property
    def bound_to_length(self) -> str | None:
        """Return the flag that makes learning rates depend on the length of the training."""
        if self.scheduler in ("cosine", "linear", "wsd"):
            return f"--scheduler {self.scheduler}"
        if self.lr_milestones is not None and self.lr_milestones.endswith("%"):
            return f"--lr_milestones {self.lr_milestones}"
        is_share = self.warmup.endswith("%") and float(self.warmup[:-1]) > 0
        return f"--warmup {self.warmup}" if is_share else None

    def check(self) -> None:
        """Refuse flags that contradict each other.

        Raises:
            UserError: with the remedy.
        """
        if self.amp_dtype != "auto" and not self.use_amp:
            raise UserError("--amp_dtype has no effect without --use_amp; add it")
        is_sgd = self.optimizer == "sgd" and self.momentum
        if self.nesterov and not (self.has_library_optimizer or is_sgd):
            raise UserError("--nesterov is for --optimizer sgd with a momentum; leave it out")
        if self.optimizer.startswith(SCHEDULE_FREE) and self.scheduler != "none":
            raise UserError(
                f"--optimizer {self.optimizer} averages weights in the place of a schedule; give "
                "--scheduler none"
            )
        self._check_schedule()

    def _check_schedule(self) -> None:
        if (self.scheduler == "multistep") != (self.lr_milestones is not None):
            raise UserError("--scheduler multistep and --lr_milestones need each other")
        falling = ("cosine", "linear", "wsd", "restarts")
        if self.min_lr and self.scheduler not in falling:
            raise UserError(f"--min_lr is for --scheduler {', '.join(falling)}; leave it out")
        if self.min_lr > self.lr:
            raise UserError(
                f"--min_lr {self.min_lr:g} is above --lr {self.lr:g}; take a smaller one"
            )
        if self.warmup_lr is not None and not float(self.warmup.rstrip("ep%")):
            raise UserError("--warmup_lr has no effect without --warmup; add it")


@dataclass(frozen=True)
class RunConfig:
    """Hold the flags of device, seeds and files: where a run computes, and what it leaves."""

    device: str = flag(
        "auto", device_name, "System",
        "auto (cuda, mps or cpu, whichever is there first), cpu, cuda, cuda:N, mps",
        Effect.ARITHMETIC,
    )  # fmt: skip
    seed: int = flag(0, seed_number, "System", "seed of everything below that is not given")
    init_seed: int | None = flag(
        None, seed_number, "System", "seed of the initial weights (--seed)"
    )
    data_seed: int | None = flag(
        None, seed_number, "System", "seed of data order and augmentation (--seed)"
    )
    deterministic: bool = flag(
        False, bool, "System",
        "bit-identical repeats on CUDA too (slower; on a CPU runs always repeat)",
        Effect.ARITHMETIC,
    )  # fmt: skip
    config: str | None = flag(
        None, path, "Output",
        "YAML file of flags, read as on the command line, or the args.txt of an earlier run; the "
        "command line overrides it",
        Effect.NOTHING, one_run=True,
    )  # fmt: skip
    output_dir: str | None = flag(
        None, path, "Output",
        "run folder (./Output/DATASET/MODEL/ACTIVATION_SIGMA_SEED, and a short hash where other "
        "flags differ from their defaults)",
        Effect.NOTHING, one_run=True,
    )  # fmt: skip
    overwrite: bool = flag(
        False, bool, "Output", "replace the run that --output_dir holds",
        Effect.NOTHING, one_run=True,
    )  # fmt: skip
    resume: str | None = flag(
        None, path, "Output",
        "go on with the run in --output_dir, if there is one; or with the one whose folder or "
        "checkpoint is given, whose flags then count where none are given. A greater --num_epochs "
        "or --max_steps makes it longer, where the learning rate does not depend on its length",
        Effect.NOTHING, bare=AUTO, one_run=True,
    )  # fmt: skip
    save_interval: str = flag(
        "1ep,10min", save_interval, "Output",
        "when to save a checkpoint: epochs (1ep), steps (500), minutes (10min), or whichever of "
        "several is over first; the end is always saved",
        Effect.NOTHING,
    )  # fmt: skip
    stats: int | None = flag(
        None, positive_int, "Output",
        "every so many steps, numbers of each activation (spread and tail of its input, flat "
        "slopes, gradient, sigma), and dead channels at evaluations, into stats.jsonl",
        Effect.NOTHING,
    )  # fmt: skip
    log: str | None = flag(
        None, log_sinks, "Output",
        "what gets all that metrics.jsonl and --stats hold: tensorboard, wandb, csv, or several "
        "with commas between",
        Effect.NOTHING,
    )  # fmt: skip
    tensorboard: bool = flag(False, bool, "Output", "the same as --log tensorboard", Effect.NOTHING)
    test_only: bool = flag(
        False, bool, "Output",
        "evaluate --checkpoint, else the run folder's, else the untrained network",
        Effect.NOTHING, one_run=True,
    )  # fmt: skip
    checkpoint: str | None = flag(
        None, path, "Output", "checkpoint file for --test_only", Effect.NOTHING, one_run=True
    )

    @property
    def sinks(self) -> list[str]:
        """Return the names of what --log and --tensorboard ask for."""
        asked = [*(self.log or "").split(","), "tensorboard" if self.tensorboard else ""]
        return [name for name in LOG_SINKS if name in asked]

    @property
    def weights_seed(self) -> int:
        """Return the seed of the initial weights: --init_seed, or --seed where it is not given."""
        return self.seed if self.init_seed is None else self.init_seed

    @property
    def order_seed(self) -> int:
        """Return the seed of data order and augmentation: --data_seed, or --seed."""
        return self.seed if self.data_seed is None else self.data_seed

    def check(self) -> None:
        """Refuse flags that contradict each other.

        Raises:
            UserError: with the remedy.
        """
        for name in self.sinks:
            if name != "csv" and not is_installed(name):
                raise UserError(
                    f"--log {name}: the package is not installed; pip install {name}, or leave it "
                    "out"
                )

    def check_folder(self) -> None:
        """Refuse flags that want a run folder to be used in two ways.

        Raises:
            UserError: with the remedy.
        """
        if self.checkpoint is not None and not self.test_only:
            raise UserError("--checkpoint is for --test_only; add it, or leave out --checkpoint")
        if self.resume is not None and self.test_only:
            raise UserError("--resume trains and --test_only does not; leave out one of them")
        if self.resume is not None and self.overwrite:
            raise UserError(
                "--resume goes on with a run and --overwrite replaces it; leave out one of them"
            )


@dataclass(frozen=True)
class Config:
    """Hold the whole configuration of a program, in four parts.

    A subclass narrows the types of the parts; the default of a part holds the program's defaults.
    """

    PROGRAM: ClassVar[str]  # the file
    KIND: ClassVar[str]  # of its models, as checkpoints and grids name it

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    run: RunConfig = RunConfig()

    @classmethod
    def flags(cls) -> dict[str, Flag]:
        """Return every flag by name: the program's own first, then the shared ones, by group.

        A sweep names its runs in this order.
        """
        return _flags(cls)  # type: ignore[arg-type] # mypy takes a class's hash for its instances'

    @classmethod
    def defaults(cls, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the default of every flag beside those values; without them, beside defaults."""
        flags = cls.flags().values()
        defaults = {each.name: each.default for each in flags}
        beside = defaults | dict(values or {})
        own = [each.name for each in flags if each.own_default and each.own_default(beside)]
        return defaults | dict.fromkeys(own)

    @classmethod
    def from_values(cls: type[C], values: Mapping[str, Any]) -> C:
        """Return the configuration that has these values, and the defaults of all other flags."""
        complete = cls.defaults(values) | dict(values)
        parts: dict[str, dict[str, Any]] = {}
        for each in cls.flags().values():
            parts.setdefault(each.part, {})[each.name] = complete[each.name]
        types = typing.get_type_hints(cls)
        return cls(**{part: types[part](**fields) for part, fields in parts.items()})

    def values(self) -> dict[str, Any]:
        """Return the value of every flag by name, as args.txt and checkpoints hold them."""
        return {
            name: getattr(getattr(self, each.part), name) for name, each in self.flags().items()
        }

    def replaced(self: C, **changes: Any) -> C:
        """Return a configuration with other values of some flags."""
        return type(self).from_values(self.values() | changes)

    def check(self) -> None:
        """Refuse flags that contradict each other.

        Raises:
            UserError: with the remedy.
        """
        self.model.check()
        self.run.check()
        self.training.check()
        check_environment()


def is_installed(package: str) -> bool:
    """Return whether a package can be imported; a folder of its name, as wandb leaves, is none."""
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None


def check_environment() -> None:
    """Refuse an unknown value of the variable ZILU_KERNELS, which would end the import of zilu.

    Raises:
        UserError: with the known values.
    """
    with user_errors():
        activations.kernel_mode()


@cache
def _flags(config: type[Config]) -> dict[str, Flag]:
    shared = {
        "model": ModelConfig, "data": DataConfig, "training": TrainingConfig, "run": RunConfig,
    }  # fmt: skip
    default = config()
    found = [
        each
        for part in dataclasses.fields(config)
        for each in flags_of_part(part.name, getattr(default, part.name), shared[part.name])
    ]
    found.sort(key=lambda each: (each.shared, GROUPS.index(each.group)))
    return {each.name: each for each in found}
