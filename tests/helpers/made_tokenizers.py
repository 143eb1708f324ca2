"""Make small tokenizers of the kinds that are in use, and save them as Hugging Face does."""

import json

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

BEGIN, END = "<begin>", "<end>"
# How Llama 3 and others split a text before the merges of bytes: white space across line ends too.
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def save(folder, backend):
    """Save a tokenizer, END as its end of text, in a folder that `--tokenizer` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    backend.add_special_tokens([END])
    backend.save(str(folder / "tokenizer.json"))
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    return str(folder)


def with_beginning(backend):
    """Let a tokenizer put BEGIN in front of every text, as Llama 3's does."""
    backend.add_special_tokens([BEGIN])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, backend.token_to_id(BEGIN))]
    )
    return backend


def of_words(words, unknown="[UNK]", decoder=None):
    """Return a tokenizer with an id for each of these words, and [UNK] for all others."""
    vocabulary = {word: number for number, word in enumerate([unknown, *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoder
    return backend


def _trained(text, model, trainer, **parts):
    backend = Tokenizer(model)
    for name, part in parts.items():
        setattr(backend, name, part)
    backend.train_from_iterator(text.splitlines(keepends=True), trainer)
    return backend


def _bpe_trainer(**options):
    return trainers.BpeTrainer(vocab_size=600, show_progress=False, **options)


def byte_level(text, prefix=False):
    """Return one as GPT-2's; with the space in front that RoBERTa's may have."""
    return _trained(
        text,
        models.BPE(),
        _bpe_trainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=prefix),
        decoder=decoders.ByteLevel(),
    )


def llama_3(text):
    backend = byte_level(text)
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_alone])
    return backend


def llama_2(text):
    """Return SentencePiece's as it stands in tokenizer.json: the whole text is one word."""
    backend = _trained(
        text.replace(" ", "▁"),
        models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True),
        _bpe_trainer(special_tokens=["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]),
        pre_tokenizer=pre_tokenizers.Split("▁", "merged_with_next"),
    )
    content = json.loads(backend.to_str())
    content["pre_tokenizer"], content["added_tokens"] = None, content["added_tokens"][:1]
    backend = Tokenizer.from_str(json.dumps(content))
    marks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    backend.normalizer = normalizers.Sequence(marks)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    return backend


def metaspace(text):
    return _trained(
        text,
        models.BPE(),
        _bpe_trainer(),
        pre_tokenizer=pre_tokenizers.Metaspace(),
        decoder=decoders.Metaspace(),
    )


def unigram(text):
    return _trained(
        text,
        models.Unigram(),
        trainers.UnigramTrainer(
            vocab_size=600, show_progress=False, special_tokens=["<unk>"], unk_token="<unk>"
        ),
        pre_tokenizer=pre_tokenizers.Metaspace(),
        decoder=decoders.Metaspace(),
    )


def t5(text):
    """Return one that joins white space, line ends among it, and drops it at the ends."""
    backend = unigram(" ".join(text.split()))
    one_space = normalizers.Replace(Regex(r"\s+"), " ")
    backend.normalizer = normalizers.Sequence([one_space, normalizers.Strip()])
    return backend


def bert(text):
    return _trained(
        text,
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(
            vocab_size=600, show_progress=False, special_tokens=["[UNK]", "[SEP]"]
        ),
        normalizer=normalizers.BertNormalizer(),
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        decoder=decoders.WordPiece(),
    )


KINDS = {
    "byte level": byte_level,
    "byte level with a space in front": lambda text: byte_level(text, prefix=True),
    "Llama 3": llama_3,
    "Llama 2": llama_2,
    "metaspace": metaspace,
    "Unigram": unigram,
    "T5": t5,
    "BERT": bert,
}
