"""Predict the next token of a text with GPT-2 or one of Hugging Face's networks."""

from __future__ import annotations

import functools
import math
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import models
from cli.language import LanguageConfig, LanguageModelConfig, LanguageRunConfig
from cli.parser import Command
from models import causal_lm
from models.gpt2 import GPT2, load_hugging_face
from models.gpt2_blocks import TOLERANCE, mlp_parameters, usual_mlp_width
from pipelines import hub
from pipelines.data import TextData
from pipelines.text import tokenizer
from pipelines.text.further import further_texts
from pipelines.text.load import load_text
from pipelines.text.loaders import IGNORED
from pipelines.text.tokenizer import Tokenizer
from run_folder.result_lines import perplexity_text
from training.program import Program
from training.random_state import seed_everything
from training.task import Batch
from utils import UserError, mixed_seed, one_line_warnings, rank, user_errors, world_size

SAMPLED_TOKENS = 200  # of a continuation, for --sample


class LanguageModelling:
    """Predict the next token: the loss per token in nats, and what follows from it.

    Args:
        targets_per_block: the mean over the training blocks, where it is not the same for all of
            them. The loss of a batch is then divided by this mean and not by its own targets, so
            that each target counts the same, on whichever process or in whichever batch it is.
    """

    def __init__(self, targets_per_block: float | None = None):
        self.targets_per_block = targets_per_block

    counted = "tokens"
    test_each_epoch = False

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        ids, targets = batch  # (B, T), (B, T)
        logits = model(ids).float()  # (B, T, vocabulary)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        count = (targets != IGNORED).sum()
        nats = loss.detach() * count
        if self.targets_per_block is not None:
            loss = loss * count / (len(ids) * self.targets_per_block)
        return loss, torch.stack([nats, count])

    def metrics(self, sums: list[float], loader: Any) -> dict[str, float]:
        """Return loss and perplexity per token; per word and byte by the split's own counts.

        The latter two are left out where the tokens are less than the text.
        """
        nats, count = sums
        loss, split = nats / count, loader.counts
        metrics = {"loss": loss, "perplexity": _exp(loss)}
        if split.lossless:
            nats_of_split = loss * split.tokens
            per_word = _exp(nats_of_split / split.words) if split.words else math.inf
            metrics["word_perplexity"] = per_word
            metrics["bits_per_byte"] = nats_of_split / split.bytes / math.log(2)
        return {**metrics, "count": int(count)}

    def describe(self, metrics: dict[str, float]) -> str:
        """Return the metrics as they stand in a line of results."""
        return perplexity_text(metrics)

    def score(self, metrics: dict[str, float]) -> float:
        """Return the negative loss."""
        return -metrics["loss"]

    def predictions(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return loss (B,), mean nats per token of a block, and tokens (B,), how many those are."""
        ids, targets = batch
        losses = F.cross_entropy(
            model(ids).float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED,
            reduction="none",
        )  # fmt: skip
        tokens = (targets != IGNORED).sum(1)
        return {"loss": losses.view_as(targets).sum(1) / tokens, "tokens": tokens}

    def flops(self, model: nn.Module) -> float | None:
        """Return the operations of a training step per token, where the network knows them."""
        return getattr(model, "flops_per_token", None)


def _exp(x: float) -> float:
    return math.exp(x) if x < 709 else math.inf  # math.exp raises beyond


class LanguageProgram(Program[LanguageConfig, TextData]):
    """Train and evaluate language models.

    Attributes:
        vocabulary: the tokenizer of --prompt, once the data are loaded for a run with --sample.
    """

    vocabulary: Tokenizer

    def check(self) -> None:
        super().check()
        if self.config.model.is_third_party:
            check_configuration(self.config.model)

    def load_data(self, settings: dict[str, Any]) -> TextData:
        config = self.config
        if config.run.sample:  # a missing tokenizer is to be noticed now, not after the training
            self.vocabulary = tokenizer.load_for(
                settings["args"]["dataset"] if settings else config.data.dataset,
                config.data.tokenizer, config.data.data_path,
            )  # fmt: skip
        place: dict[str, Any] = {
            "block_size": config.model.max_seq_length,
            "device": self.device,
            "rank": rank(),
            "world_size": world_size(),
        }
        data = load_text(config.data, data_seed=config.run.order_seed, **place)
        data.also = further_texts(config.data, **place)
        vocab_size = config.model.vocab_size
        if (vocab_size or data.vocab_size) < data.vocab_size:
            raise UserError(
                f"--vocab_size {vocab_size}: --tokenizer {config.data.tokenizer} has "
                f"{data.vocab_size} ids; leave out --vocab_size, or give at least as many"
            )
        return data

    def build_model(self, data: TextData) -> nn.Module:
        return self.network_for(self.config.model.vocab_size or data.vocab_size)

    def network_for(self, vocab_size: int) -> nn.Module:
        """Return the network in its initial state."""
        seed_everything(self.config.run.weights_seed)
        config = self.config.model
        name = config.model
        if config.is_third_party:
            name = f"hf/{configuration_folder(name)}"
        with user_errors(), one_line_warnings():
            model = models.build_model(
                name,
                self.activation(),
                vocab_size=vocab_size,
                max_seq_length=config.max_seq_length,
                dropout=config.dropout,
                norm=config.norm,
                bias=not config.no_bias,
                **config.shape(),
                **config.resolved_blocks(),
            )
            if config.mlp == "glu" and config.mlp_width is None:
                warn_of_parameters(model, config.shape(), config.no_bias)
        if (folder := config.published_start) is not None:
            with user_errors(), one_line_warnings():
                if isinstance(model, GPT2):
                    load_hugging_face(model, folder)
                elif isinstance(model, causal_lm.CausalLM):
                    causal_lm.load_weights(model, folder)
        self.scale_weights(model)
        return model

    def task(self, data: TextData) -> LanguageModelling:
        return LanguageModelling(getattr(data.train, "targets_per_block", None))

    def resolved(self, data: TextData) -> dict[str, Any]:
        return {
            **self.model_options(data),
            "tokenizer_fingerprint": data.fingerprint,
            "text": data.description,
            "counts": {split: numbers.facts() for split, numbers in data.counts.items()},
            "text_digests": data.digests,
        }

    def settings(self, data: TextData) -> dict[str, Any]:
        return {
            "model_options": self.model_options(data),
            "tokenizer_fingerprint": data.fingerprint,
            "data_digests": data.digests,
        }

    def model_options(self, data: TextData) -> dict[str, Any]:
        """Return what decides the network besides the flags.

        That is its sizes, or for hf/ models the configuration as it stands in the file.
        """
        config = self.config.model
        options: dict[str, Any] = {**config.shape()}
        options |= {"vocab_size": config.vocab_size or data.vocab_size}
        options |= {"norm": config.resolved_norm(), **config.resolved_blocks()}
        if config.is_third_party:
            options["configuration"] = configuration(config.model)
        return options

    @classmethod
    def tested_config(
        cls,
        command: Command[LanguageConfig],
        settings: dict[str, Any],
        taken: dict[str, Any],
    ) -> LanguageConfig:
        saved = settings["args"]["tokenizer"]
        name = command.config.data.tokenizer if "tokenizer" in command.given else saved
        config = command.config.replaced(**taken, tokenizer=name)
        if "dropout" not in command.given:  # the network has rates for it, or has not
            config = config.replaced(dropout=settings["args"].get("dropout", config.model.dropout))
        check_same_configuration(config.model, settings)
        cls.check_tokenizer(name, saved, settings["tokenizer_fingerprint"])
        return config

    @staticmethod
    def check_tokenizer(name: str, saved: str, fingerprint: str) -> None:
        """Refuse another tokenizer than the checkpoint's, which is called `saved` there.

        Raises:
            UserError: with the remedy.
        """
        if tokenizer.fingerprint(name) == fingerprint:
            return
        reason = f"the checkpoint was trained with another one; give --tokenizer {saved}"
        if name == saved:
            reason = (
                "its files have changed since the checkpoint, or an earlier version made its "
                "tokens line by line; bring the files back, or train again"
            )
        raise UserError(f"--tokenizer {name}: {reason}")

    def measured_with(self) -> str:
        length, data = self.config.model.max_seq_length, self.config.data
        pack = ", packed inside documents" if data.pack == "inside" else ""
        return f"stride {data.eval_stride or length} of {length}{pack}"

    def finish(self, model: nn.Module, data: TextData) -> None:
        if self.config.run.sample:
            print_samples(self.config.run, model, self.vocabulary)


def warn_of_parameters(model: nn.Module, shape: dict[str, int], no_bias: bool) -> None:
    """Warn where no width gives a gated MLP the parameters of a plain one."""
    width, bias = shape["embedding_dim"], not no_bias
    plain, gated = (
        mlp_parameters(width, usual_mlp_width(width, mlp, bias), mlp, bias) for mlp in models.MLPS
    )
    more = shape["num_layers"] * (gated - plain)
    share = more / (sum(p.numel() for p in model.parameters()) - more)
    if abs(share) > TOLERANCE:
        warnings.warn(
            f"--mlp glu: the network has {abs(share):.1%} {'more' if more > 0 else 'fewer'} "
            f"parameters than with --mlp plain; with --embedding_dim {width} no width is nearer",
            stacklevel=2,
        )


# --- Hugging Face's networks ---


@functools.cache
def configuration_folder(model: str) -> Path:
    """Return the folder with the config.json of hf/FOLDER or hf/NAME, NAME being a repository's.

    Raises:
        UserError: there is none; within seconds, where there is no network.
    """
    name = model.partition("/")[2]
    if Path(name).is_dir():
        return Path(name)
    wanted = "give a folder with a config.json (save_pretrained writes one)"
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise UserError(f"--model {model}: no such folder; {wanted}")
    try:
        return hub.fetch((name,), "model", ["config.json"], _has_configuration)
    except OSError as error:
        raise UserError(
            f"--model {model}: no such folder, and not available from Hugging Face ({error}); "
            f"{wanted}"
        ) from None


def _has_configuration(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def check_configuration(config: LanguageModelConfig) -> None:
    """Refuse a network that is no causal language model, as far as its configuration tells.

    Raises:
        UserError: with the remedy.
    """
    folder = configuration_folder(config.model)
    with user_errors(), one_line_warnings():
        causal_lm.check_configuration(folder, config.dropout)
        if config.published_start is not None:
            causal_lm.read_configuration(config.published_start)


def configuration(model: str) -> dict[str, Any]:
    """Return the content of the config.json of hf/FOLDER or hf/NAME."""
    return causal_lm.read_configuration(configuration_folder(model))


def check_same_configuration(config: LanguageModelConfig, settings: dict[str, Any]) -> None:
    """Refuse to evaluate weights in another network than they were trained in.

    Raises:
        UserError: config.json has changed.
    """
    saved = settings["model_options"].get("configuration")
    if saved is not None and configuration(config.model) != saved:
        raise UserError(
            f"--model {config.model}: its config.json has changed since the checkpoint; args.txt "
            "of the run holds it as it was: bring it back"
        )


# --- samples ---


def print_samples(run: LanguageRunConfig, model: Any, vocabulary: Tokenizer) -> None:
    """Print --sample continuations of --prompt, each drawn from a seed of its own."""
    prompt = run.prompt or ""
    given = vocabulary.encode(prompt)
    start = [vocabulary.end_of_text, *given]
    device = next(model.parameters()).device
    for number in range(1, run.sample + 1):
        generator = torch.Generator().manual_seed(mixed_seed("sample", run.seed, number))
        ids = torch.tensor([start], device=device)
        how = {"temperature": run.temperature, "top_k": run.top_k, "top_p": run.top_p}
        drawn = model.generate(ids, SAMPLED_TOKENS, generator, **how)[0, len(start) :].tolist()
        if vocabulary.end_of_text in drawn:
            drawn = drawn[: drawn.index(vocabulary.end_of_text)]
        known = [token for token in drawn if token < vocabulary.vocab_size]
        print(f"[Sample {number}] {prompt}{continuation(vocabulary, given, known)}")


def continuation(vocabulary: Tokenizer, given: list[int], drawn: list[int]) -> str:
    """Return the text of drawn tokens behind given ones.

    Some tokenizers decode the first token otherwise than one in the middle: without its space.
    """
    before, whole = vocabulary.decode(given), vocabulary.decode([*given, *drawn])
    return whole[len(before) :] if whole.startswith(before) else vocabulary.decode(drawn)
