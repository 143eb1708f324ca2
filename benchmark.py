"""Measure speed: every arm in turn, round after round; medians, and ratios within one run.

python benchmark.py                activations one by one: time, bandwidth, memory, error
python benchmark.py --glu          gated products, fused against plain: time and bytes kept
python benchmark.py --training     training steps per activation, against ReLU and GELU
python benchmark.py --memory       what training steps keep for backward, their peak, largest batch
python benchmark.py --host_time    the host's time of an activation's call, forward and backward
python benchmark.py --stats        what --stats adds to training steps and evaluations
python benchmark.py --loop         training steps of a vision model against a plain PyTorch loop
python benchmark.py --language     training steps of GPT-2 against a plain GPT and its loop
python benchmark.py --pipeline     images/s of the input pipeline against torchvision's
python benchmark.py --reading      images/s of streamed JPEGs, in each form, against torchvision's
python benchmark.py --tokenizing   tokens of --text FILE against the `datasets` library
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.names import (
    ACTIVATIONS,
    BASELINES,
    DTYPES,
    GATED,
    MODELS,
    MODES,
    PRECISIONS,
    REMEMBERED,
    SIZES,
    TRAINED,
    TRAINING_BASELINES,
)
from cli.converters import (
    LANGUAGE_FORMS,
    VISION_FORMS,
    activation_name,
    device_name,
    file_path,
    mapping,
    model_name,
    number,
    one_of,
    path,
    positive,
    positive_int,
)
from cli.datasets import DEFAULT_DATA_PATH
from cli.errors import one_line_errors
from cli.parser import Parser, checked, parsed_into
from cli.vision import VisionConfig
from models.catalogue import LANGUAGE_MODELS, PACKAGES, VISION_MODELS
from utils import UserError, user_errors
from zilu.names import check_sigma, custom_name, kernel_mode

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

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """Hold the command line; build_parser explains the flags."""

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
        """The names of the measurements asked for; none for the activations one by one."""
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


def main(argv: list[str] | None = None) -> int:
    """Measure what the command line asks for; return the exit code."""
    measure(parse(argv))
    return 0


def parse(argv: list[str] | None) -> Options:
    """Read the command line.

    Raises:
        UserError: an unknown flag, a value that its flag refuses, or flags that contradict.
    """
    options = parsed_into(Options, build_parser(), argv)
    options.check()
    return options


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(
        usage="%(prog)s [flags]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )

    def add(
        group: Any, name: str, default: object, convert: Callable[[str], object], text: str
    ) -> None:
        group.add_argument(
            f"--{name}", type=checked(convert), default=default, metavar="VALUE", help=text
        )

    what = parser.add_argument_group("What to measure, if not the activations one by one")
    for name, text in MEASUREMENTS.items():
        what.add_argument(f"--{name}", action="store_true", help=text)

    both = parser.add_argument_group(
        "Activations, --glu, --training, --memory, --host_time (lists: commas between)"
    )
    add(both, "activations", None, several(activation_name),
        "beside ReLU, GELU, SiLU (ZiLU,ZiLU_Approx, and one by one GELU_s,SiLU_s; for --memory "
        "ZiLU; for --glu xATLU too)")  # fmt: skip
    add(both, "activation_args", None, mapping,
        "arguments of your own activations, as YAML or JSON: '{beta: 2}'")  # fmt: skip
    add(both, "sigma", 0.5, check_sigma, "of those that have one (0.5)")
    both.add_argument("--learn_sigma", action="store_true", help="these with a learned σ too")
    both.add_argument(
        "--from_output", action="store_true",
        help="and with gradients from their output, which --memory always has",
    )  # fmt: skip
    add(both, "output_dir", "./Output/benchmark", path,
        "folder of the tables and the figure (./Output/benchmark)")  # fmt: skip

    one = parser.add_argument_group("Activations, --glu")
    add(one, "dtypes", ("fp32", "bf16"), several(one_of(*DTYPES)),
        "of fp32, bf16, fp16 (fp32,bf16)")  # fmt: skip
    add(one, "sizes", SIZES, several(number_of_elements), "4096 or 2^12 (2^12,2^16,2^22)")
    one.add_argument(
        "--compare_plain", action="store_true", help="the plain path too, in another process"
    )

    steps = parser.add_argument_group("--training, --memory, --stats")
    add(steps, "models", MODELS, several(trained_model()),
        "resnet20, vit-tiny, gpt (these), and whatever --model of the programs takes")  # fmt: skip
    add(steps, "modes", MODES, several(one_of(*MODES)), "of eager, compiled (both)")
    add(steps, "precisions", PRECISIONS, several(one_of(*PRECISIONS)), "of fp32, amp (both)")
    add(steps, "memory_gib", None, positive,
        "for --memory: what the largest batch is to fit (what is free on a GPU)")  # fmt: skip
    add(steps, "resize", None, positive_int, "side of the images in pixels (32)")

    others = parser.add_argument_group("The others")
    add(others, "activation", None, activation_name,
        "(ReLU for --loop, --stats; GELU for --language)")  # fmt: skip
    add(others, "model", "resnet20", VisionConfig.flags()["model"].convert,
        "for --loop (resnet20)")  # fmt: skip
    add(others, "text", None, file_path, "file to tokenise")
    add(others, "data_path", DEFAULT_DATA_PATH, path, "for --tokenizing: holds gpt2/")

    shared = parser.add_argument_group("All")
    add(shared, "rounds", None, positive_int,
        "times each arm is measured (15 for activations, else 5)")  # fmt: skip
    add(shared, "batch_size", None, positive_int, "images (128), or sequences (8)")
    add(shared, "device", ("auto",), several(device_name),
        "auto, cpu, cuda, cuda:N; for activations a list too")  # fmt: skip
    return parser


def several(convert: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """Return a converter to values with commas between, each of them once."""
    return lambda text: tuple(dict.fromkeys(convert(part.strip()) for part in text.split(",")))


def trained_model() -> Callable[[str], str]:
    """Return a converter to one of MODELS, or to a network of either program."""
    known = dict.fromkeys((*MODELS, *VISION_MODELS, *LANGUAGE_MODELS))
    return model_name(tuple(known), PACKAGES, f"{VISION_FORMS}, {LANGUAGE_FORMS}")


def number_of_elements(text: str) -> int:
    base, power, exponent = text.partition("^")
    if power and base == "2":
        return 2 ** int(number(int, at_least=0, below=60)(exponent))
    return int(positive_int(text))


def measure(options: Options) -> None:
    """Make the measurements that are asked for."""
    # These load torch, which --help and mistakes in the flags do without.
    from benchmarks import (
        activations,
        arms,
        diagnostics,
        gated_products,
        host_time,
        language,
        memory,
        reading,
        tables,
        training,
        vision,
    )
    from training.devices import make_current, resolve_device

    devices = list(dict.fromkeys(map(resolve_device, options.device)))
    make_current(devices[0])
    ways = (options.sigma, options.learn_sigma, options.from_output)
    args = options.activation_args
    if not options.chosen:
        names = options.activations or ACTIVATIONS
        compared = arms.to_compare(names, BASELINES, *ways, options.compare_plain, args)
        where = (devices, options.dtypes, options.sizes)
        plan = activations.Plan(compared, *where, options.sigma, options.rounds or 15)
        activations.measure(plan, options.output_dir)
        return
    if options.glu:
        names = options.activations or GATED
        compared = arms.to_compare(names, BASELINES, *ways[:2], args=args)
        where = (devices, options.dtypes, options.sizes)
        gated_products.measure(compared, *where, options.rounds or 15, options.output_dir)
    if options.chosen == ["glu"]:
        return
    (device,) = devices
    rounds, size = options.rounds or 5, options.batch_size
    setups = training.setups(
        options.models, options.modes, options.precisions, size, options.resize
    )
    if options.training:
        names = options.activations or TRAINED
        compared = arms.to_compare(names, TRAINING_BASELINES, *ways, args=args)
        training.measure(setups, compared, options.sigma, rounds, device, options.output_dir)
    if options.memory:
        names = options.activations or REMEMBERED
        compared = arms.to_compare(names, BASELINES, *ways[:2], from_output=True, args=args)
        limit = int(options.memory_gib * memory.GIB) if options.memory_gib else None
        memory.measure(setups, compared, options.sigma, device, limit, options.output_dir)
    if not {*options.chosen} <= {"glu", "training", "memory"}:
        print(tables.machine(device))
    if options.host_time:
        names = options.activations or ACTIVATIONS
        compared = arms.to_compare(names, BASELINES, *ways, args=args)
        host_time.measure(compared, options.rounds or 15, device)
    if options.stats:
        arm = arms.Arm.of(options.activation or "ReLU", options.sigma, args)
        diagnostics.measure(setups, arm, rounds, device)
    if options.pipeline:
        vision.measure_pipeline(size or 128, rounds, device)
    if options.reading:
        reading.measure(size or 128, rounds, device)
    if options.loop:
        activation = options.activation or "ReLU"
        vision.measure_loop(options.model, activation, size or 128, rounds, device, args)
    if options.text is not None and options.tokenizing:
        language.measure_tokenizing(options.text, options.data_path, rounds)
    if options.language:
        activation = options.activation or "GELU"
        language.measure_training(activation, size or 8, rounds, device, args)


if __name__ == "__main__":
    with one_line_errors():
        code = main()
    sys.exit(code)
