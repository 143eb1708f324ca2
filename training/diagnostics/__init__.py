"""Look into a network while it trains: numbers for each activation site.

| file | what it does |
|---|---|
| `statistics.py` | describes the input of one activation in numbers |
| `watch.py` | looks at all activation sites in one pass, and leaves no trace |
| `recorder.py` | decides when to look, and writes stats.jsonl |
"""
