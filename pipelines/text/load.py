"""Load a corpus: tokens from the cache or made, and loaders of their windows."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from cli.datasets import holds_documents, source_name
from cli.language import LanguageDataConfig
from pipelines.data import TextData
from pipelines.text import cache, document_cache, token_files
from pipelines.text.token_folders import Counts, Tokens
from utils import UserError

if TYPE_CHECKING:
    import torch


def prepare_text(config: LanguageDataConfig, progress: bool = True) -> Tokens:
    """Return the tokens of a corpus, made where they do not exist yet; needs no torch."""
    if source_name(config.dataset).library == "bin":
        return token_files.load(config.dataset, config.tokenizer, config.data_path)
    if holds_documents(config.dataset):
        return document_cache.load(
            config.dataset, config.tokenizer, config.data_path, config.text_column,
            config.held_out, progress,
        )  # fmt: skip
    return cache.load(config.dataset, config.tokenizer, config.data_path, progress)


def load_text(
    config: LanguageDataConfig,
    *,
    block_size: int,
    data_seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = True,
    rank: int = 0,
    world_size: int = 1,
) -> TextData:
    """Return the corpus that the configuration names, ready for training.

    Args:
        config: which corpus, tokenizer and batches.
        block_size: tokens in a window (T).
        data_seed: decides the order of training.
        device: where batches are put.
        progress: show a bar while tokens are made.
        rank, world_size: this process's share of each batch.

    Raises:
        UserError: for everything that the user can fix.
    """
    # Loaders bring torch; a user who is told that a file is missing need not wait for it.
    tokens = prepare_text(config, progress)
    from pipelines.text import loaders  # load torch

    counts = {split: tokens.counts(split) for split in ("train", "val", "test")}
    if rank == 0:
        _warn_of_loss(config.tokenizer, counts)

    meta = tokens.meta
    inside = config.pack == "inside"

    def loader(cls: Any, split: str, **order: Any) -> Any:
        ids = tokens.ids(split)
        if inside:
            order["starts"] = loaders.document_starts(ids, meta["end_of_text"])
            if split == "train" and len(order["starts"]) == 1:
                _check_documents(config.dataset, meta["end_of_text"])
        return cls(
            ids, counts[split], block_size, config.batch_size, device,
            **order, rank=rank, world_size=world_size,
        )  # fmt: skip

    in_training = loaders.InsideTrainLoader if inside else loaders.TrainLoader
    in_evaluation = loaders.InsideEvalLoader if inside else loaders.EvalLoader
    stride = config.eval_stride or block_size
    return TextData(
        name=config.dataset,
        form=meta["form"],
        train=loader(in_training, "train", data_seed=data_seed),
        val=loader(in_evaluation, "val", stride=stride),
        test=loader(in_evaluation, "test", stride=stride),
        tokenizer=config.tokenizer,
        vocab_size=meta["vocab_size"],
        end_of_text=meta["end_of_text"],
        fingerprint=meta["fingerprint"],
        counts=counts,
        digests=tokens.digests(),
        description=_description(config, tokens, counts),
    )


def _check_documents(dataset: str, end_of_text: int) -> None:
    """Refuse --pack inside for a training text without an end of text but the one in front."""
    if not holds_documents(dataset):
        raise UserError(
            f"--pack inside: the training text of {dataset} has no end of text ({end_of_text})"
            " between documents; leave it out"
        )


def _warn_of_loss(tokenizer: str, counts: dict[str, Counts]) -> None:
    lossy = [
        split for split, numbers in counts.items() if numbers.has_text and not numbers.lossless
    ]
    if lossy:
        print(
            f"warning: --tokenizer {tokenizer}: decoding its tokens does not give the text back"
            f" ({', '.join(lossy)}); perplexity per word and bits per byte would not be the text's"
            " and are left out",
            file=sys.stderr,
        )


def _description(config: LanguageDataConfig, tokens: Tokens, counts: dict[str, Any]) -> str:
    parts = [f"{split} {x.tokens:,} tokens{_of_what(x)}" for split, x in counts.items()]
    name, form = config.dataset, tokens.meta["form"]
    label = name if form == name else f"{name} ({form})"
    return f"{label}, tokenizer {config.tokenizer}: {', '.join(parts)}, from {tokens.origin}"


def _of_what(counts: Counts) -> str:
    documents = [] if counts.documents is None else [f"{counts.documents:,} documents"]
    text = [f"{counts.words:,} words", f"{counts.bytes:,} bytes"] if counts.has_text else []
    return f" ({', '.join([*documents, *text])})"
