"""Write the images of a folder by classes as Hugging Face's `datasets` and webdataset keep them."""

import io
import json
import tarfile

import datasets
import pytest

from dataset import load_images
from utils import UserError

CLASSES = ["ant", "bee", "cow"]  # of helpers.image_folders.write_folder


def labelled(folder, split):
    """Return [(path, class)] in the order in which a folder is read."""
    paths = sorted((folder / split).glob("*/*"))
    return [(path, CLASSES.index(path.parent.name)) for path in paths]


def table(folder, split, names=CLASSES, encode=None, **more):
    """Return a `datasets.Dataset` of a split; `more` are further columns."""
    pairs = labelled(folder, split)
    encode = encode or (lambda path: {"bytes": path.read_bytes(), "path": path.name})
    label = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    columns = {"image": [encode(path) for path, _ in pairs], "label": [n for _, n in pairs], **more}
    made = datasets.Dataset.from_dict(columns)
    return made.cast_column("image", datasets.Image()).cast_column("label", label)


def save(folder, out, splits=None, **options):
    """Save a DatasetDict to disk: by default the folder's splits under their names."""
    splits = splits or {name: name for name in ("train", "test")}
    made = {name: table(folder, split, **options) for name, split in splits.items()}
    datasets.DatasetDict(made).save_to_disk(out)
    return out


def write_parquet(folder, out, splits=None, shards=2, **options):
    """Write Parquet files as repositories of the hub hold them, below data/."""
    splits = splits or {name: name for name in ("train", "test")}
    (out / "data").mkdir(parents=True)
    for name, split in splits.items():
        whole = table(folder, split, **options)
        for number in range(shards):
            part = whole.shard(shards, number, contiguous=True)
            part.to_parquet(out / f"data/{name}-{number:05}-of-{shards:05}.parquet")
    return out


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def write_shards(folder, out, splits=None, shards=3, members=None, prefix=""):
    """Write tar files; `members(path, number)` gives {ending: content} of a sample."""
    members = members or (lambda path, number: {"png": path.read_bytes(), "cls": b"%d" % number})
    splits = splits or {name: name for name in ("train", "test")}
    out.mkdir(parents=True, exist_ok=True)
    for name, split in splits.items():
        pairs = labelled(folder, split)
        for shard in range(shards):
            part = range(shard * len(pairs) // shards, (shard + 1) * len(pairs) // shards)
            with tarfile.open(out / f"{prefix}{name}-{shard:03}.tar", "w") as tar:
                for i in part:
                    for ending, content in members(*pairs[i]).items():
                        add(tar, f"{i:05}.{ending}", content)
    return out


def as_json(path, number):
    return {"png": path.read_bytes(), "json": json.dumps({"label": number, "w": 12}).encode()}


def load(name, root, **options):
    return load_images(name, root, **{"batch_size": 4, "progress": False} | options)


def error_of(name, root, **options):
    """Return the one line with which a source is refused."""
    with pytest.raises(UserError) as caught:
        load(name, root, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message
