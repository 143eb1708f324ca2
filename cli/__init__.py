"""Parse the command line, once, into typed fields of a configuration that nothing changes.

| file | what it holds |
|---|---|
| `config.py` | the four parts of a configuration, and what every configuration can do |
| `network.py`, `training.py`, `run.py` | the flags of three parts, which all programs share |
| `vision.py`, `language.py`, `table.py`, `inr.py` | each program's flags: a configuration |
| `vision_network.py` | the flags of networks for images |
| `image_sources.py` | the flags of how images are found and cut out of a data set's files |
| `augmentation.py` | the flags of how training images are varied |
| `fields.py` | what a flag is: default, converter, group, help, effect |
| `converters.py` | from the text of a value to the value |
| `optimizer_names.py` | the names of the libraries' optimizers, before a library is loaded |
| `datasets.py` | the names of the data sets, and what is known of them before they are read |
| `further_tests.py` | the names of --also_test, and where the files can be had |
| `parser.py` | from `sys.argv` and `--config` to a configuration |
| `published.py` | the flags of the code that was published with the paper, as ours |
| `yaml_files.py` | reads YAML as it is written, and refuses a key that stands twice |
| `args_file.py` | args.txt: a configuration as YAML |
| `flags_page.py` | writes docs/flags.md from the fields |
| `evaluation.py` | the command line of evaluate_lm.py |
| `run_names.py` | the default folder of a run |
| `errors.py` | from an error to one line and an exit code |

Nothing here loads torch: `--help` and every mistake in the flags are answered before that.
"""
