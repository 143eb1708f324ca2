"""Say how good an activation is: the same tasks, budgets and statistics for every one.

| file | what it does |
|---|---|
| `small/`, `full/` | the tasks: grid files, each of which `sweep.py` runs alone too |
| `findings.py` | everything that a page says of a battery, as data |
"""
