"""Say what belongs to one kind of task: its loss and metrics, its data and its networks.

| file | program |
|---|---|
| `vision.py` | vision_main.py: images into classes |
| `language.py` | language_main.py: the next token of a text |
"""
