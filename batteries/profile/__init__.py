"""Find out by computation what can be said of an activation function.

`python -m batteries.profile --activation ZiLU --sigma 1.253` prints it, and draws the function.

| file | what it does |
|---|---|
| `__main__.py` | the command |
| `found.py` | everything that is found, as data |
| `subject.py` | makes the activation, and calls it on numbers |
| `health.py` | all finite numbers of fp16 and bf16; errors against float64; gradcheck |
| `shape.py` | where it rises and bends, its bounds, its slope's range, kinks and jumps |
| `tails.py` | what it tends to far from 0, and how fast |
| `moments.py` | what it does to normally distributed inputs |
| `mixing.py` | what can be said where an output depends on several inputs |
| `cost.py` | time and memory of training steps, and of the activation alone |
| `profile.py` | all of this of one activation |
| `text.py`, `picture.py` | as sentences and tables, and drawn |
"""
