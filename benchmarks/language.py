"""Language: training steps against a plain GPT and its loop, tokenising against `datasets`."""

import argparse
import functools
import itertools
import os
import tempfile
from pathlib import Path

import cli
import dataset
import language_main
from benchmarks.tables import print_rates
from benchmarks.timing import interleaved, own_processes
from training import program
from utils import UserError, resolve_amp_dtype, resolve_device, set_arithmetic

# 10.8 million parameters, a size often used to try nanoGPT on a CPU.
VOCABULARY, LENGTH, WIDTH, HEADS, LAYERS = 256, 256, 384, 6, 6
STEPS = 3
BLOCK = 1024  # tokens of a packed sequence


# --- training steps ---


def measure_training(args: argparse.Namespace, device) -> None:
    """Steps on a batch that lies ready, without dropout: a plain GPT as torch leaves it, and ours,
    in processes of their own."""
    print(f"\nSteps: {LAYERS} layers of {WIDTH}, {LENGTH} tokens, batch {args.batch_size}")
    for name, flags in {"fp32": (), "AMP compiled": ("--use_amp", "--use_compiled")}.items():
        makers = {
            f"plain GPT, GELU, {name}": functools.partial(plain_arm, args, flags),
            f"this project, {args.activation}, {name}": functools.partial(our_arm, args, flags),
        }
        with own_processes(makers) as arms:
            times = interleaved(arms, args.rounds, device)
        tokens = STEPS * args.batch_size * LENGTH
        print_rates(times, tokens, "tokens", next(iter(makers)))


def ready_batch(args: argparse.Namespace, device) -> tuple:
    import torch

    shape = (args.batch_size, LENGTH)
    return tuple(torch.randint(VOCABULARY, shape, device=device) for _ in range(2))


def finished(steps, device):
    """`steps`, and then waiting for the device: another process cannot."""
    import torch

    def arm() -> None:
        steps()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return arm


def plain_arm(args: argparse.Namespace, flags: tuple[str, ...]):
    import torch

    from benchmarks.plain_gpt import PlainGPT, plain_optimizer, plain_step

    device = resolve_device(args.device)
    if device.type == "cuda":  # as nanoGPT does
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    dtype = resolve_amp_dtype(device, "auto") if "--use_amp" in flags else None
    plain = PlainGPT(VOCABULARY, LENGTH, WIDTH, HEADS, LAYERS).to(device)
    optimizer = plain_optimizer(plain, lr=6e-4)
    forward = torch.compile(plain) if "--use_compiled" in flags else plain
    ids, targets = ready_batch(args, device)

    def steps() -> None:
        for _ in range(STEPS):
            plain_step(forward, optimizer, ids, targets, dtype)

    return finished(steps, device)


def our_arm(args: argparse.Namespace, flags: tuple[str, ...]):
    """Steps of a trainer as language_main builds it."""
    device = resolve_device(args.device)
    set_arithmetic(device, deterministic=False)
    trainer = build(args.activation, device, flags)
    batch = ready_batch(args, device)

    def steps() -> None:
        for _ in range(STEPS):
            trainer.train_step([batch], ReadyBatches(args.batch_size))

    return finished(steps, device)


def build(activation: str, device, flags: tuple[str, ...]):
    from train_eval import Trainer

    common = (
        "--activation", activation, "--dropout", "0", "--max_seq_length", LENGTH,
        "--embedding_dim", WIDTH, "--num_attention_heads", HEADS, "--num_layers", LAYERS,
    )  # fmt: skip
    parsed, _ = cli.parse("benchmark.py", "", language_main.FLAGS, [*map(str, common), *flags])
    model = language_main.build_model(parsed, VOCABULARY).to(device).train()
    options = program.build_options(parsed, device, test_each_epoch=False)
    trainer = Trainer(model, language_main.LanguageModelling(), device, options)
    trainer.start(ReadyBatches(parsed.batch_size))
    return trainer


class ReadyBatches:
    """A loader's measures, with an epoch that never ends."""

    num_samples = 10**9

    def __init__(self, batch_size: int):
        self.batch_size = batch_size

    def __len__(self):
        return 10**6


# --- tokens ---


def measure_tokenizing(args: argparse.Namespace) -> None:
    """GPT-2's tokens of a text file, packed and on disk."""
    text = Path(args.text)
    if not text.is_file():
        raise UserError(f"--text {text}: no such file")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "gpt2").symlink_to(Path(args.data_path, "gpt2").resolve())
        (folder / "train.txt").symlink_to(text.resolve())
        for split in ("valid", "test"):
            (folder / f"{split}.txt").write_text("short\n")
        counter = itertools.count()
        arms = {
            "datasets.map, 2 processes": library_arm(text, folder, counter),
            "this project": lambda: our_tokens(folder, next(counter)),
        }
        times = interleaved(arms, args.rounds, resolve_device("cpu"))
    print_rates(times, text.stat().st_size / 1e6, "MB", next(iter(arms)))


def our_tokens(folder: Path, number: int) -> None:
    """The whole way: digest, counts, tokens, files."""
    copy = folder / str(number)
    copy.mkdir()
    for name in ("gpt2", "train.txt", "valid.txt", "test.txt"):
        (copy / name).symlink_to(folder / name)
    dataset.load_text("text", copy, block_size=BLOCK, batch_size=1, progress=False)


def library_arm(text: Path, folder: Path, counter):
    """An arm: what transformers' language modelling examples do, on lines that lie ready."""
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    import datasets
    from transformers import GPT2TokenizerFast

    tokenizer = GPT2TokenizerFast.from_pretrained(folder / "gpt2")
    with open(text, newline="\n") as file:
        lines = datasets.Dataset.from_dict({"text": list(file)})
    lines.save_to_disk(folder / "lines")
    lines = datasets.load_from_disk(folder / "lines")

    def tokenise(rows):
        return tokenizer(rows["text"])

    def pack(rows):
        joined = {key: list(itertools.chain.from_iterable(rows[key])) for key in rows}
        length = len(joined["input_ids"]) // BLOCK * BLOCK
        return {
            key: [ids[i : i + BLOCK] for i in range(0, length, BLOCK)]
            for key, ids in joined.items()
        }

    def arm() -> None:
        files = [str(folder / f"{next(counter)}.arrow") for _ in range(2)]
        tokens = lines.map(
            tokenise, batched=True, num_proc=2, remove_columns="text", load_from_cache_file=False,
            cache_file_name=files[0],
        )  # fmt: skip
        tokens.map(
            pack, batched=True, num_proc=2, load_from_cache_file=False, cache_file_name=files[1]
        )

    return arm
