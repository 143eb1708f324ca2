"""Turn text into batches of tokens; `dataset.py` is the way in.

| file | what it does |
|---|---|
| `load.py` | loads a corpus: its tokens, and loaders of their windows |
| `corpora.py`, `standard_sets.py` | find running text; some of it in papers' files |
| `forms.py`, `lines.py` | read it in each form; cut it up, and count it |
| `cache.py` | makes its tokens once |
| `document_corpora.py`, `documents.py` | find documents, and read them in each form |
| `document_cache.py` | makes their tokens once |
| `token_files.py` | reads tokens that others have made |
| `write_shards.py` | writes tokens for others, `python -m pipelines.text.write_shards` |
| `tokenizer.py`, `encoding.py` | load a tokenizer, and turn text into ids |
| `token_folders.py` | keeps ids on disk |
| `loaders.py` | makes batches of them |
| `further.py` | finds the corpora of --also_test |
"""
