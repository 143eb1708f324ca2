"""The command line that both programs share: flags, their validation, one-line errors, run names.

Nothing heavy is imported here: `--help` and every mistake are answered before torch is loaded.
"""

import argparse
import difflib
import hashlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import dataset
import models
from training import processes
from utils import UserError, nearest
from zilu import names as activations

DEFAULT_DATA_PATH = "./Data"
AUTO = "auto"

# What a flag changes. Resuming, run names, sweeps and reports all go by it.
RESULT = "the result"
ARITHMETIC = "the arithmetic alone"  # device, AMP, compile: results agree to rounding
NOTHING = "nothing"


# How other people's models are named.
VISION_FORMS = "timm/NAME, torchvision/NAME"
LANGUAGE_FORMS = "hf/FOLDER, hf/NAME"

# Not taken from an earlier run's args.txt: they say where and how that run was, not what.
ARGUMENTS_OF_ONE_RUN = ("config", "output_dir", "overwrite", "resume", "test_only", "checkpoint")


@dataclass(frozen=True)
class Flag:
    """One flag: `convert` turns its text into a value, or raises ValueError with the reason.

    `bare` is the text that the flag stands for without one. Other people's models have no default
    for a flag with `own_default`: they have settings of their own.
    """

    group: str
    name: str
    default: object
    convert: Callable | type[bool]
    effect: str
    help: str
    bare: str | None = None
    own_default: bool = False

    def default_for(self, model: str) -> object:
        return None if self.own_default and models.is_third_party(model) else self.default


def number(kind: type, at_least=None, above=None, below=None) -> Callable:
    """A converter to int or float with bounds."""
    bounds = [f"of at least {at_least}"] if at_least is not None else []
    bounds += [f"above {above}"] if above is not None else []
    bounds += [f"below {below}"] if below is not None else []
    wanted = " ".join(["a whole number" if kind is int else "a number", " and ".join(bounds)])

    def convert(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        inside = (
            abs(value) < (2**63 if kind is int else float("inf"))
            and (at_least is None or value >= at_least)
            and (above is None or value > above)
            and (below is None or value < below)
        )
        if not inside:
            raise ValueError(f"expected {wanted.strip()}, not {text!r}")
        return value

    return convert


def one_of(*choices: str) -> Callable:
    """A converter to one of `choices`, without regard to case; the nearest is suggested."""
    by_lower = {choice.lower(): choice for choice in choices}

    def convert(text: str) -> str:
        if text.lower() in by_lower:
            return by_lower[text.lower()]
        raise ValueError(f"unknown value {text!r}; {nearest(text, choices)}")

    convert.choices = choices
    return convert


def model_name(known: tuple[str, ...], prefixes: dict[str, str], forms: str) -> Callable:
    """A converter to one of our models, or to PREFIX/NAME of another package's."""
    own = one_of(*known, *forms.split(", "))

    def convert(text: str) -> str:
        prefix, slash, name = text.partition("/")
        if slash and name and prefix.lower() in prefixes:
            return f"{prefix.lower()}/{name}"
        return own(text)

    return convert


def device_name(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:(0|[1-9]\d?))?", text):
        raise ValueError(f"unknown device {text!r}; known: auto, cpu, cuda, cuda:N, mps")
    return text


def warmup_length(text: str) -> str:
    if not re.fullmatch(r"\d{1,15}|\d{1,9}(\.\d{1,9})?(ep|%)", text):
        raise ValueError(f"expected steps (500), epochs (3ep) or a share (5%), not {text!r}")
    if text.endswith("%") and float(text[:-1]) > 100:
        raise ValueError(f"expected at most 100%, not {text!r}")
    return text


def save_interval(text: str) -> str:
    part = r"([1-9]\d{0,8}(ep)?|(?=.*[1-9])\d{1,5}(\.\d{1,9})?min)"
    units = [re.sub(r"[\d.]", "", each) for each in text.split(",")]
    if not all(re.fullmatch(part, each) for each in text.split(",")) or len({*units}) < len(units):
        raise ValueError(
            "expected epochs (1ep), steps (500), minutes (10min) or several with commas between, "
            f"not {text!r}"
        )
    return text


def patch_size(text: str) -> str | int:
    return "auto" if text.lower() == "auto" else number(int, at_least=1)(text)


def checked(convert: Callable) -> Callable:
    """`convert` so that argparse passes on the reason for which it refuses a value."""

    def converted(text: str):
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return converted


_positive_int = number(int, at_least=1)
_positive = number(float, above=0)
_not_negative = number(float, at_least=0)
_share = number(float, at_least=0, below=1)
_count = number(int, at_least=0)
_seed = _count

# One flag a row.
# fmt: off
_SHARED = (
    Flag("Model", "activation", "ZiLU", activations.canonical_name, RESULT,
         f"activation function: {', '.join(activations.ACTIVATIONS)}"),
    Flag("Model", "sigma", 1.0, activations.check_sigma, RESULT,
         f"sharpness of {', '.join(activations.SIGMA_NAMES)}"),
    Flag("Model", "learn_sigma", False, bool, RESULT, "make sigma a parameter of each layer"),
    Flag("Model", "rescale_init", None, number(float, at_least=1e-30, below=1e30), RESULT,
         "scale the initial weights around each activation, so that the network starts as the "
         "function that --sigma times this would give: the control for scans of sigma"),
    Flag("Model", "norm", "auto", one_of(*models.NORMS), RESULT,
         "norms: bn (BatchNorm), gn (GroupNorm) or none in VGGs and ResNets, layer (LayerNorm) or "
         "none in ViTs and GPT-2; auto is bn or layer"),
    Flag("Model", "init_gain", "torch", one_of(*models.INIT_GAINS), RESULT,
         "unit scales the initial weights that read an activation, so that every activation keeps "
         "the second moment that ReLU does with torch, which has ReLU's gain for all"),
    Flag("Model", "inplace", False, bool, NOTHING,
         f"overwrite the input, to save memory: {', '.join(activations.INPLACE_NAMES)}"),
    Flag("Training", "max_steps", None, _positive_int, RESULT,
         "stop after this many steps, where --num_epochs is not over before"),
    Flag("Training", "grad_accum_steps", 1, _positive_int, RESULT,
         "batches that a step adds up the gradients of: one step sees --batch_size times as many"),
    Flag("Training", "eval_interval", None, _positive_int, NOTHING,
         "evaluate every so many steps too (after each epoch only)"),
    Flag("Training", "use_amp", False, bool, ARITHMETIC, "automatic mixed precision"),
    Flag("Training", "amp_dtype", "auto", one_of("auto", "bf16", "fp16"), ARITHMETIC,
         "auto: bf16 where the GPU has it, else fp16 with gradient scaling; on a CPU bf16"),
    Flag("Training", "use_compiled", False, bool, ARITHMETIC, "torch.compile"),
    Flag("Training", "compile_mode", "default",
         one_of("default", "reduce-overhead", "reduce-memory", "max-autotune"), ARITHMETIC,
         "torch.compile's mode; reduce-memory keeps half of the activation memory for backward"),
    Flag("Training", "clip_grad_norm", 1.0, _not_negative, RESULT,
         "largest gradient norm; 0 is off"),
    Flag("Optimization", "optimizer", "adamw", one_of("adamw", "adam", "sgd"), RESULT,
         "optimizer: adamw, adam or sgd"),
    Flag("Optimization", "lr", 1e-3, _positive, RESULT, "learning rate, after warm-up"),
    Flag("Optimization", "weight_decay", 1e-6, _not_negative, RESULT,
         "weight decay, on the weights of linear, convolution and embedding layers only"),
    Flag("Optimization", "momentum", 0.9, _share, RESULT, "momentum of sgd"),
    Flag("Optimization", "beta1", 0.9, _share, RESULT, "decay of adam's mean of gradients"),
    Flag("Optimization", "beta2", 0.999, _share, RESULT, "decay of adam's mean of their squares"),
    Flag("Optimization", "scheduler", "none",
         one_of("none", "step", "cosine", "linear", "plateau"), RESULT,
         "learning rate per step: cosine and linear fall to 0 at the end; step multiplies by "
         "--lr_gamma every --lr_step epochs; plateau does so after --lr_step epochs without a "
         "lower validation loss (training loss where there is no validation split)"),
    Flag("Optimization", "warmup", "0", warmup_length, RESULT,
         "linear warm-up: steps (500), epochs (3ep) or a share of all steps (5%)"),
    Flag("Optimization", "lr_step", 20, _positive_int, RESULT, "epochs; see --scheduler"),
    Flag("Optimization", "lr_gamma", 0.1, _positive, RESULT, "factor; see --scheduler"),
    Flag("System", "device", "auto", device_name, ARITHMETIC,
         "auto (cuda, mps or cpu, whichever is there first), cpu, cuda, cuda:N, mps"),
    Flag("System", "seed", 0, _seed, RESULT, "seed of everything below that is not given"),
    Flag("System", "init_seed", None, _seed, RESULT, "seed of the initial weights (--seed)"),
    Flag("System", "data_seed", None, _seed, RESULT,
         "seed of data order and augmentation (--seed)"),
    Flag("System", "deterministic", False, bool, ARITHMETIC,
         "bit-identical repeats on CUDA too (slower; on a CPU runs always repeat)"),
    Flag("Output", "config", None, str, NOTHING,
         "YAML file of flags, or the args.txt of an earlier run; the command line overrides it"),
    Flag("Output", "output_dir", None, str, NOTHING,
         "run folder (./Output/DATASET/MODEL/ACTIVATION_SIGMA_SEED, and a short hash where other "
         "flags differ from their defaults)"),
    Flag("Output", "overwrite", False, bool, NOTHING, "replace the run that --output_dir holds"),
    Flag("Output", "resume", None, str, NOTHING,
         "go on with the interrupted run in --output_dir, if there is one; or with the one whose "
         "folder or checkpoint is given, whose flags then count where none are given",
         bare=AUTO),
    Flag("Output", "save_interval", "1ep,10min", save_interval, NOTHING,
         "when to save a checkpoint: epochs (1ep), steps (500), minutes (10min), or whichever of "
         "several is over first; the end is always saved"),
    Flag("Output", "stats", None, _positive_int, NOTHING,
         "every so many steps, numbers of each activation (spread and tail of its input, flat "
         "slopes, gradient, sigma), and dead channels at evaluations, into stats.jsonl"),
    Flag("Output", "tensorboard", False, bool, NOTHING,
         "the numbers of --stats for TensorBoard too, in the run folder"),
    Flag("Output", "test_only", False, bool, NOTHING,
         "evaluate --checkpoint, else the run folder's, else the untrained network"),
    Flag("Output", "checkpoint", None, str, NOTHING, "checkpoint file for --test_only"),
)

_VISION_ALONE = (
    Flag("Model", "model", "vgg11",
         model_name(models.VISION_MODELS, models.VISION_PACKAGES, VISION_FORMS), RESULT,
         f"network: {', '.join(models.VISION_MODELS)}; or {VISION_FORMS}: any image classifier "
         "that timm or torchvision has, its activations replaced"),
    Flag("Model", "stem", "auto", one_of(*models.STEMS), RESULT,
         "ResNet-18/34/50: cifar (3x3) or imagenet (7x7, max-pool); auto goes by image size"),
    Flag("Model", "head", "auto", one_of(*models.HEADS), RESULT,
         "VGG: linear or imagenet (4096 wide); auto goes by image size"),
    Flag("Model", "patch_size", "auto", patch_size, RESULT, "ViT: pixels; auto is 4 or 16"),
    Flag("Dataset", "dataset", "cifar10", one_of(*dataset.VISION_DATASETS), RESULT,
         f"data set: {', '.join(dataset.VISION_DATASETS)}"),
    Flag("Dataset", "data_path", DEFAULT_DATA_PATH, str, NOTHING, "folder of the data"),
    Flag("Dataset", "resize", None, _positive_int, RESULT,
         "image size in pixels (the data set's own; digits 32, imagenet 224)"),
    Flag("Dataset", "augment", False, bool, RESULT, "random crop and flip (digits: crop alone)"),
    Flag("Dataset", "color_jitter", False, bool, RESULT,
         "random brightness, contrast, saturation (0.2) and hue (0.1)"),
    Flag("Dataset", "noise", 0.0, _not_negative, RESULT,
         "standard deviation of Gaussian noise on normalised training images"),
    Flag("Dataset", "val_fraction", 0.0, _share, RESULT,
         "share of the training set held out for validation, stratified"),
    Flag("Dataset", "imb_factor", None, number(float, above=0, below=1), RESULT,
         "make the training set long-tailed: the smallest class's share of the largest one "
         f"(all images; {dataset.LONG_TAIL_FACTOR:g} for cifar10-lt and cifar100-lt)"),
    Flag("Dataset", "imb_type", "exp", one_of("exp", "step"), RESULT,
         "with --imb_factor: exp falls from class to class, step once, after half of them"),
    Flag("Training", "batch_size", 256, _positive_int, RESULT, "images per step"),
    Flag("Training", "num_epochs", 150, _positive_int, RESULT, "passes over the training set"),
    Flag("Training", "sync_batchnorm", False, bool, RESULT,
         "with several processes: BatchNorm's statistics over all of them, not over each one's"),
    Flag("Optimization", "criterion", "CrossEntropy", one_of("CrossEntropy", "MSE"), RESULT,
         "loss: CrossEntropy, or MSE between the outputs and one-hot targets"),
    Flag("Optimization", "label_smoothing", 0.0, _share, RESULT, "of the training targets"),
    Flag("Optimization", "class_balanced", None, number(float, at_least=0, below=1), RESULT,
         "class-balanced training loss (arXiv 1901.05555) with this beta, for example 0.9999"),
    Flag("System", "split_seed", 0, _seed, RESULT,
         "seed of the validation split, and of what --imb_factor keeps"),
    Flag("System", "num_workers", None, _count, NOTHING,
         "processes that read images of data sets too large for memory; 0 is none "
         "but this one (one per processor)"),
)

_LANGUAGE_ALONE = (
    Flag("Model", "model", "gpt2",
         model_name(models.LANGUAGE_MODELS, models.LANGUAGE_PACKAGES, LANGUAGE_FORMS), RESULT,
         f"network: {', '.join(models.LANGUAGE_MODELS)}; or {LANGUAGE_FORMS}: any causal language "
         "model of transformers by its config.json, untrained, its activations replaced"),
    Flag("Model", "embedding_dim", None, _positive_int, RESULT, "width (the model's)"),
    Flag("Model", "num_attention_heads", None, _positive_int, RESULT, "per block (the model's)"),
    Flag("Model", "num_layers", None, _positive_int, RESULT, "blocks (the model's)"),
    Flag("Model", "max_seq_length", 1024, _positive_int, RESULT, "context in tokens"),
    Flag("Model", "vocab_size", None, _positive_int, RESULT,
         "rows of the token embedding (the tokenizer's number of ids)"),
    Flag("Model", "dropout", 0.1, _share, RESULT,
         "of embeddings, attention and residuals; hf/: of all that the configuration has rates "
         "for, which are its own where the flag is not given", own_default=True),
    Flag("Model", "init_from", None, str, RESULT,
         "folder of a Hugging Face GPT-2 to start from: config.json and model.safetensors"),
    Flag("Dataset", "dataset", "wikitext103", one_of(*dataset.LANGUAGE_DATASETS), RESULT,
         f"data set: {', '.join(dataset.LANGUAGE_DATASETS)}"),
    Flag("Dataset", "data_path", DEFAULT_DATA_PATH, str, NOTHING,
         "folder of the data and of its tokens"),
    Flag("Dataset", "tokenizer", "gpt2", str, RESULT, "gpt2, bytes, or a tokenizer's folder"),
    Flag("Dataset", "eval_stride", None, _positive_int, RESULT,
         "tokens that an evaluation window scores, with the rest of the context before them "
         "(--max_seq_length: all, without overlap)"),
    Flag("Training", "batch_size", 32, _positive_int, RESULT, "sequences per batch"),
    Flag("Training", "num_epochs", 10, _positive_int, RESULT, "passes over the training text"),
    Flag("Output", "sample", 0, _count, NOTHING, "continuations of --prompt to print at the end"),
    Flag("Output", "prompt", None, str, NOTHING, "text that --sample continues (a new document)"),
)
# fmt: on

GROUPS = ("Model", "Dataset", "Training", "Optimization", "System", "Output")
VISION_FLAGS = (*_VISION_ALONE, *_SHARED)


def _with_defaults(flags: tuple[Flag, ...], **defaults) -> tuple[Flag, ...]:
    return tuple(replace(f, default=defaults.get(f.name, f.default)) for f in flags)


LANGUAGE_FLAGS = (
    *_LANGUAGE_ALONE,
    *_with_defaults(
        _SHARED, lr=6e-4, weight_decay=0.1, beta2=0.95, scheduler="linear", warmup="5%"
    ),
)


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(message)


def tool_parser(usage: str, text: str) -> Parser:
    """For a program that trains nothing: the first paragraph of `text` opens the help, the rest
    ends it."""
    summary, details = text.split("\n\n", 1)
    return Parser(
        usage=usage,
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _flags_parser(program: str, description: str, flags: tuple[Flag, ...]) -> Parser:
    parser = Parser(
        prog=program, usage="%(prog)s [flags]", description=description, allow_abbrev=False
    )
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    for flag in flags:
        text = f"{flag.help} ({shown_default(flag)})" if flag.default is not None else flag.help
        options = {"help": text.replace("%", "%%"), "default": argparse.SUPPRESS}
        if flag.convert is bool:
            options |= {"action": argparse.BooleanOptionalAction}
        else:
            options |= {"metavar": "VALUE"}
        if flag.bare is not None:
            options |= {"nargs": "?", "const": flag.bare}
        groups[flag.group].add_argument(f"--{flag.name}", **options)
    return parser


def shown_default(flag: Flag) -> str:
    """As help and README show it; a flag without one says in its text what stands in for it."""
    if flag.default is None:
        return ""
    return "off" if flag.default is False else str(flag.default)


def parse(
    program: str, description: str, flags: tuple[Flag, ...], argv: list[str] | None = None
) -> tuple[argparse.Namespace, set[str]]:
    """The flags' values from the command line, over `--config`, over the defaults.

    Returns the values, and the names of those that were given (on either).

    Raises:
        UserError: an unknown flag, a value that its flag refuses, an unreadable `--config`.
    """
    parser = _flags_parser(program, description, flags)
    given, unknown = parser.parse_known_args(argv)
    known = {flag.name: flag for flag in flags}
    if unknown:
        name = unknown[0].lstrip("-").split("=")[0]
        raise UserError(f"unknown argument {unknown[0]!r}; {_nearest_flag(name, known)}")
    texts = vars(given)
    if "config" in texts:
        texts = read_config(texts["config"], known) | texts
    return complete(texts, known), set(texts)


def complete(texts: dict[str, object], known: dict[str, Flag]) -> argparse.Namespace:
    """The values of all `known` flags: those in `texts`, converted, and the others' defaults.

    Raises:
        UserError: an unknown flag, or a value that its flag refuses.
    """
    for name in texts:
        if name not in known:
            raise UserError(f"unknown flag {name!r}; {_nearest_flag(str(name), known)}")
    values = {name: _converted(known[name], text) for name, text in texts.items()}
    model = values.get("model", known["model"].default)
    defaults = {name: flag.default_for(model) for name, flag in known.items()}
    return argparse.Namespace(**defaults | values)


def _nearest_flag(name: str, known: dict[str, Flag]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean --{near[0]}? (--help lists all)" if near else "--help lists all"


def _converted(flag: Flag, text) -> object:
    if "\0" in str(text):
        raise UserError(f"--{flag.name}: a NUL character is no part of a value")
    if flag.bare is not None and isinstance(text, bool):  # in a file
        return flag.bare if text else flag.default
    if flag.convert is bool:
        if isinstance(text, bool):
            return text
        raise UserError(f"--{flag.name}: expected true or false, not {text!r}")
    try:
        return flag.convert(str(text))
    except ValueError as error:
        raise UserError(f"--{flag.name}: {error}") from None


def read_config(path: str, known: dict[str, Flag]) -> dict[str, object]:
    """The flags that a YAML file sets; null means the default."""
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:  # a bad date is a ValueError
        reason = " ".join(str(error).split())
        raise UserError(f"--config {path}: not a readable YAML file ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"--config {path}: expected lines of the form `flag: value`")
    if "environment" in content:  # an earlier run's args.txt
        own = {flag for flag in known if flag in ARGUMENTS_OF_ONE_RUN}
        skipped = own | {"environment", "resolved", "resumed"}
        content = {name: value for name, value in content.items() if name not in skipped}
    for name in content:
        if name not in known or name == "config":
            raise UserError(
                f"--config {path}: unknown flag {name!r}; {_nearest_flag(str(name), known)}"
            )
    return {name: value for name, value in content.items() if value is not None}


def check_together(args: argparse.Namespace) -> None:
    """Refuse flags that contradict each other.

    Raises:
        UserError: with the remedy.
    """
    name = args.activation
    if args.learn_sigma and name not in activations.SIGMA_NAMES:
        raise UserError(
            f"--learn_sigma: {name} has no sigma; leave it out, or take one of "
            f"{', '.join(activations.SIGMA_NAMES)}"
        )
    if args.rescale_init is not None and name not in activations.GATED_NAMES:
        raise UserError(
            f"--rescale_init: {name} is not of the form f(sigma x) / sigma; leave it out, or take "
            f"one of {', '.join(activations.GATED_NAMES)}"
        )
    if args.rescale_init is not None and models.is_third_party(args.model):
        raise UserError(
            f"--rescale_init does not apply to {args.model}, only to the project's own models: "
            "leave it out"
        )
    if args.init_gain != "torch":
        check_init_gain(args)
    if args.inplace and name not in activations.INPLACE_NAMES:
        raise UserError(
            f"--inplace: {name} has no in-place form; leave it out, or take one of "
            f"{', '.join(activations.INPLACE_NAMES)}"
        )
    if args.tensorboard and args.stats is None:
        raise UserError("--tensorboard has no effect without --stats; add --stats 100")
    if args.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError("--tensorboard: it is not installed; pip install tensorboard")
    if args.compile_mode != "default" and not args.use_compiled:
        raise UserError("--compile_mode has no effect without --use_compiled; add it")
    if args.amp_dtype != "auto" and not args.use_amp:
        raise UserError("--amp_dtype has no effect without --use_amp; add it")


def check_init_gain(args: argparse.Namespace) -> None:
    """Refuse what --init_gain unit cannot be together with.

    Raises:
        UserError: with the remedy.
    """
    if models.is_third_party(args.model):
        raise UserError(
            f"--init_gain does not apply to {args.model}, only to the project's own models: "
            "leave it out"
        )
    if args.rescale_init is not None:
        raise UserError(
            "--init_gain unit goes by the activation's own sigma, and --rescale_init by another "
            "one; leave out one of them"
        )
    if getattr(args, "init_from", None) is not None:
        raise UserError("--init_from replaces what --init_gain scales; leave out one of them")


def check_run_flags(args: argparse.Namespace) -> None:
    """Refuse flags that want a run folder to be used in two ways.

    Raises:
        UserError: with the remedy.
    """
    if args.checkpoint is not None and not args.test_only:
        raise UserError("--checkpoint is for --test_only; add it, or leave out --checkpoint")
    if args.resume is not None and args.test_only:
        raise UserError("--resume trains and --test_only does not; leave out one of them")
    if args.resume is not None and args.overwrite:
        raise UserError(
            "--resume goes on with a run and --overwrite replaces it; leave out one of them"
        )


def has_sigma(args: argparse.Namespace) -> bool:
    return args.activation in activations.SIGMA_NAMES


def default_output_dir(args: argparse.Namespace, flags: tuple[Flag, ...]) -> Path:
    """Output/DATASET/MODEL/ACTIVATION_SIGMA_SEED, and a hash of the other flags if any differs."""
    parts = [args.activation]
    if has_sigma(args):
        sigma = repr(args.sigma).removesuffix(".0")
        parts.append(f"sigma{sigma}" + ("-learned" if args.learn_sigma else ""))
    parts.append(f"seed{args.seed}")
    # The device is left out, so that --test_only finds the run on another one.
    named = {"dataset", "model", "activation", "sigma", "learn_sigma", "seed", "device"}
    others = {
        flag.name: getattr(args, flag.name)
        for flag in flags
        if flag.effect != NOTHING
        and flag.name not in named
        and getattr(args, flag.name) != flag.default_for(args.model)
    }
    if args.dataset in (*dataset.FOLDERS, "text") and args.data_path != DEFAULT_DATA_PATH:
        others["data_path"] = args.data_path  # it says which images they are
    if others:
        text = json.dumps(others, sort_keys=True)
        parts.append(hashlib.sha256(text.encode()).hexdigest()[:8])
    return Path("Output") / args.dataset / _path_of(args.model) / "_".join(parts)


def _path_of(model: str) -> str:
    """A path below the run folders. A name that leaves them, as that of a configuration may, gives
    its last part, and a hash of the whole."""
    if all(re.fullmatch(r"\w[\w.-]*", part) for part in model.split("/")):
        return model
    prefix, _, name = model.partition("/")
    last = re.sub(r"[^\w.-]+", "-", Path(name).name).lstrip(".-") or "model"
    return f"{prefix}/{last}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"


def args_text(args: argparse.Namespace, resolved: dict, environment: dict) -> str:
    """args.txt: the flags as given, then what the automatic ones came to, then the machine.

    `--config` reads it back: the flags alone, since a resolved one would keep, say, the initial
    weights from following another `--seed`.
    """
    import yaml

    class Dumper(yaml.SafeDumper):
        """With every list, of a hundred classes' sizes for example, in one line."""

    def in_one_line(dumper, values):
        return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)

    Dumper.add_representer(list, in_one_line)
    content = vars(args) | {"resolved": resolved, "environment": environment}
    return yaml.dump(content, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=10**9)


def list_item(content: dict) -> str:
    """An item of a YAML list, in one line."""
    import yaml

    return "- " + yaml.safe_dump(content, default_flow_style=True, width=10**9).strip()


def run(main: Callable[[], int | None]) -> None:
    """Run a program; every mistake of the user's ends in one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal that lacks a character ends no run
    try:
        code = main()
        sys.stdout.flush()
        sys.exit(code)
    except UserError as error:
        _fail(error)
    except BrokenPipeError:  # whoever read what is printed, `head` for example, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # as of a program that SIGPIPE ends
    except OSError as error:  # a full disk, a folder without permission
        _fail(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _fail(error: Exception) -> None:
    rank = processes.rank()
    who = f"(process {rank}) " if rank else ""
    print(f"error: {who}{' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)
