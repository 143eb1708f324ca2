"""What can be asked of the benchmark. Free of torch: `--help` reads it."""

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
SIZES = (2**12, 2**16, 2**22)
# One by one, and in training; each beside its baselines.
ACTIVATIONS = ("ReLU", "GELU", "SiLU", "ZiLU", "ZiLU_Approx", "GELU_s", "SiLU_s")
TRAINED = ("ReLU", "GELU", "ZiLU", "ZiLU_Approx")

# Training: models, and the programs' flags for each mode and precision.
MODELS = ("resnet20", "vit-tiny", "gpt")
MODES = {"eager": (), "compiled": ("--use_compiled",)}
PRECISIONS = {"fp32": (), "amp": ("--use_amp",)}
