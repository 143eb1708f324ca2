"""Run the programs on a CUDA device that computes nothing, and see what they ask of it.

| file | what it holds |
|---|---|
| `device/` | the device: a library in the place of CUDA's runtime and driver, cuBLAS and NCCL |
| `device.py` | builds it; the environment in which a process sees it |
| `cudnn.py` | cuDNN's operators, which allocate what cuDNN's do |
| `watch.py` | notes where a program waits for the device, and what it launches and allocates |
| `server.py` | forks a process that has loaded torch, for every program that a test runs |
| `memory.py` | a command: the predicted peak memory of a training step |

Memory is the host's and kernels do nothing; everything else is real: torch's caching allocator,
streams, autograd's threads, capture of CUDA graphs, Triton's and Inductor's compilers and
launchers. The device shows waits, launches, memory, the devices that are touched, and errors of
device, dtype and capture. It shows nothing of numbers, nor of a GPU's speed.
"""
