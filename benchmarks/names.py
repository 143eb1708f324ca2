"""Name what can be asked of the benchmark. Nothing here loads torch: `--help` reads it."""

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
SIZES = (2**12, 2**16, 2**22)

# The activations that are measured by default, one by one and in training, and the baselines that
# stand beside whichever are asked for.
ACTIVATIONS = ("ReLU", "GELU", "SiLU", "ZiLU", "ZiLU_Approx", "GELU_s", "SiLU_s")
BASELINES = ("ReLU", "GELU", "SiLU")
TRAINED = ("ReLU", "GELU", "ZiLU", "ZiLU_Approx")
TRAINING_BASELINES = ("ReLU", "GELU")

GATED = ("ZiLU", "ZiLU_Approx", "xATLU")  # of --glu, beside BASELINES

REMEMBERED = ("ZiLU",)  # of --memory, beside BASELINES

# Training. gpt is a small GPT-2; --models takes the programs' networks too.
SMALL_GPT = "gpt"
MODELS = ("resnet20", "vit-tiny", SMALL_GPT)
MODES = ("eager", "compiled")
PRECISIONS = ("fp32", "amp")
