"""Define the kinds of tasks, each with its loss, metrics, data and networks.

| file | program |
|---|---|
| `vision.py` | vision_main.py: images into classes |
| `classification.py` | its loss and metrics |
| `data_facts.py` | what args.txt holds of its data |
| `image_checks.py` | its checks of batches, images and classes |
| `starts.py` | the weights that it starts from, and what these decide |
| `language.py` | language_main.py: the next token of a text |
| `standard_evaluations.py` | evaluate_lm.py: a run on lm_eval's tasks |
| `harness_tasks.py` | its tasks and their data |
| `harness_model.py` | its network, as lm_eval takes it |
"""
