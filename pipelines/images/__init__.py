"""Turn images into batches; `dataset.py` is the way in.

| file | what it does |
|---|---|
| `load.py` | loads a set: reads, splits, normalises, makes loaders |
| `folders.py`, `shards.py`, `hugging_face.py`, `torchvision_sets.py` | find the images of a set |
| `sources.py` | reads sets that are arrays already |
| `labels.py`, `class_maps.py` | number the classes; name those of published sets |
| `decode.py`, `readers.py` | turn files into bytes: one file, or a list of them |
| `broken.py` | leaves out files that cannot be read |
| `cache.py` | keeps what was read on disk |
| `splits.py` | holds the images of training, validation and test |
| `imbalance.py` | thins out a training set |
| `loaders.py` | puts the images in order, and yields batches |
| `augment.py`, `crops.py` | make float batches of them, varied; random-resized crops |
| `policies.py`, `operations.py` | RandAugment and its like; the operations that they draw |
| `mixing.py` | mixup and CutMix |
| `further.py` | the test sets of --also_test |
| `one_image.py`, `pixels.py` | one image to be fitted, and batches of its pixels |
| `interfaces.py` | names what these pass to each other |
"""
