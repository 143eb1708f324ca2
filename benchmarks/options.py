"""Hold what the command line of benchmark.py asks for. Nothing here loads torch."""

from dataclasses import dataclass
from pathlib import Path

from utils import UserError, user_errors
from zilu.names import custom_name, kernel_mode

MEASUREMENTS = {
    "glu": "gated products, activation(a) * b: fused against plain",
    "training": "training steps per activation",
    "memory": "training steps: bytes kept, peak, largest batch",
    "host_time": "the host's time of a call",
    "stats": "what --stats adds",
    "loop": "vision: steps, whole epochs",
    "language": "language: steps",
    "pipeline": "the input pipeline of images",
    "reading": "streamed JPEGs: a folder, shards, Hugging Face's files",
    "tokenizing": "text to tokens; needs --text",
}


@dataclass(frozen=True)
class Options:
    """Hold the command line; the parser in benchmark.py explains the flags."""

    glu: bool
    training: bool
    memory: bool
    host_time: bool
    stats: bool
    loop: bool
    language: bool
    pipeline: bool
    reading: bool
    tokenizing: bool
    activations: tuple[str, ...] | None
    activation_args: str | None
    sigma: float
    learn_sigma: bool
    from_output: bool
    output_dir: str
    dtypes: tuple[str, ...]
    sizes: tuple[int, ...]
    compare_plain: bool
    models: tuple[str, ...]
    modes: tuple[str, ...]
    precisions: tuple[str, ...]
    memory_gib: float | None
    resize: int | None
    activation: str | None
    model: str
    text: Path | None
    data_path: str
    rounds: int | None
    batch_size: int | None
    device: tuple[str, ...]

    @property
    def chosen(self) -> list[str]:
        """Return the names of the measurements asked for; none for activations one by one."""
        return [name for name in MEASUREMENTS if getattr(self, name)]

    def check(self) -> None:
        """Refuse flags that contradict each other.

        Raises:
            UserError: with the remedy.
        """
        with user_errors():
            kernels = kernel_mode()
        chosen = self.chosen
        named = [*(self.activations or ()), *([self.activation] if self.activation else [])]
        if self.activation_args is not None and not any(map(custom_name, named)):
            raise UserError("--activation_args is for activations of your own; leave it out")
        if self.tokenizing and self.text is None:
            raise UserError("--tokenizing needs --text FILE")
        if {*chosen} - {"glu"} and len(self.device) > 1:
            raise UserError(f"--{chosen[-1]} takes one --device, not {','.join(self.device)}")
        if chosen and self.compare_plain:
            raise UserError(
                f"--compare_plain is for activations one by one; leave out --{chosen[0]}"
            )
        if self.compare_plain and kernels == "plain":
            raise UserError("--compare_plain with ZILU_KERNELS=plain compares nothing; unset that")
