"""Speed, measured: the arms in turn, round after round, medians and ratios within one run.

python benchmark.py                activations one by one: time, bandwidth, memory, error
python benchmark.py --training     training steps per activation, against ReLU and GELU
python benchmark.py --stats        what --stats adds to training steps and evaluations
python benchmark.py --loop         training steps of a vision model against a plain PyTorch loop
python benchmark.py --language     training steps of GPT-2 against a plain GPT and its loop
python benchmark.py --pipeline     images/s of the input pipeline against torchvision's
python benchmark.py --tokenizing   tokens of --text FILE against the `datasets` library
"""

import argparse
from collections.abc import Callable

import cli
from benchmarks.names import DTYPES, MODELS, MODES, PRECISIONS, SIZES
from training.program import user_errors
from utils import UserError, resolve_device
from zilu.names import canonical_name, check_sigma, kernel_mode

MEASUREMENTS = {
    "training": "training steps per activation",
    "stats": "what --stats adds",
    "loop": "vision: steps, whole epochs",
    "language": "language: steps",
    "pipeline": "the input pipeline of images",
    "tokenizing": "text to tokens; needs --text",
}


def main() -> int:
    args = build_parser().parse_args()
    check(args)
    measure(args)
    return 0


def build_parser() -> cli.Parser:
    parser = cli.Parser(
        usage="%(prog)s [flags]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    positive = cli.number(int, at_least=1)

    def add(group, name: str, default, convert: Callable, text: str) -> None:
        group.add_argument(
            f"--{name}", type=cli.checked(convert), default=default, metavar="VALUE", help=text
        )

    what = parser.add_argument_group("What to measure, if not the activations one by one")
    for name, text in MEASUREMENTS.items():
        what.add_argument(f"--{name}", action="store_true", help=text)

    both = parser.add_argument_group("Activations, --training (lists: commas between)")
    add(both, "activations", None, several(canonical_name),
        "beside ReLU, GELU, SiLU (ZiLU,ZiLU_Approx, and one by one GELU_s,SiLU_s)")  # fmt: skip
    add(both, "sigma", 0.5, check_sigma, "of those that have one (0.5)")
    both.add_argument("--learn_sigma", action="store_true", help="these with a learned σ too")
    add(both, "output_dir", "./Output/benchmark", str,
        "folder of the tables and the figure (./Output/benchmark)")  # fmt: skip

    one = parser.add_argument_group("Activations")
    add(one, "dtypes", ("fp32", "bf16"), several(cli.one_of(*DTYPES)),
        "of fp32, bf16, fp16 (fp32,bf16)")  # fmt: skip
    add(one, "sizes", SIZES, several(number_of_elements), "4096 or 2^12 (2^12,2^16,2^22)")
    one.add_argument(
        "--compare_plain", action="store_true", help="the plain path too, in another process"
    )

    steps = parser.add_argument_group("--training, --stats")
    add(steps, "models", MODELS, several(cli.one_of(*MODELS)), "of resnet20, vit-tiny, gpt (all)")
    add(steps, "modes", MODES, several(cli.one_of(*MODES)), "of eager, compiled (both)")
    add(steps, "precisions", PRECISIONS, several(cli.one_of(*PRECISIONS)), "of fp32, amp (both)")

    others = parser.add_argument_group("The others")
    add(others, "activation", None, canonical_name,
        "(ReLU for --loop, --stats; GELU for --language)")  # fmt: skip
    add(others, "model", "resnet20", str, "for --loop (resnet20)")
    add(others, "text", None, str, "file to tokenise")
    add(others, "data_path", cli.DEFAULT_DATA_PATH, str, "for --tokenizing: holds gpt2/")

    shared = parser.add_argument_group("All")
    add(shared, "rounds", None, positive,
        "times each arm is measured (15 for activations, else 5)")  # fmt: skip
    add(shared, "batch_size", None, positive, "images (128), or sequences (8)")
    add(shared, "device", ("auto",), several(cli.device_name),
        "auto, cpu, cuda, cuda:N; for activations a list too")  # fmt: skip
    return parser


def several(convert: Callable) -> Callable:
    """A converter to values with commas between, each once."""
    return lambda text: tuple(dict.fromkeys(convert(part.strip()) for part in text.split(",")))


def number_of_elements(text: str) -> int:
    base, power, exponent = text.partition("^")
    if power and base == "2":
        return 2 ** cli.number(int, at_least=0, below=60)(exponent)
    return cli.number(int, at_least=1)(text)


def check(args: argparse.Namespace) -> None:
    """Refuse flags that do not fit together, before torch is loaded.

    Raises:
        UserError: with the remedy.
    """
    with user_errors():
        kernels = kernel_mode()
    chosen = [name for name in MEASUREMENTS if getattr(args, name)]
    if args.tokenizing and args.text is None:
        raise UserError("--tokenizing needs --text FILE")
    if chosen and len(args.device) > 1:
        raise UserError(f"--{chosen[0]} takes one --device, not {','.join(args.device)}")
    if chosen and args.compare_plain:
        raise UserError(f"--compare_plain is for activations one by one; leave out --{chosen[0]}")
    if args.compare_plain and kernels == "plain":
        raise UserError("--compare_plain with ZILU_KERNELS=plain compares nothing; unset that")


def measure(args: argparse.Namespace) -> None:
    devices = list(dict.fromkeys(map(resolve_device, args.device)))
    if not any(getattr(args, name) for name in MEASUREMENTS):
        from benchmarks import activations

        activations.measure(filled(args, rounds=15), devices)
        return
    from benchmarks import diagnostics, language, training, vision
    from benchmarks.tables import machine

    (device,), (args.device,) = devices, args.device
    args = filled(args, rounds=5)
    images = filled(args, activation="ReLU", batch_size=128)
    text = filled(args, activation="GELU", batch_size=8)
    if args.training:
        training.measure(args, device)
    if args.stats or args.loop or args.language or args.pipeline or args.tokenizing:
        print(machine(device))
    if args.stats:
        diagnostics.measure(filled(args, activation="ReLU"), device)
    if args.pipeline:
        vision.measure_pipeline(images, device)
    if args.loop:
        vision.measure_loop(images, device)
    if args.tokenizing:
        language.measure_tokenizing(args)
    if args.language:
        language.measure_training(text, device)


def filled(args: argparse.Namespace, **defaults) -> argparse.Namespace:
    """The arguments with these where they are not given."""
    own = {name: value for name, value in vars(args).items() if value is not None}
    return argparse.Namespace(**vars(args) | defaults | own)


if __name__ == "__main__":
    cli.run(main)
