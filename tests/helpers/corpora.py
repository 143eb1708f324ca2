"""Write texts in the forms that corpora come in, and read what a loader scores of them."""

import os
import random
from pathlib import Path

import pytest
import torch

from dataset import load_text
from utils import UserError


def write_text(folder, words=(1200, 200, 150)):
    """Write train.txt, valid.txt and test.txt of random words, blank lines between some."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    for split, count in zip(("train", "valid", "test"), words, strict=True):
        chosen = draw.choices(["tree", "leaf", "a", "grün", "of", ",", ".\n", "\n\n"], k=count)
        (folder / f"{split}.txt").write_text(" ".join(chosen) + " end\n", encoding="utf-8")
    return folder


def load(name, path, **options):
    defaults = {"tokenizer": "bytes", "block_size": 8, "batch_size": 4, "progress": False}
    return load_text(name, path, **defaults | options)


def error_of(*args, **options):
    with pytest.raises(UserError) as caught:
        load(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def text_of(loader):
    """Return the text that an evaluation loader scores, from its bytes."""
    targets = torch.cat([targets.flatten() for _, targets in loader.batches(0)])
    return bytes(targets[targets >= 0].tolist()).decode()


DATA = Path(os.environ.get("ZILU_TEST_DATA", "nowhere"))
needs_data = pytest.mark.skipif(not (DATA / "wikitext").is_dir(), reason="needs ZILU_TEST_DATA")

ARTICLE = " \n = Title = \n \n A text with <unk> words . \n And é , 世 . \n \n = = Part = = \n \n"
V1 = {split: ARTICLE + f" The {split} split . \n" for split in ("train", "validation", "test")}
RAW = {split: text.replace("<unk>", "rare") for split, text in V1.items()}
ALIAS = {"train": "train", "validation": "valid", "test": "test"}
BOTH = pytest.mark.parametrize(("name", "texts"), [("wikitext103", V1), ("wikitext103-raw", RAW)])


def as_files(folder, texts, pattern="wiki.{}.tokens"):
    folder.mkdir(parents=True, exist_ok=True)
    for split, text in texts.items():
        (folder / pattern.format(ALIAS[split])).write_text(text, newline="")


def rows_of(text):
    """Return the rows of a text, as Hugging Face's own script reads WikiText."""
    lines = text.splitlines(keepends=True)
    return {"text": [line if line.strip() else "" for line in lines]}


def as_parquet(folder, texts, shards=2):
    import pyarrow as pa
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    for split, text in texts.items():
        rows = rows_of(text)["text"]
        for i in range(shards):
            part = rows[i * len(rows) // shards : (i + 1) * len(rows) // shards]
            path = folder / f"{split}-{i:05}-of-{shards:05}.parquet"
            parquet.write_table(pa.table({"text": part}), path, row_group_size=3)
