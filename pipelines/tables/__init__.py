"""Turn tables of numbers into batches; `dataset.py` is the way in.

| file | what it does |
|---|---|
| `sources.py` | reads the tables that scikit-learn brings along |
| `csv_files.py` | reads those of files |
| `load.py` | splits and standardises them |
| `loader.py` | yields the batches |
"""
