"""Write the files of torchvision's data sets in their own formats, as small as they can be.

Each function writes a training, a test and perhaps a validation split below `root`, and puts the
MD5 of its files into torchvision's tables where it looks at them.
"""

import bz2
import hashlib
import io
import json
import struct

import numpy as np
import scipy.io
from PIL import Image
from torchvision import datasets

RANDOM = np.random.RandomState(5)


def pixels(*shape):
    return RANDOM.randint(0, 256, shape).astype(np.uint8)


def md5(data):
    return hashlib.md5(data).hexdigest()


def write_image(path, size, ending="JPEG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(4, 4, 3)).resize(size, Image.BICUBIC).save(path, ending)


def _write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(head + array.tobytes())


def mnist(root, monkeypatch, name="MNIST"):
    for split, count in (("train", 20), ("t10k", 10)):
        raw = root / name / "raw"
        _write_idx(raw / f"{split}-images-idx3-ubyte", pixels(count, 28, 28))
        _write_idx(raw / f"{split}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))


def fashion_mnist(root, monkeypatch):
    mnist(root, monkeypatch, "FashionMNIST")


def kmnist(root, monkeypatch):
    mnist(root, monkeypatch, "KMNIST")


def emnist(root, monkeypatch, variant="balanced", classes=47, first=0):
    for split in ("train", "test"):
        raw = root / "EMNIST/raw"
        labels = (first + np.arange(2 * classes) % classes).astype(np.uint8)
        _write_idx(raw / f"emnist-{variant}-{split}-images-idx3-ubyte", pixels(len(labels), 28, 28))
        _write_idx(raw / f"emnist-{variant}-{split}-labels-idx1-ubyte", labels)


def emnist_letters(root, monkeypatch):
    emnist(root, monkeypatch, "letters", 26, first=1)


def qmnist(root, monkeypatch):
    for split, count in (("train", 20), ("test", 10)):
        raw = root / "QMNIST/raw"
        _write_idx(raw / f"qmnist-{split}-images-idx3-ubyte", pixels(count, 28, 28))
        labels = np.zeros((count, 8), ">i4")
        labels[:, 0] = np.arange(count) % 10
        head = struct.pack(">4B2I", 0, 0, 12, 2, count, 8)
        (raw / f"qmnist-{split}-labels-idx2-int").write_bytes(head + labels.tobytes())


def usps(root, monkeypatch):
    for name, count in (("usps.bz2", 20), ("usps.t.bz2", 10)):
        lines = []
        for i in range(count):
            values = RANDOM.uniform(-1, 1, 256)
            pairs = " ".join(f"{j + 1}:{value:.4f}" for j, value in enumerate(values))
            lines.append(f"{i % 10 + 1} {pairs} \n")
        (root / name).write_bytes(bz2.compress("".join(lines).encode()))


def svhn(root, monkeypatch):
    tables = {}
    for split, (url, name, _) in datasets.SVHN.split_list.items():
        labels = (np.arange(20) % 10 + 1).astype(np.uint8)[:, None]  # 10 is zero
        file = io.BytesIO()
        scipy.io.savemat(file, {"X": pixels(32, 32, 3, 20), "y": labels})
        (root / name).write_bytes(file.getvalue())
        tables[split] = [url, name, md5(file.getvalue())]
    monkeypatch.setattr(datasets.SVHN, "split_list", tables)


def stl10(root, monkeypatch):
    folder = root / "stl10_binary"
    folder.mkdir()
    names = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
    (folder / "class_names.txt").write_text("\n".join(names) + "\n")
    for table in ("train_list", "test_list"):
        entries = []
        for name, _ in getattr(datasets.STL10, table):
            labels = (np.arange(10) + 1).astype(np.uint8)
            data = (labels if name.endswith("_y.bin") else pixels(10, 3, 96, 96)).tobytes()
            (folder / name).write_bytes(data)
            entries.append([name, md5(data)])
        monkeypatch.setattr(datasets.STL10, table, entries)


def flowers102(root, monkeypatch):
    folder = root / "flowers-102"
    for number in range(1, 307):
        write_image(folder / f"jpg/image_{number:05}.jpg", (14, 12))
    labels = {"labels": np.arange(306) % 102 + 1}
    ids = np.arange(1, 307)
    sets = {"trnid": ids[:102], "valid": ids[102:204], "tstid": ids[204:]}
    table = dict(datasets.Flowers102._file_dict)
    for key, content in (("label", labels), ("setid", sets)):
        name = table[key][0]
        scipy.io.savemat(folder / name, content)
        table[key] = (name, md5((folder / name).read_bytes()))
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", table)


def food101(root, monkeypatch):
    folder = root / "food-101"
    (folder / "meta").mkdir(parents=True)
    for split in ("train", "test"):
        names = {c: [f"{c}/{split}{i}" for i in range(3)] for c in ("apple_pie", "waffles")}
        (folder / f"meta/{split}.json").write_text(json.dumps(names))
        for name in names["apple_pie"] + names["waffles"]:
            write_image(folder / f"images/{name}.jpg", (13, 12))


def oxford_iiit_pet(root, monkeypatch):
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for split in ("trainval", "test"):
        lines = []
        for i in range(6):
            name = f"{('Abyssinian', 'beagle', 'great_pyrenees')[i % 3]}_{split}{i}"
            name = name.replace(split, str(i + 10 * (split == "test")))
            lines.append(f"{name} {i % 3 + 1} {1 + (i % 3 > 0)} 1\n")
            write_image(folder / f"images/{name}.jpg", (13, 12))
        (folder / f"annotations/{split}.txt").write_text("".join(lines))


def stanford_cars(root, monkeypatch):
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    scipy.io.savemat(
        folder / "devkit/cars_meta.mat", {"class_names": np.array(["Audi", "BMW", "VW"], object)}
    )
    for split, path in (
        ("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat"),
    ):  # fmt: skip
        rows = np.zeros(6, [("class", object), ("fname", object)])
        for i in range(6):
            rows[i] = i % 3 + 1, f"{i:05}.jpg"
            write_image(folder / f"cars_{split}/{i:05}.jpg", (13, 12))
        scipy.io.savemat(folder / path, {"annotations": rows})


def fgvc_aircraft(root, monkeypatch):
    data = root / "fgvc-aircraft-2013b/data"
    (data / "images").mkdir(parents=True)
    for level, names in (("variant", ("707-320", "A310", "DH-82")), ("family", ("A310", "DH-82"))):
        file = {"variant": "variants.txt", "family": "families.txt"}[level]
        (data / file).write_text("\n".join(names) + "\n")
        for number, split in enumerate(("train", "val", "test")):
            ids = [f"{10 * number + i:07}" for i in range(6)]
            lines = [f"{name} {names[i % len(names)]}\n" for i, name in enumerate(ids)]
            (data / f"images_{level}_{split}.txt").write_text("".join(lines))
            for name in ids:
                write_image(data / f"images/{name}.jpg", (13, 12))


def dtd(root, monkeypatch):
    folder = root / "dtd/dtd"
    (folder / "labels").mkdir(parents=True)
    for partition in (1, 2):
        for split in ("train", "val", "test"):
            names = [f"{c}/{c}_{split}{partition}{i}.jpg" for c in ("banded", "woven")
                     for i in range(3)]  # fmt: skip
            (folder / f"labels/{split}{partition}.txt").write_text("\n".join(names) + "\n")
            for name in names:
                write_image(folder / "images" / name, (13, 12))


def gtsrb(root, monkeypatch):
    folder = root / "gtsrb"
    for c in range(3):
        for i in range(3):
            write_image(folder / f"GTSRB/Training/{c:05}/{i}.ppm", (13, 12), "PPM")
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for i in range(6):
        write_image(folder / f"GTSRB/Final_Test/Images/{i:05}.ppm", (13, 12), "PPM")
        lines.append(f"{i:05}.ppm;13;12;0;0;1;1;{i % 3}")
    (folder / "GT-final_test.csv").write_text("\n".join(lines) + "\n")


def country211(root, monkeypatch):
    for split in ("train", "valid", "test"):
        for c in ("AD", "ZW"):
            for i in range(3):
                write_image(root / f"country211/{split}/{c}/{i}.jpg", (13, 12))


def rendered_sst2(root, monkeypatch):
    for split in ("train", "valid", "test"):
        for c in ("negative", "positive"):
            for i in range(3):
                write_image(root / f"rendered-sst2/{split}/{c}/{i}.png", (12, 12), "PNG")


def imagenette(root, monkeypatch, folder="imagenette2"):
    for split in ("train", "val"):
        for wnid in ("n01440764", "n03888257"):
            for i in range(3):
                write_image(root / folder / split / wnid / f"{i}.JPEG", (13, 12))


def imagenette_160(root, monkeypatch):
    imagenette(root, monkeypatch, "imagenette2-160")
