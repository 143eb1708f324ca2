"""Name the data sets, with what is known of each before it is read.

dataset.py loads them; it passes these names on.
"""

import re
from typing import NamedTuple

from cli.converters import one_of, path

VISION_DATASETS = (
    "cifar10", "cifar100", "cifar10-lt", "cifar100-lt", "digits", "imagefolder", "imagenet",
)  # fmt: skip
LANGUAGE_DATASETS = (
    "wikitext103", "wikitext103-raw", "wikitext2", "wikitext2-raw", "openwebtext", "fineweb-10b",
    "fineweb-edu-10b", "tinystories", "ptb", "enwik8", "text8", "text", "pydoc",
)  # fmt: skip
SAMPLE_PHOTOGRAPHS = ("china", "flower")  # which scikit-learn brings along
FITTED_IMAGES = (*SAMPLE_PHOTOGRAPHS, "image")

PACKAGED_TABLES = ("breast_cancer", "wine", "iris", "digits")  # scikit-learn brings them along
CSV = "csv"
TABLE_DATASETS = (*PACKAGED_TABLES, CSV)

DEFAULT_DATA_PATH = "./Data"
IMAGE_FOLDERS = ("imagefolder", "imagenet")  # any images that lie in --data_path
OWN_FILES = (*IMAGE_FOLDERS, "text", CSV, "image")  # --data_path says which data they are

# Long-tailed copies of balanced sets; LONG_TAIL_FACTOR is the default share of the smallest class
# in the largest one.
LONG_TAILED = {"cifar10-lt": "cifar10", "cifar100-lt": "cifar100"}
LONG_TAIL_FACTOR = 0.01

# Sides of the images in pixels; imagefolder's is known when its files are read.
IMAGE_SIZES = {"cifar10": 32, "cifar100": 32, "digits": 32, "imagenet": 224}
IMAGE_SIZES |= {name: IMAGE_SIZES[whole] for name, whole in LONG_TAILED.items()}

# Published means and standard deviations per channel, of pixels scaled to 0..1; those of other
# sets are measured on the training images.
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
PUBLISHED: dict[str, Normalisation] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


# --- data sets of other libraries ---

SOURCE_FORMS = "torchvision/NAME[:VARIANT], hf/NAME[:CONFIG], wds/PATTERN"
TEXT_FORMS = "hf/NAME[:CONFIG], jsonl/PATTERN, parquet/PATTERN, folder/PATH, bin/PATTERN"
TEXT_LIBRARIES = ("hf", "jsonl", "parquet", "folder", "bin")
HELD_OUT = 0.0005  # of the documents; nanoGPT's share of OpenWebText
WITH_VARIANTS = ("torchvision", "hf")  # behind a colon; elsewhere that is part of a file's name
ROLES = ("train", "val", "test")  # of splits; the keys of --splits
STREAM = re.compile(r"pipe:|\w+://|.*::|-$")  # WebDataset's other ways to name shards


class TorchvisionSet(NamedTuple):
    """Hold what is known of one of torchvision's data sets.

    Attributes:
        size: the side of its images in pixels, all of which are read into memory; None where they
            are files of several sizes.
        variants: what may stand behind the name, the default first.
        mirrors: an image and its mirror image show the same.
    """

    size: int | None = None
    variants: tuple[str, ...] = ()
    mirrors: bool = True


# Those that have a training and a test split.
TORCHVISION = {
    "MNIST": TorchvisionSet(28, mirrors=False),
    "FashionMNIST": TorchvisionSet(28),
    "KMNIST": TorchvisionSet(28, mirrors=False),
    "QMNIST": TorchvisionSet(28, mirrors=False),
    "EMNIST": TorchvisionSet(
        28, ("balanced", "byclass", "bymerge", "letters", "digits", "mnist"), mirrors=False
    ),
    "USPS": TorchvisionSet(16, mirrors=False),
    "SVHN": TorchvisionSet(32, mirrors=False),
    "STL10": TorchvisionSet(96),
    "Flowers102": TorchvisionSet(),
    "Food101": TorchvisionSet(),
    "OxfordIIITPet": TorchvisionSet(),
    "StanfordCars": TorchvisionSet(),
    "FGVCAircraft": TorchvisionSet(variants=("variant", "family", "manufacturer")),
    "DTD": TorchvisionSet(variants=tuple(map(str, range(1, 11)))),
    "GTSRB": TorchvisionSet(mirrors=False),
    "Country211": TorchvisionSet(),
    "RenderedSST2": TorchvisionSet(mirrors=False),
    "Imagenette": TorchvisionSet(variants=("full", "320px", "160px")),
}


class SourceName(NamedTuple):
    """Hold the parts of a data set's name.

    Attributes:
        library: what stands before the slash of SOURCE_FORMS and TEXT_FORMS; "" for our own sets.
        name: the name in the library, a folder or a pattern.
        variant: what stands behind the colon; "" where nothing does.
    """

    library: str
    name: str
    variant: str = ""


# Corpora of documents that have a name here, by their place on Hugging Face's hub.
HUB_CORPORA = {
    "openwebtext": SourceName("hf", "Skylion007/openwebtext"),
    "fineweb-10b": SourceName("hf", "HuggingFaceFW/fineweb", "sample-10BT"),
    "fineweb-edu-10b": SourceName("hf", "HuggingFaceFW/fineweb-edu", "sample-10BT"),
    "tinystories": SourceName("hf", "roneneldan/TinyStories"),
}


def source_name(dataset: str) -> SourceName:
    """Take the name of a data set apart, as `image_dataset` or `text_dataset` returns it."""
    library, slash, name = dataset.partition("/")
    if not slash:
        return SourceName("", dataset)
    folder, colon, variant = name.rpartition(":")
    if library not in WITH_VARIANTS or not colon or "/" in variant:
        return SourceName(library, name)
    return SourceName(library, folder, variant)


def image_dataset(text: str) -> str:
    """Return the name of a set of images: ours, or that of another library with its prefix.

    Raises:
        ValueError: there is none of that name.
    """
    library, slash, name = text.partition("/")
    library = library.lower()
    if not (slash and name) or library not in ("torchvision", "hf", "wds"):
        return one_of(*VISION_DATASETS, *SOURCE_FORMS.split(", "))(text)
    if library == "torchvision":
        return f"{library}/{_torchvision_name(name)}"
    if library == "wds" and STREAM.match(name):
        raise ValueError(
            f"{text!r}: shards are read in place, so that a run goes on in the middle of an epoch;"
            " download them first, and give the pattern of the files"
        )
    return f"{library}/{path(name)}"


def text_dataset(text: str) -> str:
    """Return the name of a corpus: ours, or a form of TEXT_FORMS.

    Raises:
        ValueError: there is none of that name.
    """
    form, slash, name = text.partition("/")
    if not (slash and name) or form.lower() not in TEXT_LIBRARIES:
        return one_of(*LANGUAGE_DATASETS, *TEXT_FORMS.split(", "))(text)
    return f"{form.lower()}/{path(name)}"


def holds_documents(dataset: str) -> bool:
    """Return whether a corpus is read document by document, each of which is a text by itself."""
    library = source_name(dataset).library
    return dataset in HUB_CORPORA or (library in TEXT_LIBRARIES and library != "bin")


def may_hold_documents(dataset: str) -> bool:
    """Return whether a corpus may have end of text between documents, if not in form of these."""
    return holds_documents(dataset) or dataset == "text" or source_name(dataset).library == "bin"


def _torchvision_name(text: str) -> str:
    name, colon, variant = text.partition(":")
    name = one_of(*TORCHVISION)(name)
    variants = TORCHVISION[name].variants
    if not colon:
        return name
    if not variants:
        raise ValueError(f"{text!r}: {name} has no variants; leave out :{variant}")
    variant = one_of(*variants)(variant)
    return name if variant == variants[0] else f"{name}:{variant}"


def image_size(dataset: str) -> int | None:
    """Return the side of a set's images in pixels; None where their files tell."""
    library, name, _ = source_name(dataset)
    return TORCHVISION[name].size if library == "torchvision" else IMAGE_SIZES.get(dataset)


def mirrors(dataset: str) -> bool:
    """Return whether images of a set may be flipped: an image of a digit then shows none."""
    library, name, _ = source_name(dataset)
    return TORCHVISION[name].mirrors if library == "torchvision" else dataset != "digits"


def holds_encoded_images(dataset: str) -> bool:
    """Return whether a set is read from encoded images, any of which may be broken."""
    return dataset in IMAGE_FOLDERS or ("/" in dataset and image_size(dataset) is None)


def is_in_data_path(dataset: str) -> bool:
    """Return whether --data_path says which data they are, and not the name alone."""
    return dataset in OWN_FILES or source_name(dataset).library not in ("", "torchvision")
