"""Declare the flags that decide the training: its length, precision, optimizer and schedule."""

from __future__ import annotations

from dataclasses import dataclass

from cli.converters import (
    ema_decay,
    mapping,
    milestones,
    not_negative,
    one_of,
    positive,
    positive_int,
    share,
    warmup_length,
)
from cli.fields import Effect, Evaluated, flag
from cli.optimizer_names import (
    SCHEDULE_FREE,
    has_betas_of_its_own,
    has_settings_of_its_own,
    is_of_library,
    optimizer_name,
)
from utils import UserError


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
    shard: bool = flag(
        False, bool, "Training",
        "several processes share the network's parameters, gradients and optimizer state, where "
        "otherwise each has all of them (FSDP2)",
        Effect.ARITHMETIC,
    )  # fmt: skip
    activation_checkpointing: bool = flag(
        False, bool, "Training",
        "keep the inputs of the network's blocks alone for backward, and compute what is inside "
        "them again there: less memory, a third more time, the same numbers",
        Effect.NOTHING,
    )  # fmt: skip
    clip_grad_norm: float = flag(1.0, not_negative, "Training", "largest gradient norm; 0 is off")
    ema: float | None = flag(
        None, ema_decay, "Training",
        "keep an exponential moving average of the weights with this decay (0.9999), evaluated "
        "and saved beside the trained ones; 0 is off",
    )  # fmt: skip
    ema_every: int = flag(
        1, positive_int, "Training", "update --ema after the first of so many steps of an epoch"
    )
    ema_kind: str = flag(
        "plain", one_of("plain", "warmup", "torchvision"), "Training",
        "plain: the decay of --ema at every update; warmup: it rises to that, as in timm's "
        "--model-ema-warmup; torchvision: 1 - decay times batch size times --ema_every over "
        "epochs, and copies while the learning rate warms up, as in torchvision's recipes",
    )  # fmt: skip
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
    def layer_decay(self) -> float:
        """Return by how much a layer's learning rate is smaller than the next one's; 1 is not."""
        return 1.0

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
    def gradual_length(self) -> str | None:
        """Return over how long old activations go over into new ones; None where none do."""
        return None

    @property
    def bound_to_length(self) -> str | None:
        """Return the flag by which the training depends on its length from the start."""
        if self.scheduler in ("cosine", "linear", "wsd"):
            return f"--scheduler {self.scheduler}"
        if self.lr_milestones is not None and self.lr_milestones.endswith("%"):
            return f"--lr_milestones {self.lr_milestones}"
        if self.ema is not None and self.ema_kind == "torchvision":
            return "--ema_kind torchvision"
        is_share = self.warmup.endswith("%") and float(self.warmup[:-1]) > 0
        return f"--warmup {self.warmup}" if is_share else None

    def check(self) -> None:
        """Refuse flags that contradict each other.

        Raises:
            UserError: with the remedy.
        """
        if self.amp_dtype != "auto" and not self.use_amp:
            raise UserError("--amp_dtype has no effect without --use_amp; add it")
        if self.shard and self.use_compiled:
            raise UserError("--shard trains eager blocks; leave out --use_compiled")
        if self.activation_checkpointing and self.use_compiled:
            raise UserError(
                "--activation_checkpointing is for eager training; with --use_compiled give "
                "--compile_mode reduce-memory in its place"
            )
        is_sgd = self.optimizer == "sgd" and self.momentum
        if self.nesterov and not (self.has_library_optimizer or is_sgd):
            raise UserError("--nesterov is for --optimizer sgd with a momentum; leave it out")
        if self.optimizer.startswith(SCHEDULE_FREE) and self.scheduler != "none":
            raise UserError(
                f"--optimizer {self.optimizer} averages weights in the place of a schedule; give "
                "--scheduler none"
            )
        self._check_ema()
        self._check_schedule()

    def _check_ema(self) -> None:
        if self.ema is None and (self.ema_every != 1 or self.ema_kind != "plain"):
            raise UserError("--ema_every and --ema_kind have no effect without --ema; add it")
        if self.ema is not None and self.optimizer.startswith(SCHEDULE_FREE):
            raise UserError(
                f"--ema: --optimizer {self.optimizer} evaluates an average of the weights already; "
                "leave out --ema"
            )

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
