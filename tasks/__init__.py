"""Define the kinds of tasks, each with its loss, metrics, data and networks.

| file | program |
|---|---|
| `vision.py` | vision_main.py: images into classes |
| `language.py` | language_main.py: the next token of a text |
"""
