"""Declare the flags of language_main.py, and its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import models
from cli.config import Config, DataConfig
from cli.converters import (
    LANGUAGE_FORMS,
    count,
    model_name,
    not_negative,
    number,
    one_of,
    path,
    positive_int,
    share,
    weights_path,
)
from cli.datasets import (
    DEFAULT_DATA_PATH,
    HELD_OUT,
    LANGUAGE_DATASETS,
    TEXT_FORMS,
    holds_documents,
    may_hold_documents,
    text_dataset,
)
from cli.fields import Effect, Evaluated, flag
from cli.further_tests import further_texts
from cli.network import ModelConfig
from cli.run import RunConfig
from cli.training import TrainingConfig
from utils import UserError, user_errors

SIZES = ("embedding_dim", "num_attention_heads", "num_layers")


@dataclass(frozen=True)
class LanguageModelConfig(ModelConfig):
    """Hold the flags that decide the language model."""

    model: str = flag(
        "gpt2", model_name(models.LANGUAGE_MODELS, models.LANGUAGE_PACKAGES, LANGUAGE_FORMS),
        "Model",
        f"network: {', '.join(models.LANGUAGE_MODELS)}; or {LANGUAGE_FORMS}: any causal language "
        "model of transformers by its config.json, untrained, its activations replaced",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    embedding_dim: int | None = flag(
        None, positive_int, "Model", "width (the model's)", evaluated=Evaluated.NETWORK
    )
    num_attention_heads: int | None = flag(
        None, positive_int, "Model", "per block (the model's)", evaluated=Evaluated.NETWORK
    )
    num_layers: int | None = flag(
        None, positive_int, "Model", "blocks (the model's)", evaluated=Evaluated.NETWORK
    )
    max_seq_length: int = flag(
        1024, positive_int, "Model", "context in tokens", evaluated=Evaluated.NETWORK
    )
    vocab_size: int | None = flag(
        None, positive_int, "Model",
        "rows of the token embedding (the tokenizer's number of ids)",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    dropout: float | None = flag(
        0.1, share, "Model",
        "of embeddings, attention and residuals; hf/: of all that the configuration has rates "
        "for, which are its own where the flag is not given",
        own_default=lambda values: models.is_third_party(values["model"]),
    )  # fmt: skip
    mlp: str = flag(
        "plain", one_of(*models.MLPS), "Model",
        "MLP of GPT-2's blocks: plain, or glu, a gated linear unit activation(xW)·(xV) with as "
        "many parameters: SwiGLU with --activation SiLU, as Llama's",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    mlp_width: int | None = flag(
        None, positive_int, "Model",
        "hidden features of GPT-2's MLP (4 times its width; with glu, for as many parameters as "
        "that has, to 0.1 %)",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    positions: str = flag(
        "learned", one_of(*models.POSITIONS), "Model",
        "of GPT-2: learned, or rope, which rotates queries and keys as Llama does",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    qk_norm: bool = flag(
        False, bool, "Model",
        "GPT-2 with RMSNorm of each head's queries and keys, as Qwen3",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    no_bias: bool = flag(
        False, bool, "Model",
        "GPT-2 without biases in linear layers and norms, as nanoGPT's bias=False",
        evaluated=Evaluated.NETWORK,
    )  # fmt: skip
    init_from: str | None = flag(
        None, weights_path, "Model",
        "folder or checkpoint of another run to start from: a new run with the weights of that "
        "one; or folder of a Hugging Face GPT-2: config.json and model.safetensors; hf/: of any "
        "checkpoint of that network, or of what export.py wrote",
    )  # fmt: skip

    @property
    def start(self) -> str | None:
        path = self.init_from or ""
        return path if path.endswith(".pt") or Path(path).is_file() else None

    @property
    def published_start(self) -> str | None:
        """Return the Hugging Face folder that the weights start from; None for another start."""
        return self.init_from if self.start is None else None

    def shape(self) -> dict[str, int]:
        """Return width, heads and layers: the flags', else the model's.

        Those of a Hugging Face GPT-2 to start from come before the model's. The result is empty for
        hf/ models, whose configuration has them.

        Raises:
            UserError: sizes that do not fit together, or not the network to start from.
        """
        sizes = {name: getattr(self, name) for name in SIZES}
        folder = self.published_start
        if folder is None or self.is_third_party:
            with user_errors():
                return models.resolve_shape(self.model, **sizes)
        with user_errors():
            theirs = models.hugging_face_shape(folder)
            shape = {name: theirs[name] if size is None else size for name, size in sizes.items()}
            vocab_size = self.vocab_size or theirs["vocab_size"]
            wanted = {**shape, "vocab_size": vocab_size, "max_seq_length": self.max_seq_length}
            models.check_fits(folder, wanted)
        return shape

    def resolved_norm(self) -> str:
        """Return the kind of norms, auto resolved.

        Raises:
            UserError: the model cannot have them.
        """
        with user_errors():
            norm = models.resolve_norm(self.model, self.norm)
        return norm

    def resolved_blocks(self) -> dict[str, Any]:
        """Return the options of the blocks that differ from the published network's.

        Raises:
            UserError: the model cannot have them.
        """
        given = {name: getattr(self, name) for name in models.PUBLISHED_BLOCKS}
        with user_errors():
            models.check_own_blocks(self.model, **given)
            if self.is_third_party:
                return {}
            return models.resolve_blocks(self.shape(), **given, bias=not self.no_bias)

    def _check_start(self) -> None:
        """Refuse other blocks than those of the GPT-2 to start from have."""
        if self.published_start is None or self.is_third_party:
            return
        options = models.published_options(self.shape()["embedding_dim"]) | self.resolved_blocks()
        options |= {"norm": self.resolved_norm(), "bias": not self.no_bias}
        with user_errors():
            models.check_options(self.published_start, options)

    def check(self) -> None:
        super().check()
        if self.init_gain != "torch" and self.init_from is not None:
            raise UserError("--init_from replaces what --init_gain scales; leave out one of them")
        self.shape()
        self.resolved_norm()
        with user_errors():
            models.check_biases(self.model, not self.no_bias)
        self.resolved_blocks()
        self._check_start()


@dataclass(frozen=True)
class LanguageDataConfig(DataConfig):
    """Hold the flags that decide the text and its tokens."""

    dataset: str = flag(
        "wikitext103", text_dataset, "Dataset",
        f"data set: {', '.join(LANGUAGE_DATASETS)}; or {TEXT_FORMS} (documents of Hugging Face's "
        "datasets, of files, or tokens of nanoGPT and llm.c: docs/language.md)",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    data_path: str = flag(
        DEFAULT_DATA_PATH, path, "Dataset", "folder of the data and of its tokens", Effect.NOTHING,
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    batch_size: int = flag(32, positive_int, "Training", "sequences per batch")
    tokenizer: str = flag(
        "gpt2", path, "Dataset",
        "gpt2, bytes, or a tokenizer's folder (no bits per byte where it loses some of the text)",
    )  # fmt: skip
    eval_stride: int | None = flag(
        None, positive_int, "Dataset",
        "tokens that an evaluation window scores, with the rest of the context before them "
        "(--max_seq_length: all, without overlap)",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    also_test: str | None = flag(
        None, further_texts(text_dataset), "Dataset",
        "test at the end on the test splits of these corpora too, with commas between: names "
        "and forms as --dataset has them, or a folder of text; NAME:PATH where it is not in "
        "--data_path",
        Effect.NOTHING,
    )  # fmt: skip

    text_column: str | None = flag(
        None, str, "Dataset",
        "hf, jsonl, parquet: the column or key of the text (text, or the only one with texts)",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    held_out: float = flag(
        HELD_OUT, share, "Dataset",
        "share of the training documents that is held out for validation, and as much for the "
        "test, where there is no such split; the documents' content decides which",
        evaluated=Evaluated.DATA,
    )  # fmt: skip
    pack: str = flag(
        "across", one_of("across", "inside"), "Dataset",
        "blocks of tokens go across the ends of documents, or stay inside one, the last of each "
        "padded with what is not scored",
        evaluated=Evaluated.DATA,
    )  # fmt: skip

    def check_documents(self) -> None:
        """Refuse flags that the data set has no use for.

        Raises:
            UserError: with the remedy.
        """
        if self.text_column is not None and (
            not holds_documents(self.dataset) or self.dataset.startswith("folder/")
        ):
            raise UserError(
                f"--text_column is for columns of documents, and {self.dataset} has none; leave it "
                "out"
            )
        if self.held_out != HELD_OUT and not holds_documents(self.dataset):
            raise UserError(
                f"--held_out is for corpora of documents, which {self.dataset} is not; leave it out"
            )
        if self.pack == "inside" and not may_hold_documents(self.dataset):
            raise UserError(
                f"--pack inside is for corpora of documents, which {self.dataset} is not; leave it "
                "out"
            )
        if self.held_out >= 0.5:
            raise UserError(
                f"--held_out {self.held_out}: leaves no document for training, since validation "
                "and test may have as much each; give less than 0.5"
            )

    def check_stride(self, block_size: int) -> None:
        """Refuse a stride of evaluation that is longer than a window.

        Raises:
            UserError: with the remedy.
        """
        if self.eval_stride is not None and not 1 <= self.eval_stride <= block_size:
            raise UserError(
                f"--eval_stride {self.eval_stride}: must be from 1 to --max_seq_length "
                f"({block_size}), or tokens would be left out"
            )


@dataclass(frozen=True)
class LanguageTrainingConfig(TrainingConfig):
    """Hold the flags that decide the training of a language model."""

    num_epochs: int = flag(10, positive_int, "Training", "passes over the training text")


@dataclass(frozen=True)
class LanguageRunConfig(RunConfig):
    """Hold the flags of a run, and those of the samples that it prints at its end."""

    sample: int = flag(
        0, count, "Output", "continuations of --prompt to print at the end", Effect.NOTHING
    )
    prompt: str | None = flag(
        None, str, "Output",
        "text that --sample continues (a new document); <|endoftext|> in it means what it means in "
        "a text for training",
        Effect.NOTHING,
    )  # fmt: skip

    temperature: float = flag(
        1.0, not_negative, "Output",
        "divides the logits that --sample draws by; 0 takes the most likely token",
        Effect.NOTHING,
    )  # fmt: skip
    top_k: int | None = flag(
        None, positive_int, "Output",
        "--sample draws from so many of the most likely tokens (all)", Effect.NOTHING,
    )  # fmt: skip
    top_p: float = flag(
        1.0, number(float, above=0, at_most=1), "Output",
        "--sample draws from the most likely tokens that have this share of probability",
        Effect.NOTHING,
    )  # fmt: skip

    def check(self) -> None:
        super().check()
        for name in ("prompt", "temperature", "top_k", "top_p"):
            default = type(self).__dataclass_fields__[name].default
            if getattr(self, name) != default and not self.sample:
                raise UserError(f"--{name} has no effect without --sample; add --sample 1")


@dataclass(frozen=True)
class LanguageConfig(Config):
    """Hold the configuration of language_main.py; its defaults are GPT-2's usual optimization."""

    PROGRAM: ClassVar[str] = "language_main.py"
    KIND: ClassVar[str] = "language"

    model: LanguageModelConfig = LanguageModelConfig()
    data: LanguageDataConfig = LanguageDataConfig()
    training: LanguageTrainingConfig = LanguageTrainingConfig(
        lr=6e-4, weight_decay=0.1, beta2=0.95, scheduler="linear", warmup="5%"
    )
    run: LanguageRunConfig = LanguageRunConfig()

    def check(self) -> None:
        super().check()
        self.data.check_documents()
        self.data.check_stride(self.model.max_seq_length)
