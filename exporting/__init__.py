"""Write a trained network in the forms that others load.

| file | what it holds |
|---|---|
| `options.py` | what can be asked for; loads no torch |
| `command.py` | what `export.py` does: load, write, check, put in place |
| `loading.py` | the network of a checkpoint, rebuilt as `--test_only` does |
| `activation.py` | the activation of a run as a spec of plain values, and as text |
| `hugging_face.py` | folders for transformers |
| `tokenizer.py` | tokenizer files that give the ids of the training |
| `classifiers.py` | state dicts for networks of timm and torchvision |
| `graphs.py` | ONNX and torch.export files |
| `card.py` | the README of an export |
| `writing.py` | a temporary place that becomes the target when all is whole |
| `checking.py` | the comparison with a fresh process |
| `fresh_process.py` | what that process runs; imports nothing of this project |

The modules that go into a folder for transformers stand in `zilu/exported/`.
"""
