"""Check on a GPU what was promised for GPUs: python -m benchmarks.gpu_check, or make gpu-check.

It takes nine minutes at most, leaves one text file, and goes on where it was interrupted.

| file | what it holds |
|---|---|
| `__main__.py` | the command: the parts in turn, each in a process of its own |
| `found.py` | what a part finds: promises, kept or not, and rows of the table |
| `result_file.py` | the text file, which is also what a second start goes on from |
| `kernels.py` | parts: the kernels' numbers, capture in CUDA graphs, tensors above 2^31 |
| `speed.py` | parts: activations one by one, and the host's time of a call |
| `steps.py` | parts: training steps of ResNets and GPT-2, and SGD in fp16 |
| `programs.py` | parts: whole runs that are to be repeated bit for bit, and several processes |
"""
