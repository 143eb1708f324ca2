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

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from benchmarks.names import DTYPES, MODELS, MODES, PRECISIONS, SIZES
from benchmarks.options import MEASUREMENTS, Options
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
from cli.parser import Parser, checked, parsed_into, tool_parser
from cli.vision import VisionConfig
from models.catalogue import LANGUAGE_MODELS, PACKAGES, VISION_MODELS
from training.before_torch import shorten_spins
from zilu.names import check_sigma

T = TypeVar("T")


def main(argv: list[str] | None = None) -> int:
    """Measure what the command line asks for; return the exit code."""
    options = parse(argv)
    shorten_spins()  # as the programs do
    from benchmarks.measurements import measure  # loads torch, which --help does without

    measure(options)
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
    parser = tool_parser("%(prog)s [flags]", __doc__)
    what = parser.add_argument_group("What to measure, if not the activations one by one")
    for name, text in MEASUREMENTS.items():
        what.add_argument(f"--{name}", action="store_true", help=text)
    _add_of_activations(parser)
    _add_of_networks(parser)
    _add_of_all(parser)
    return parser


def _add(
    group: Any, name: str, default: object, convert: Callable[[str], object], text: str
) -> None:
    group.add_argument(
        f"--{name}", type=checked(convert), default=default, metavar="VALUE", help=text
    )


def _add_of_activations(parser: Parser) -> None:
    """Add which activations are measured, and on what when they are measured alone."""
    which = parser.add_argument_group(
        "Activations, --glu, --training, --memory, --host_time (lists: commas between)"
    )
    _add(which, "activations", None, several(activation_name),
         "beside ReLU, GELU, SiLU (ZiLU,ZiLU_Approx, and one by one GELU_s,SiLU_s; for --memory "
         "ZiLU; for --glu xATLU too)")  # fmt: skip
    _add(which, "activation_args", None, mapping,
         "arguments of your own activations, as YAML or JSON: '{beta: 2}'")  # fmt: skip
    _add(which, "sigma", 0.5, check_sigma, "of those that have one (0.5)")
    which.add_argument("--learn_sigma", action="store_true", help="these with a learned σ too")
    which.add_argument(
        "--from_output", action="store_true",
        help="and with gradients from their output, which --memory always has",
    )  # fmt: skip
    _add(which, "output_dir", "./Output/benchmark", path,
         "folder of the tables and the figure (./Output/benchmark)")  # fmt: skip

    alone = parser.add_argument_group("Activations, --glu")
    _add(alone, "dtypes", ("fp32", "bf16"), several(one_of(*DTYPES)),
         "of fp32, bf16, fp16 (fp32,bf16)")  # fmt: skip
    _add(alone, "sizes", SIZES, several(number_of_elements), "4096 or 2^12 (2^12,2^16,2^22)")
    alone.add_argument(
        "--compare_plain", action="store_true", help="the plain path too, in another process"
    )


def _add_of_networks(parser: Parser) -> None:
    """Add which networks take steps, and the texts that are tokenised."""
    steps = parser.add_argument_group("--training, --memory, --stats")
    _add(steps, "models", MODELS, several(trained_model()),
         "resnet20, vit-tiny, gpt (these), and whatever --model of the programs takes")  # fmt: skip
    _add(steps, "modes", MODES, several(one_of(*MODES)), "of eager, compiled (both)")
    _add(steps, "precisions", PRECISIONS, several(one_of(*PRECISIONS)), "of fp32, amp (both)")
    _add(steps, "memory_gib", None, positive,
         "for --memory: what the largest batch is to fit (what is free on a GPU)")  # fmt: skip
    _add(steps, "resize", None, positive_int, "side of the images in pixels (32)")

    others = parser.add_argument_group("The others")
    _add(others, "activation", None, activation_name,
         "(ReLU for --loop, --stats; GELU for --language)")  # fmt: skip
    _add(others, "model", "resnet20", VisionConfig.flags()["model"].convert,
         "for --loop (resnet20)")  # fmt: skip
    _add(others, "text", None, file_path, "file to tokenise")
    _add(others, "data_path", DEFAULT_DATA_PATH, path, "for --tokenizing: holds gpt2/")


def _add_of_all(parser: Parser) -> None:
    """Add what every measurement has."""
    shared = parser.add_argument_group("All")
    _add(shared, "rounds", None, positive_int,
         "times each arm is measured (15 for activations, else 5)")  # fmt: skip
    _add(shared, "batch_size", None, positive_int, "images (128), or sequences (8)")
    _add(shared, "device", ("auto",), several(device_name),
         "auto, cpu, cuda, cuda:N; for activations a list too")  # fmt: skip


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


if __name__ == "__main__":
    with one_line_errors():
        code = main()
    sys.exit(code)
