"""Write tokenizer files for transformers that give the ids of the training."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from cli.language import LanguageDataConfig
from pipelines.text import tokenizer
from pipelines.text.tokenizer import GPT2_END_OF_TEXT, FastTokenizer

# What a check compares; the last one has the special string of GPT-2 in it.
TEXTS = (
    "The law of the arctangent,\n\n as it was said:  1, 2 and 345.\n",
    " \n = Title = \n \n é世界 \t a_b's\n",
    f"one{GPT2_END_OF_TEXT}two",
)


def write(data: LanguageDataConfig, longest: int, folder: Path) -> dict[str, Any]:
    """Write the files of a run's tokenizer.

    Args:
        data: the run's.
        longest: the length of the network's context.
        folder: for the files.

    Returns:
        The id of end of text; whether texts are read line by line; and texts with the ids that
        training gives them.
    """
    found = tokenizer.load_for(data.dataset, data.tokenizer, data.data_path)
    backend = _backend(found) if isinstance(found, FastTokenizer) else _bytes()
    end_of_text = backend.id_to_token(found.end_of_text)
    transformers = importlib.import_module("transformers")
    files = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=end_of_text,
        eos_token=end_of_text,
        model_max_length=longest,
        clean_up_tokenization_spaces=False,
        # The bytes of a special string are bytes like others.
        split_special_tokens=not isinstance(found, FastTokenizer) or found.reads_special_as_text,
    )
    files.save_pretrained(folder)
    return {
        "end_of_text": found.end_of_text,
        "by_lines": isinstance(found, FastTokenizer) and found.by_lines,
        "texts": [[text, found.encode(text)] for text in TEXTS],
    }


def _backend(found: FastTokenizer) -> Any:
    """Return a copy that adds no special tokens, and where training did reads line by line."""
    library = importlib.import_module("tokenizers")
    content = json.loads(found.serialised())
    content["post_processor"] = None
    if found.by_lines:
        lines = {
            "type": "Split", "pattern": {"String": "\n"}, "behavior": "MergedWithPrevious",
            "invert": False,
        }  # fmt: skip
        content["pre_tokenizer"] = {
            "type": "Sequence",
            "pretokenizers": [lines, content["pre_tokenizer"]],
        }
    return library.Tokenizer.from_str(json.dumps(content))


def _bytes() -> Any:
    """Return a tokenizer whose tokens are bytes, by the letters that GPT-2's writes for them."""
    library = importlib.import_module("tokenizers")
    vocabulary = {letter: byte for byte, letter in enumerate(letters_of_bytes())}
    backend = library.Tokenizer(library.models.BPE(vocabulary, []))
    backend.pre_tokenizer = library.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    backend.decoder = library.decoders.ByteLevel()
    backend.add_special_tokens([GPT2_END_OF_TEXT])
    return backend


def letters_of_bytes() -> list[str]:
    """Return the letter of each byte: printable ones stand for themselves, others follow U+0100."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
