"""Turn tables of numbers into batches; `dataset.py` is the way in.

`sources` reads the tables that scikit-learn brings along, `csv_files` those of files; `load` splits
and standardises them, and `loader` yields the batches.
"""
