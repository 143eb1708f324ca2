"""Hold the modules that an exported network brings along for Hugging Face's transformers.

| file | what it holds |
|---|---|
| `zilu_activations.py` | the activations as plain operations; needs torch alone |
| `modeling_zilu_gpt2.py` | the project's GPT-2 |
| `modeling_zilu_hf.py` | any network of transformers with other activations |

`python export.py RUN --to hf FOLDER` copies them into FOLDER as they stand here, so nothing in them
may import anything but torch, transformers and each other. `zilu.register_transformers` registers
them with the fused activations.
"""
