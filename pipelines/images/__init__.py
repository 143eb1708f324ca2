"""How images become batches; `dataset.py` is the front door.

`sources` and `folders` find the images, `decode` turns files into bytes, `loaders` puts them in
order and `augment` makes float batches of them.
"""
