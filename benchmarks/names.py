"""Name what can be asked of the benchmark. Nothing here loads torch: `--help` reads it."""

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
SIZES = (2**12, 2**16, 2**22)

# The activations that are measured by default, one by one and in training, and the baselines that
# stand beside whichever are asked for.
ACTIVATIONS = ("ReLU", "GELU", "SiLU", "ZiLU", "ZiLU_Approx", "GELU_s", "SiLU_s")
BASELINES = ("ReLU", "GELU", "SiLU")
TRAINED = ("ReLU", "GELU", "ZiLU", "ZiLU_Approx")
TRAINING_BASELINES = ("ReLU", "GELU")

# Training.
MODELS = ("resnet20", "vit-tiny", "gpt")
MODES = ("eager", "compiled")
PRECISIONS = ("fp32", "amp")
