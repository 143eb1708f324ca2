"""Write CIFAR's files, as small as they can be."""

import hashlib
import pickle

import numpy as np
from torchvision import datasets


def write_cifar(cls, folder, monkeypatch, per_file=10, every_class=False):
    """Write tiny files in CIFAR's own format, and put their MD5 into torchvision's tables.

    Labels are random below 10, or those of every class in turn. Returns {table: (images, labels)}.
    """
    random = np.random.RandomState(3)
    (folder / cls.base_folder).mkdir(parents=True)
    fine = cls is datasets.CIFAR100
    written = {}

    def write(name, content):
        data = pickle.dumps(content, protocol=2)
        (folder / cls.base_folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    for table in ("train_list", "test_list"):
        entries, images, labels = [], [], []
        for name, _ in getattr(cls, table):
            pixels = random.randint(0, 256, (per_file, 3072)).astype(np.uint8)
            numbers = random.randint(0, 10, per_file).tolist()
            if every_class:
                numbers = [number % (100 if fine else 10) for number in range(per_file)]
            key = "fine_labels" if fine else "labels"
            entries.append([name, write(name, {"data": pixels, key: numbers})])
            images.append(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            labels += numbers
        monkeypatch.setattr(cls, table, entries)
        written[table] = np.concatenate(images), labels
    names = [f"class {i}" for i in range(100 if fine else 10)]
    meta = dict(cls.meta, md5=write(cls.meta["filename"], {cls.meta["key"]: names}))
    monkeypatch.setattr(cls, "meta", meta)
    return written
