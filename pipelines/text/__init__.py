"""How text becomes batches of tokens; `dataset.py` is the front door.

`corpora` finds the text (`hub` at Hugging Face), `lines` cuts it up and counts it, `tokenizer`
turns it into ids, `cache` keeps them on disk and `loaders` makes batches of them.
"""
