"""Turn images into batches; `dataset.py` is the way in.

`folders`, `shards`, `hugging_face` and `torchvision_sets` find the images (`labels` numbers their
classes) and `sources` reads those that are arrays already; `decode` and `readers` turn files into
bytes, `cache` keeps these on disk, `broken` leaves out files that cannot be read, `splits` holds
the images of training, validation and test, `imbalance` thins out a training set, `loaders` puts
the images in order and `augment` makes float batches of them, with random-resized `crops`, the
`operations` that `policies` such as RandAugment draw, and `mixing` for mixup and CutMix.
`one_image` loads an image to be fitted, and `pixels` makes batches of its pixels.
`further` finds the test sets of --also_test, and `class_maps` has their classes. `interfaces` names
what these pass to each other.
"""
