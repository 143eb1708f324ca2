"""Load an activation of the user's own: `package.module:Name` or `path/to/file.py:Name`.

Name is a class of modules, or a function of one tensor. Loading runs the code of the file or the
module, so it is only done for a name that the user has given.

| file | what it does |
|---|---|
| `importing.py` | imports the module or the file, and reads what its source is |
| `activation.py` | holds what was loaded, makes modules of it, and compares sources |
| `trial.py` | tries it on small tensors, and samples its curve |
"""
