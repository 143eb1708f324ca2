"""Measure speed, for benchmark.py: arms in turn, round after round.

| file | what it holds |
|---|---|
| `options.py`, `names.py` | what can be asked for; load no torch |
| `measurements.py` | makes the measurements that were asked for |
| `activations.py` | activations one by one: time, bandwidth, memory |
| `host_time.py` | the host's time of an activation's call |
| `gated_products.py` | activation(a) * b, fused against plain: time and bytes kept |
| `accuracy.py` | their errors against float64 |
| `figure.py` | their times as bars |
| `training.py` | training steps per activation |
| `memory.py` | what steps keep for backward, their peak, the largest batch |
| `diagnostics.py` | what `--stats` adds to steps and evaluations |
| `vision.py`, `language.py` | pipelines and loops against those of others |
| `tokenizing.py` | text to tokens, against `datasets` |
| `reading.py` | streamed JPEGs in each form, against torchvision's DataLoader |
| `plain_gpt.py` | a plain GPT and its loop, to measure against |
| `nanogpt.py` | nanoGPT's recipe against a plain loop: losses and times |
| `timm_train.py` | whole epochs on image files against timm's train.py: times |
| `spinning.py` | how long waiting threads spin, on an idle and a busy machine: times |
| `gpu_check/` | `make gpu-check`: what was promised for GPUs, looked at on one |
| `arms.py` | the activations that are compared |
| `trainers.py` | trainers as the programs build them, on a batch that lies ready |
| `timing.py` | rounds, medians, ratios, bytes, processes |
| `tables.py` | Markdown and CSV |
"""
