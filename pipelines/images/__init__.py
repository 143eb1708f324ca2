"""Turn images into batches; `dataset.py` is the way in.

`sources` and `folders` find the images, `decode` turns files into bytes, `splits` holds the images
of training, validation and test, `imbalance` thins out a training set, `loaders` puts the images in
order and `augment` makes float batches of them. `interfaces` names what these pass to each other.
"""
