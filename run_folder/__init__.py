"""Write the files of one run while it trains; sweeps and reports read them.

| file | what it does |
|---|---|
| `folder.py` | names and writes the files of a run |
| `lock.py` | keeps other processes out of the folder |
| `checkpoint.py` | saves and loads checkpoint.pt |
| `shards.py` | the parts of a checkpoint that several processes write |
| `result_lines.py` | writes and parses the lines of train_eval_results.txt |
| `metrics.py` | names the metrics, with their units and where a line has them |
| `evaluations.py` | keeps the results of standard evaluations: lm_eval.json |
| `records.py` | reads the evaluations of a run back |
| `search.py` | lists the folders below one |
| `status.py` | tells whether a run is new, interrupted, finished or diverged |
"""
