"""Run sweeps: many runs from one grid file, with tuning.

| file | what it does |
|---|---|
| `options.py`, `checks.py` | what `sweep.py` is asked for; grids and code that have changed |
| `command.py` | what it does then: shows the runs, does one or all |
| `grid.py` | reads a grid file, and completes the flags of its runs |
| `tuning.py` | plans the trials of `tune:`, and chooses by their scores |
| `manifest.py` | numbers and names the runs, once and for all |
| `more_seeds.py` | gives every setting of a sweep, or some of them, more seeds |
| `results.py` | reads what trials have found |
| `jobs.py` | turns the runs of a manifest into programs that run |
| `runner.py`, `display.py` | run several programs at a time, and show how they go on |
"""
