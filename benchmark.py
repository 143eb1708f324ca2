"""Speed, measured: every arm in turn, round after round, medians and ratios within one run.

python benchmark.py --pipeline     images/s of the input pipeline against torchvision's
python benchmark.py --training     training steps of a vision model against a plain PyTorch loop
python benchmark.py --language     training steps of GPT-2 against a plain GPT and its loop
python benchmark.py --tokenizing   tokens of --text FILE against the `datasets` library
"""

import argparse

import cli
from utils import resolve_device


def main() -> int:
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", action="store_true", help="the input pipeline of images")
    parser.add_argument("--training", action="store_true", help="vision: steps, whole epochs")
    parser.add_argument("--language", action="store_true", help="language: steps")
    parser.add_argument("--tokenizing", action="store_true", help="text to tokens; needs --text")
    parser.add_argument("--activation", help="(ReLU for --training, GELU for --language)")
    parser.add_argument("--model", default="resnet20", help="for --training (resnet20)")
    parser.add_argument("--batch_size", type=int, help="images (128), or sequences (8)")
    parser.add_argument("--text", help="file to tokenise")
    parser.add_argument("--data_path", default="./Data", help="for --tokenizing: holds gpt2/")
    parser.add_argument("--rounds", type=int, default=5, help="times each arm is measured (5)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    args = parser.parse_args()
    if not (args.pipeline or args.training or args.language or args.tokenizing):
        parser.error("say what to measure: --pipeline, --training, --language, --tokenizing")
    if args.tokenizing and args.text is None:
        parser.error("--tokenizing needs --text FILE")
    measure(args)
    return 0


def measure(args: argparse.Namespace) -> None:
    from benchmarks import language, vision
    from benchmarks.timing import print_machine

    device = resolve_device(args.device)
    print_machine(device)
    images, text = filled(args, "ReLU", 128), filled(args, "GELU", 8)
    if args.pipeline:
        vision.measure_pipeline(images, device)
    if args.training:
        vision.measure_training(images, device)
    if args.tokenizing:
        language.measure_tokenizing(args)
    if args.language:
        language.measure_training(text, device)


def filled(args: argparse.Namespace, activation: str, batch_size: int) -> argparse.Namespace:
    """The arguments with these where they are not given."""
    given = {name: value for name, value in vars(args).items() if value is not None}
    return argparse.Namespace(**{"activation": activation, "batch_size": batch_size} | given)


if __name__ == "__main__":
    cli.run(main)
