"""Turn text into batches of tokens; `dataset.py` is the way in.

Running text: `corpora` finds it (`standard_sets` some of it), `forms` reads it, `lines` cuts it up
and counts it, and `cache` makes its tokens once. Documents: `document_corpora` finds them,
`documents` reads them, and `document_cache` makes their tokens. `token_files` reads tokens that
others have made, and `write_shards`, a command, writes such files. `tokenizer` and `encoding` turn
text into ids, `token_folders` keeps these on disk, and `loaders` makes batches of them.
`further` finds the corpora of --also_test.
"""
