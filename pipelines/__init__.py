"""From files to batches: images and text. dataset.py is the door for users.

| file | what it holds |
|---|---|
| `data.py` | the data sets when they are ready: `ImageData`, `TextData` |
| `images/`, `text/` | how they are made: one pipeline each |
| `download.py` | what both need of the network |
"""
