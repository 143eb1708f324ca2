"""Turn files of images, text or tables into batches. Users call dataset.py.

| file | what it holds |
|---|---|
| `data.py` | the data sets when they are ready: `ImageData`, `TextData`, `TableData`, `PixelData` |
| `images/`, `text/`, `tables/` | how they are made: one pipeline each |
| `interfaces.py` | names what the parts of all three pass to each other |
| `held_out.py` | the share of every class that is held out |
| `download.py`, `hub.py` | what images and text need of the network, and of Hugging Face's hub |
| `datasets_library.py` | Hugging Face's `datasets`, loaded, with its errors made ours |
| `stamps.py` | seeing that a file has changed |
"""
