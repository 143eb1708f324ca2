"""The front door to the data: a name in, loaders of ready batches out.

Nothing heavy is imported before it is needed: the command line asks here for names only.
"""

from dataclasses import dataclass

from utils import UserError, nearest

VISION_DATASETS = (
    "cifar10", "cifar100", "cifar10-lt", "cifar100-lt", "digits", "imagefolder", "imagenet",
)  # fmt: skip
LANGUAGE_DATASETS = ("wikitext103", "wikitext103-raw", "text", "pydoc")

FOLDERS = ("imagefolder", "imagenet")  # whatever images lie in the folder

# The same images, a long tail of which is kept for training; and the smallest class's share of the
# largest one, by default.
LONG_TAILED = {"cifar10-lt": "cifar10", "cifar100-lt": "cifar100"}
LONG_TAIL_FACTOR = 0.01

# The images' own size in pixels; imagefolder's is known when its files are read.
IMAGE_SIZES = {"cifar10": 32, "cifar100": 32, "digits": 32, "imagenet": 224}
IMAGE_SIZES |= {name: IMAGE_SIZES[whole] for name, whole in LONG_TAILED.items()}

# Mean and standard deviation as published; for the others they are measured.
PUBLISHED = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@dataclass
class ImageData:
    """A data set ready for training; images/loaders.py says what a loader is.

    val is None where nothing is held out. mean and std are those of the normalisation, per
    channel of pixels scaled to 0..1. digest: hex, the same for the same training images in the
    same order. description is one line for the log.
    """

    name: str
    train: object
    val: object
    test: object
    num_classes: int
    image_size: int
    class_names: list
    mean: tuple
    std: tuple
    digest: str
    class_sizes: list
    description: str


@dataclass
class TextData:
    """A corpus ready for training; text/loaders.py says what a loader is.

    form: what text it is, for results (wikitext-103-v1). tokenizer: its name or folder; vocab_size:
    how many ids it can give, end of text included; end_of_text: that id; fingerprint: hex, the
    same for the same tokenizer. counts: by split, its .tokens, .words and .bytes. digests: by
    split, of its text. description is one line for the log.
    """

    name: str
    form: str
    train: object
    val: object
    test: object
    tokenizer: str
    vocab_size: int
    end_of_text: int
    fingerprint: str
    counts: dict
    digests: dict
    description: str


def load_text(
    name,
    data_path="./Data",
    *,
    tokenizer="gpt2",
    block_size,
    batch_size,
    eval_stride=None,
    data_seed=0,
    device="cpu",
    progress=True,
    tokens=None,
    rank=0,
    world_size=1,
):
    """Load the corpus called `name` (see LANGUAGE_DATASETS) as TextData.

    tokenizer: gpt2, bytes, or a folder with one. block_size: tokens in a window (T). eval_stride:
    tokens from one window of evaluation to the next, None for block_size. data_seed decides the
    order of training. The tokens are made once and kept in data_path; `tokens` are those that
    `prepare_text` returned, if it was called already. rank of world_size processes: whose share
    of each batch the loaders give. UserError for whatever the user can mend.
    """
    _check_text(name, block_size, batch_size, eval_stride)
    # The loaders bring torch; who has to be told that a file is missing need not wait for it.
    tokens = tokens or prepare_text(name, data_path, tokenizer, progress)
    from pipelines.text.loaders import EvalLoader, TrainLoader

    counts = {split: tokens.counts(split) for split in ("train", "val", "test")}
    stride = eval_stride or block_size

    def loader(cls, split, **order):
        ids = tokens.ids(split)
        ranks = {"rank": rank, "world_size": world_size}
        return cls(ids, counts[split], block_size, batch_size, device, **order, **ranks)

    meta = tokens.meta
    return TextData(
        name=name,
        form=meta["form"],
        train=loader(TrainLoader, "train", data_seed=data_seed),
        val=loader(EvalLoader, "val", stride=stride),
        test=loader(EvalLoader, "test", stride=stride),
        tokenizer=str(tokenizer),
        vocab_size=meta["vocab_size"],
        end_of_text=meta["end_of_text"],
        fingerprint=meta["fingerprint"],
        counts=counts,
        digests=tokens.digests(),
        description=_describe_text(name, tokenizer, tokens, counts),
    )


def prepare_text(name, data_path, tokenizer, progress=True):
    """The tokens of a corpus, made where they are not there yet; without torch."""
    from pipelines.text import cache

    return cache.load(name, tokenizer, data_path, progress)


def tokenizer_fingerprint(name):
    """The same for tokenizers that give the same ids; known without loading them."""
    from pipelines.text import tokenizer

    return tokenizer.fingerprint(name)


def load_tokenizer(name, data_path="./Data"):
    """The tokenizer called `name`; text/tokenizer.py says what it can do.

    UserError where it is neither gpt2, bytes nor a folder with one, or cannot be had.
    """
    from pipelines.text import tokenizer

    return tokenizer.load(name, data_path)


def _check_text(name, block_size, batch_size, eval_stride):
    if name not in LANGUAGE_DATASETS:
        raise UserError(f"--dataset {name}: {nearest(str(name), LANGUAGE_DATASETS)}")
    if batch_size < 1:
        raise UserError(f"--batch_size {batch_size}: must be at least 1")
    if block_size < 1:
        raise UserError(f"--max_seq_length {block_size}: must be at least 1 token")
    if eval_stride is not None and not 1 <= eval_stride <= block_size:
        raise UserError(
            f"--eval_stride {eval_stride}: must be from 1 to --max_seq_length ({block_size}), or"
            " tokens would be left out"
        )


def _describe_text(name, tokenizer, tokens, counts):
    parts = [
        f"{split} {x.tokens:,} tokens ({x.words:,} words, {x.bytes:,} bytes)"
        for split, x in counts.items()
    ]
    form = tokens.meta["form"]
    label = name if form == name else f"{name} ({form})"
    return f"{label}, tokenizer {tokenizer}: {', '.join(parts)}, from {tokens.origin}"


def load_images(
    name,
    data_path="./Data",
    *,
    batch_size,
    resize=None,
    augment=False,
    color_jitter=False,
    noise=0.0,
    val_fraction=0.0,
    imb_factor=None,
    imb_type="exp",
    data_seed=0,
    split_seed=0,
    device="cpu",
    num_workers=None,
    progress=True,
    normalisation=None,
    rank=0,
    world_size=1,
):
    """Load the data set called `name` (see VISION_DATASETS) as ImageData.

    resize: side of the square images; None for the data set's own (digits 32, imagenet 224).
    augment: crop and flip (digits: crop); color_jitter: brightness, contrast, saturation, hue;
    noise: standard deviation, on normalised training images. data_seed decides order and
    augmentation of training, split_seed alone which `val_fraction` of every class is held out, and
    which images stay of a training set that images/imbalance.py makes long-tailed: imb_factor is
    the smallest class's share of the largest, None for all images (0.01 in the sets called -lt).
    Validation and test sets stay whole.
    num_workers: processes that read files, where images are streamed; 0 for none but this one,
    None for one per processor. normalisation: (mean, std) to use instead of the data set's own,
    those that a network was trained with. rank of world_size processes: whose share of each batch
    the loaders give. UserError for whatever the user can mend.
    """
    _check(name, batch_size, resize, noise, val_fraction)
    import numpy as np

    from pipelines.images.augment import Transform
    from pipelines.images.splits import statistics

    train, val, test, class_names, size, origin = _read(name, data_path, resize, device, progress)
    train, val = _held_out(train, val, val_fraction, split_seed, data_path)
    train, tail = _long_tailed(name, train, imb_factor, imb_type, split_seed)
    published = PUBLISHED.get(LONG_TAILED.get(name, name))
    mean, std = normalisation or published or statistics(train, num_workers, progress)

    plain = Transform(mean, std, size, device)
    varied = Transform(
        mean,
        std,
        size,
        device,
        crop=augment and name != "imagenet",  # which is cropped and flipped while it is read
        flip=augment and name not in ("imagenet", "digits"),  # a mirrored digit is none
        jitter=color_jitter,
        noise=noise,
    )
    where = (batch_size, device, num_workers)
    ranks = {"rank": rank, "world_size": world_size}
    loaders = {
        "train": train.loader(varied, *where, data_seed, **ranks),
        "val": val and val.loader(plain, *where, **ranks),
        "test": test.loader(plain, *where, **ranks),
    }
    counts = ", ".join(f"{x.num_samples:,} {split}" for split, x in loaders.items() if x)
    return ImageData(
        name=name,
        **loaders,
        num_classes=len(class_names),
        image_size=size,
        class_names=class_names,
        mean=mean,
        std=std,
        digest=train.digest(),
        class_sizes=np.bincount(train.targets, minlength=len(class_names)).tolist(),
        description=f"{name}: {counts} images of {len(class_names)} classes{tail}, {size}x{size},"
        f" from {origin}",
    )


def _held_out(train, val, fraction, seed, data_path):
    """(train, val) after a share of train went to val."""
    from pipelines.images.splits import hold_out

    if not fraction:
        return train, val
    if val is not None:
        raise UserError(
            f"--val_fraction {fraction}: {data_path} has a val/ of its own; leave the flag out,"
            " or rename the folder"
        )
    kept, held = hold_out(train.targets, fraction, seed)
    return train.subset(kept), train.subset(held)


def _long_tailed(name, train, factor, kind, seed):
    """The training split after images were taken from it, and what the log says of that."""
    if factor is None:
        factor = LONG_TAIL_FACTOR if name in LONG_TAILED else 1
    if factor == 1:
        return train, ""
    from pipelines.images.imbalance import long_tail

    train = train.subset(long_tail(train.targets, factor, kind, seed))
    return train, f" (training set long-tailed: {kind}, {factor:g})"


def _check(name, batch_size, resize, noise, val_fraction):
    if name not in VISION_DATASETS:
        raise UserError(f"--dataset {name}: {nearest(str(name), VISION_DATASETS)}")
    if batch_size < 1:
        raise UserError(f"--batch_size {batch_size}: must be at least 1")
    if resize is not None and resize < 1:
        raise UserError(f"--resize {resize}: must be at least 1 pixel")
    if not 0 <= noise < float("inf"):
        raise UserError(f"--noise {noise}: must be a standard deviation, 0 or more")
    if not 0 <= val_fraction < 1:
        raise UserError(f"--val_fraction {val_fraction}: must be at least 0 and below 1")


def _read(name, data_path, resize, device, progress):
    """(train, val or None, test, class names, image size, where from) of a data set."""
    if name in FOLDERS:
        return _read_folder(name, data_path, resize, device, progress)
    if name == "digits":
        return _read_digits(resize or 32, device)
    return _read_cifar(name, data_path, resize or 32, device, progress)


def _read_cifar(name, data_path, size, device, progress):
    from torchvision.datasets import CIFAR10, CIFAR100

    from pipelines.images.sources import read_cifar

    cls = {"cifar10": CIFAR10, "cifar100": CIFAR100}[LONG_TAILED.get(name, name)]
    train, test, class_names = read_cifar(cls, data_path, progress)
    train, test = (_resized(images, targets, size, device) for images, targets in (train, test))
    return train, None, test, class_names, size, data_path


def _read_digits(size, device):
    from pipelines.images.sources import read_digits
    from pipelines.images.splits import hold_out

    images, targets, class_names = read_digits()
    digits = _resized(images, targets, size, device)
    kept, held = hold_out(targets, 0.2, seed=0)  # the test split, whatever the seeds
    return digits.subset(kept), None, digits.subset(held), class_names, size, "scikit-learn"


def _resized(images, targets, size, device):
    import torch
    from torchvision.transforms.v2 import functional

    from pipelines.images.splits import ArraySplit, fits_in_memory

    if images.shape[1] != size:
        if not fits_in_memory(len(images), size, device):
            raise UserError(
                f"--resize {size}: {len(images):,} images of that size need too much memory"
            )
        planes = torch.from_numpy(images).permute(0, 3, 1, 2)
        planes = functional.resize(planes, [size, size], antialias=True)
        images = planes.permute(0, 2, 3, 1).contiguous().numpy()
    return ArraySplit(images, targets)


def _read_folder(name, data_path, resize, device, progress):
    from pipelines.images import decode, folders
    from pipelines.images.splits import ArraySplit, FileSplit, fits_in_memory

    try:
        root = folders.find_root(data_path)
        class_names, *splits = folders.scan(root)
    except OSError as error:
        raise UserError(f"--data_path {data_path}: cannot be read ({error})") from None
    if name == "imagenet":
        size = resize or 224
        read = decode.ImageNetReader(size)
    else:
        size = resize or decode.common_size(splits[0].paths[0])
        read = decode.FolderReader(size, fit=resize is not None)
    total = sum(len(files.paths) for files in splits if files)
    if name == "imagenet" or not fits_in_memory(total, size, device):
        splits = [files and FileSplit(files.paths, files.targets, read) for files in splits]
        return *splits, class_names, size, f"{root} (streamed)"
    loaded = [files and decode.cached_images(files, read, progress) for files in splits]
    splits = [
        x and ArraySplit(x[0], files.targets) for x, files in zip(loaded, splits, strict=True)
    ]
    cached = all(from_cache for _, from_cache in filter(None, loaded))
    return *splits, class_names, size, f"{root} ({'from its cache' if cached else 'decoded'})"
