"""Define the kinds of tasks, each with its loss, metrics, data and networks.

| file | program |
|---|---|
| `vision.py` | vision_main.py: images into classes |
| `table.py` | table_main.py: rows of numbers into classes |
| `classification.py` | the loss and metrics of both |
| `data_facts.py` | what args.txt holds of their data |
| `image_checks.py` | vision's checks of batches, images and classes |
| `starts.py` | the weights that vision starts from, and what these decide |
| `language.py` | language_main.py: the next token of a text |
| `inr.py` | inr_main.py: an image by a network of its coordinates |
| `pictures.py` | its pictures of image, gradient and Laplacian |
| `standard_evaluations.py` | evaluate_lm.py: a run on lm_eval's tasks |
| `harness_tasks.py` | its tasks and their data |
| `harness_model.py` | its network, as lm_eval takes it |
"""
