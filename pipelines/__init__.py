"""Turn files of images or text into batches. Users call dataset.py.

| file | what it holds |
|---|---|
| `data.py` | the data sets when they are ready: `ImageData`, `TextData` |
| `images/`, `text/` | how they are made: one pipeline each |
| `download.py`, `hub.py`, `stamps.py` | what both need: of the network, of Hugging Face; seeing that a file has changed |
"""
