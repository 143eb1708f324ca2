"""Turn images and texts on disk into batches; `dataset.py` is the way in.

`images` and `text` hold one pipeline each; `download` is what both need of the network.
"""
