"""Load a corpus: tokens from the cache or made, and loaders of their windows."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from cli.language import LanguageDataConfig
from pipelines.data import TextData
from pipelines.text import cache
from pipelines.text.token_folders import Counts, Tokens

if TYPE_CHECKING:
    import torch


def prepare_text(config: LanguageDataConfig, progress: bool = True) -> Tokens:
    """Return the tokens of a corpus, made where they do not exist yet; needs no torch."""
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
    from pipelines.text.loaders import EvalLoader, TrainLoader  # load torch

    counts = {split: tokens.counts(split) for split in ("train", "val", "test")}
    if rank == 0:
        _warn_of_loss(config.tokenizer, counts)

    def loader(cls: Any, split: str, **order: int) -> Any:
        return cls(
            tokens.ids(split), counts[split], block_size, config.batch_size, device,
            **order, rank=rank, world_size=world_size,
        )  # fmt: skip

    stride = config.eval_stride or block_size
    meta = tokens.meta
    return TextData(
        name=config.dataset,
        form=meta["form"],
        train=loader(TrainLoader, "train", data_seed=data_seed),
        val=loader(EvalLoader, "val", stride=stride),
        test=loader(EvalLoader, "test", stride=stride),
        tokenizer=config.tokenizer,
        vocab_size=meta["vocab_size"],
        end_of_text=meta["end_of_text"],
        fingerprint=meta["fingerprint"],
        counts=counts,
        digests=tokens.digests(),
        description=_description(config, tokens, counts),
    )


def _warn_of_loss(tokenizer: str, counts: dict[str, Counts]) -> None:
    lossy = [split for split, numbers in counts.items() if not numbers.lossless]
    if lossy:
        print(
            f"warning: --tokenizer {tokenizer}: decoding its tokens does not give the text back"
            f" ({', '.join(lossy)}); perplexity per word and bits per byte would not be the text's"
            " and are left out",
            file=sys.stderr,
        )


def _description(config: LanguageDataConfig, tokens: Tokens, counts: dict[str, Any]) -> str:
    parts = [
        f"{split} {x.tokens:,} tokens ({x.words:,} words, {x.bytes:,} bytes)"
        for split, x in counts.items()
    ]
    name, form = config.dataset, tokens.meta["form"]
    label = name if form == name else f"{name} ({form})"
    return f"{label}, tokenizer {config.tokenizer}: {', '.join(parts)}, from {tokens.origin}"
