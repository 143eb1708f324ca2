"""Say how good an activation is: the same tasks, budgets and statistics for every one.

| file | what it does |
|---|---|
| `small/`, `full/` | the tasks: grid files, each of which `sweep.py` runs alone too |
| `tasks.py` | reads them |
| `arms.py` | the candidate, as the command line names it, and its rivals |
| `running.py` | trials, six seeds, and further ones look by look until each task is decided |
| `machine.py` | what the numbers depend on beside the flags: machine, versions, code |
| `records.py` | finished runs as lines of JSON, which stand for their runs |
| `comparing.py` | the decision on a task, and what stands beside it, from records |
| `findings.py` | everything that a page says of a battery, as data |
| `json_files.py` | writes such data as JSON, and reads it back |
| `profile/` | what is computed of an activation: health, properties, cost |
| `page/` | the page of a battery, from its findings |
| `summary.py` | the findings in a few lines |
| `table.py` | the page of all activations, docs/battery.md |
| `options.py` | the command line |
| `command.py` | does what the command line asks for |
"""
