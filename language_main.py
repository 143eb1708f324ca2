"""Train and evaluate language models with any activation function, measured by perplexity.

    python language_main.py --activation ZiLU --dataset wikitext103

What is language's own: text as tokens, GPT-2 or one of Hugging Face's networks, and the task of
predicting the next token. program.py and the loop (train_eval.py) do the rest. torch is imported
inside the functions: flags are checked, and --help answers, before it is loaded.
"""

import argparse
import functools
import math
import re
from pathlib import Path

import cli
import dataset
import models
from training import processes, program
from utils import UserError, one_line_warnings

FLAGS = cli.LANGUAGE_FLAGS
SIZES = ("embedding_dim", "num_attention_heads", "num_layers")
SAMPLED_TOKENS = 200  # of a continuation, for --sample


def main(argv: list[str] | None = None) -> int:
    return program.main(Language(), __doc__.splitlines()[0], argv)


class Language(program.Program):
    """Text."""

    name, kind, flags = "language_main.py", "language", FLAGS
    model_flags = (
        "model", "activation", "sigma", "learn_sigma", *SIZES, "max_seq_length", "vocab_size",
        "norm",
    )  # fmt: skip
    data_flags = ("dataset", "data_path", "eval_stride")
    test_each_epoch = False

    def check(self, args):
        model_shape(args)
        norm(args)
        if models.is_third_party(args.model):
            check_configuration(args)
        if args.prompt is not None and not args.sample:
            raise UserError("--prompt has no effect without --sample; add --sample 1")

    def prepare_data(self, args):
        if args.sample:  # a missing tokenizer is to be noticed now, not after the training
            dataset.load_tokenizer(args.tokenizer, args.data_path)
        return dataset.prepare_text(args.dataset, args.data_path, args.tokenizer)

    def load_data(self, args, device, settings, prepared):
        data = dataset.load_text(
            args.dataset,
            args.data_path,
            tokenizer=args.tokenizer,
            block_size=args.max_seq_length,
            batch_size=args.batch_size,
            eval_stride=args.eval_stride,
            data_seed=program.seed_of(args, "data_seed"),
            device=device,
            tokens=prepared,
            rank=processes.rank(),
            world_size=processes.world_size(),
        )
        if (args.vocab_size or data.vocab_size) < data.vocab_size:
            raise UserError(
                f"--vocab_size {args.vocab_size}: --tokenizer {args.tokenizer} has "
                f"{data.vocab_size} ids; leave out --vocab_size, or give at least as many"
            )
        return data

    def build_model(self, args, data):
        return build_model(args, args.vocab_size or data.vocab_size)

    def initial_weights(self, args):
        return "untrained" if args.init_from is None else f"pretrained ({args.init_from})"

    def task(self, args, data):
        return LanguageModelling()

    def resolved(self, args, data):
        return {
            **model_options(args, data),
            "tokenizer_fingerprint": data.fingerprint,
            "text": data.description,
            "counts": counts(data),
        }

    def settings(self, args, data):
        return {
            "model_options": model_options(args, data),
            "tokenizer_fingerprint": data.fingerprint,
            "data_digests": data.digests,
        }

    def adopt(self, args, given, settings, other_data):
        if "init_from" in given:
            raise UserError("--init_from and a checkpoint are two networks; leave out one of them")
        args.init_from = None  # the checkpoint's weights took its place
        check_same_configuration(args, settings)
        saved = settings["args"]["tokenizer"]
        if "tokenizer" not in given:
            args.tokenizer = saved
        if dataset.tokenizer_fingerprint(args.tokenizer) != settings["tokenizer_fingerprint"]:
            raise UserError(
                f"--tokenizer {args.tokenizer}: the checkpoint was trained with another one; "
                f"give --tokenizer {saved}, as it was then"
            )

    def measure(self, args):
        return f"stride {args.eval_stride or args.max_seq_length} of {args.max_seq_length}"

    def finish(self, args, model, data):
        if args.sample:
            print_samples(args, model)


# --- networks ---


def counts(data) -> dict[str, dict[str, int]]:
    """Tokens, words and bytes of every split."""
    return {split: vars(numbers) for split, numbers in data.counts.items()}


def model_options(args: argparse.Namespace, data) -> dict:
    """What decides the network besides the flags: its sizes, or its configuration as it stands in
    the file."""
    options = {**model_shape(args), "vocab_size": args.vocab_size or data.vocab_size}
    options |= {"norm": norm(args)}
    if models.is_third_party(args.model):
        options["configuration"] = configuration(args)
    return options


def norm(args: argparse.Namespace) -> str:
    """What the norms are.

    Raises:
        UserError: the model has no such ones, or those of --init_from would be lost.
    """
    with program.user_errors():
        resolved = models.resolve_norm(args.model, args.norm)
    if resolved == "none" and args.init_from is not None:
        raise UserError(f"--init_from {args.init_from} has norms; leave out --norm none")
    return resolved


def model_shape(args: argparse.Namespace) -> dict[str, int]:
    """Width, heads and layers: the flags', else those of --init_from, else the model's; none of a
    Hugging Face configuration, which is the place for them.

    Raises:
        UserError: sizes that do not fit together, or not the network to start from.
    """
    sizes = {name: getattr(args, name) for name in SIZES}
    if args.init_from is not None and models.is_third_party(args.model):
        raise UserError(
            f"--init_from does not apply to {args.model}, which starts untrained: leave it out"
        )
    with program.user_errors():
        if args.init_from is None:
            return models.resolve_shape(args.model, **sizes)
        theirs = models.hugging_face_shape(args.init_from)
        shape = {name: theirs[name] if size is None else size for name, size in sizes.items()}
        vocab_size = args.vocab_size or theirs["vocab_size"]
        wanted = {**shape, "vocab_size": vocab_size, "max_seq_length": args.max_seq_length}
        models.check_fits(args.init_from, wanted)
        return shape


def build_model(args: argparse.Namespace, vocab_size: int):
    from models.gpt2 import load_hugging_face
    from utils import seed_everything

    seed_everything(program.seed_of(args, "init_seed"))
    third_party = models.is_third_party(args.model)
    with program.user_errors(), one_line_warnings():
        model = models.build_model(
            f"hf/{configuration_folder(args.model)}" if third_party else args.model,
            program.activation_factory(args),
            vocab_size=vocab_size,
            max_seq_length=args.max_seq_length,
            dropout=args.dropout,
            norm=args.norm,
            **model_shape(args),
        )
    if args.init_from is not None:
        with program.user_errors():
            load_hugging_face(model, args.init_from)
    program.scale_weights(args, model)
    return model


# --- Hugging Face's ---


@functools.cache
def configuration_folder(model: str) -> Path:
    """The folder with the config.json of hf/FOLDER or hf/NAME, NAME being a repository's.

    Raises:
        UserError: there is none; within seconds, where there is no network.
    """
    name = model.partition("/")[2]
    if Path(name).is_dir():
        return Path(name)
    wanted = "give a folder with a config.json (save_pretrained writes one)"
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise UserError(f"--model {model}: no such folder; {wanted}")
    from pipelines.text import hub

    try:
        return hub.fetch((name,), "model", ["config.json"], has_configuration)
    except OSError as error:
        raise UserError(
            f"--model {model}: no such folder, and not to be had from Hugging Face ({error}); "
            f"{wanted}"
        ) from None


def has_configuration(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def check_configuration(args: argparse.Namespace) -> None:
    """Refuse a network that is no causal language model, as far as its configuration tells.

    Raises:
        UserError: with the remedy.
    """
    folder = configuration_folder(args.model)
    with program.user_errors(), one_line_warnings():
        from models.causal_lm import check_configuration

        check_configuration(folder, args.dropout)


def configuration(args: argparse.Namespace) -> dict:
    from models.causal_lm import read_configuration

    return read_configuration(configuration_folder(args.model))


def check_same_configuration(args: argparse.Namespace, settings: dict) -> None:
    """Refuse to evaluate weights in another network than they were trained in.

    Raises:
        UserError: config.json has changed.
    """
    saved = settings["model_options"].get("configuration")
    if saved is not None and configuration(args) != saved:
        raise UserError(
            f"--model {args.model}: its config.json has changed since the checkpoint; args.txt of "
            "the run holds it as it was: bring it back"
        )


# --- the task ---


class LanguageModelling:
    """The next token from those before: the loss per token, in nats, and what follows from it."""

    unit = "tokens"

    def __call__(self, model, batch):
        import torch
        from torch.nn import functional as F

        from pipelines.text.loaders import IGNORED

        ids, targets = batch
        logits = model(ids).float()
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        count = (targets != IGNORED).sum()
        return loss, torch.stack([loss.detach() * count, count])

    def metrics(self, sums: list[float], loader) -> dict[str, float]:
        """Per token; per word and byte by the split's own numbers of them."""
        nats, count = sums
        loss, split = nats / count, loader.counts
        nats_of_split = loss * split.tokens
        return {
            "loss": loss,
            "perplexity": _exp(loss),
            "word_perplexity": _exp(nats_of_split / split.words) if split.words else math.inf,
            "bits_per_byte": nats_of_split / split.bytes / math.log(2),
            "count": int(count),
        }

    def describe(self, metrics: dict[str, float]) -> str:
        return (
            f"Loss: {metrics['loss']:.8f} Perplexity: {metrics['perplexity']:.4f} "
            f"(per word {metrics['word_perplexity']:.6g}, "
            f"{metrics['bits_per_byte']:.4f} bits per byte)"
        )

    def score(self, metrics: dict[str, float]) -> float:
        return -metrics["loss"]

    def predictions(self, model, batch):
        """loss (B,), mean nats per token of a block, and tokens (B,), how many those are."""
        from torch.nn import functional as F

        from pipelines.text.loaders import IGNORED

        ids, targets = batch
        losses = F.cross_entropy(
            model(ids).float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED,
            reduction="none",
        )  # fmt: skip
        tokens = (targets != IGNORED).sum(1)
        return {"loss": losses.view_as(targets).sum(1) / tokens, "tokens": tokens}

    def flops(self, model) -> float | None:
        return model.flops_per_token


def _exp(x: float) -> float:
    return math.exp(x) if x < 709 else math.inf  # math.exp raises beyond


def print_samples(args: argparse.Namespace, model) -> None:
    """Print --sample continuations of --prompt, each drawn from a seed of its own."""
    import torch

    from utils import mixed_seed

    tokenizer = dataset.load_tokenizer(args.tokenizer, args.data_path)
    prompt = args.prompt or ""
    start = [tokenizer.end_of_text, *tokenizer.encode(prompt)]
    device = next(model.parameters()).device
    for number in range(1, args.sample + 1):
        generator = torch.Generator().manual_seed(mixed_seed("sample", args.seed, number))
        ids = torch.tensor([start], device=device)
        drawn = model.generate(ids, SAMPLED_TOKENS, generator)[0, len(start) :].tolist()
        if tokenizer.end_of_text in drawn:
            drawn = drawn[: drawn.index(tokenizer.end_of_text)]
        known = [token for token in drawn if token < tokenizer.vocab_size]
        print(f"[Sample {number}] {prompt}{tokenizer.decode(known)}")


if __name__ == "__main__":
    cli.run(main)
