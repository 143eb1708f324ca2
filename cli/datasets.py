"""Name the data sets, with what is known of each before it is read.

dataset.py loads them; it passes these names on.
"""

VISION_DATASETS = (
    "cifar10", "cifar100", "cifar10-lt", "cifar100-lt", "digits", "imagefolder", "imagenet",
)  # fmt: skip
LANGUAGE_DATASETS = ("wikitext103", "wikitext103-raw", "text", "pydoc")

DEFAULT_DATA_PATH = "./Data"
IMAGE_FOLDERS = ("imagefolder", "imagenet")  # any images that lie in --data_path
OWN_FILES = (*IMAGE_FOLDERS, "text")  # --data_path says which data they are

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
