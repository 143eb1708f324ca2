"""Turn run folders into a report: tables, figures, statistics and sentences.

| file | what it does |
|---|---|
| `run_folders.py`, `arguments.py` | read runs: arguments, records, outcome |
| `predictions.py` | reads their predictions for the test set |
| `measures.py` | takes from runs the numbers that are compared |
| `variants.py`, `grouping.py` | what is compared, and which runs may be |
| `plan.py` | what a report is asked for, on the command line or beforehand |
| `statistics.py`, `counts.py`, `crossed.py` | tests of seeds; of counts; of seeds and test images |
| `comparisons.py` | chooses what is compared with what, and tests it |
| `findings.py` | everything that came of it, before a word is written |
| `report.py` | writes a report out of the sections |
| `sections/`, `section.py` | one subject each: tables, figures, sentences; their interface |
| `wording.py`, `document.py` | numbers as text; the text of a report and its files |
| `drawing.py` | the look of figures |
| `written_files.py` | the files of the last report, which the next one removes |
| `sequential.py` | decides a comparison with as many seeds as it takes |
| `looks.py`, `boundaries.py` | after how many seeds it is looked at, and how large t must be |
| `until_decided.py` | does so for a sweep |
| `simulations.py` | how often that is wrong |
| `watch.py` | no report: shows runs that are on their way |
"""
