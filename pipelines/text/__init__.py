"""Turn text into batches of tokens; `dataset.py` is the way in.

`corpora` finds the text, `forms` reads it, `lines` cuts it up and counts it, `tokenizer` and
`encoding` turn it into ids, `cache` makes them once, `token_folders` keeps them on disk and
`loaders` makes batches of them.
`further` finds the corpora of --also_test.
"""
