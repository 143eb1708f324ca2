"""Turn run folders into a report: tables, figures, statistics and sentences.

`run_folders` reads the runs, `grouping` says which of them may be compared, `comparisons` tests,
`findings` holds what came of it. A report is written by `report`, out of the files in `sections/`:
each has one subject with its tables, figures and sentences. `watch` is no report: it shows runs
that are on their way.

`sequential` decides a comparison with as many seeds as it takes, by `looks` and `boundaries`;
`until_decided` does so for a sweep, and `simulations` shows how often that is wrong.
"""
