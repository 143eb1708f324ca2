"""Train and evaluate a vision model with any activation function.

    python vision_main.py --model resnet20 --activation ZiLU --dataset cifar10

This file turns flags into data, model and task, and hands them to the loop (train_eval.py). torch
is imported inside the functions: flags are checked, and --help answers, before it is loaded.
"""

import argparse
import copy
import functools
import sys
from pathlib import Path

import cli
import dataset
import models
from utils import RunFolder, UserError, device_description, environment

FLAGS = cli.VISION_FLAGS
# What a checkpoint decides about the model; --test_only refuses flags that say otherwise.
MODEL_FLAGS = (
    "model", "activation", "sigma", "learn_sigma", "stem", "head", "patch_size", "criterion",
)  # fmt: skip
# What it decides about the precision, unless one of them is given.
PRECISION_FLAGS = ("use_amp", "amp_dtype")
# What it decides about the data, unless --test_only is told to evaluate on others.
DATA_FLAGS = ("dataset", "data_path", "resize", "val_fraction", "split_seed")


def main(argv: list[str] | None = None) -> int:
    args, given = cli.parse("vision_main.py", __doc__.splitlines()[0], FLAGS, argv)
    folder = RunFolder(args.output_dir or cli.default_output_dir(args, FLAGS))
    if args.test_only:
        return test_only(args, given, folder)
    cli.check_together(args)
    model_options(args, known_image_size(args))
    folder.check_free(args.overwrite)
    return train(args, folder)


def known_image_size(args: argparse.Namespace) -> int:
    """The images' size as far as flags tell; for a folder of images, one that fits any model."""
    size = args.resize or dataset.IMAGE_SIZES.get(args.dataset)
    return size or (224 if args.patch_size == "auto" else args.patch_size)


def model_options(args: argparse.Namespace, image_size: int) -> dict:
    """The model's own options, every auto resolved.

    Raises:
        UserError: an option that the model does not have, or images too small for it.
    """
    try:
        return models.resolve_options(args.model, image_size, args.stem, args.head, args.patch_size)
    except ValueError as error:
        raise UserError(str(error)) from None


# --- from flags to data, model and task ---


def seed_of(args: argparse.Namespace, name: str) -> int:
    """`--init_seed` or `--data_seed`, which are --seed where they are not given."""
    own = getattr(args, name)
    return args.seed if own is None else own


def load_data(args: argparse.Namespace, device, normalisation=None):
    return dataset.load_images(
        args.dataset,
        args.data_path,
        batch_size=args.batch_size,
        resize=args.resize,
        augment=args.augment,
        color_jitter=args.color_jitter,
        noise=args.noise,
        val_fraction=args.val_fraction,
        data_seed=seed_of(args, "data_seed"),
        split_seed=args.split_seed,
        device=device,
        num_workers=args.num_workers,
        normalisation=normalisation,
    )


def build_model(args: argparse.Namespace, options: dict, num_classes: int, image_size: int):
    """The network in its initial state, which depends on the init seed, not on the activation."""
    import torch

    from models.activation import create_activation
    from utils import seed_everything

    seed_everything(seed_of(args, "init_seed"))
    activation = functools.partial(
        create_activation, args.activation, args.sigma, args.learn_sigma, args.inplace
    )
    model = models.build_model(args.model, activation, num_classes, image_size, **options)
    return model.to(memory_format=torch.channels_last)


class Classification:
    """Images into classes: the loss, and the share of images with the right class among the first
    one and first five.

    Args:
        criterion: "CrossEntropy", or "MSE" between the outputs and one-hot targets.
        label_smoothing: of the training targets; evaluation has none.
    """

    unit = "images"

    def __init__(self, criterion: str, label_smoothing: float = 0.0):
        self.criterion, self.label_smoothing = criterion, label_smoothing

    def __call__(self, model, batch):
        import torch

        images, targets = batch
        logits = model(images).float()
        loss = self._loss(logits, targets, self.label_smoothing if model.training else 0.0)
        guesses = logits.detach().topk(min(5, logits.shape[1])).indices
        right = guesses == targets[:, None]
        count = len(images)
        counts = torch.stack(
            [right[:, 0].sum(), right.sum(), right.new_full((), count, dtype=torch.int64)]
        )
        return loss, torch.cat([loss.detach()[None] * count, counts])

    def _loss(self, logits, targets, smoothing: float):
        from torch.nn import functional as F

        if self.criterion == "CrossEntropy":
            return F.cross_entropy(logits, targets, label_smoothing=smoothing)
        one_hot = F.one_hot(targets, logits.shape[1]) * (1 - smoothing)
        return F.mse_loss(logits, one_hot + smoothing / logits.shape[1])

    def metrics(self, sums: list[float]) -> dict[str, float]:
        loss, top1, top5, count = sums
        return {
            "loss": loss / count,
            "top1": 100 * top1 / count,
            "top5": 100 * top5 / count,
            "count": int(count),
        }

    def describe(self, metrics: dict[str, float]) -> str:
        return (
            f"Loss: {metrics['loss']:.8f} "
            f"Accuracy: Top1: {metrics['top1']:.4f}%, Top5: {metrics['top5']:.4f}%"
        )

    def score(self, metrics: dict[str, float]) -> float:
        return metrics["top1"]


def build_options(args: argparse.Namespace, device):
    from train_eval import Options
    from utils import check_compiler, resolve_amp_dtype

    if args.use_compiled:
        check_compiler(device)
    return Options(
        num_epochs=args.num_epochs,
        max_steps=args.max_steps,
        amp_dtype=resolve_amp_dtype(device, args.amp_dtype) if args.use_amp else None,
        compile_mode=args.compile_mode if args.use_compiled else None,
        clip_grad_norm=args.clip_grad_norm,
        optimizer=args.optimizer,
        lr=args.lr,
        weight_decay=args.weight_decay,
        momentum=args.momentum,
        scheduler=args.scheduler,
        warmup=args.warmup,
        lr_step=args.lr_step,
        lr_gamma=args.lr_gamma,
    )


# --- training ---


def train(args: argparse.Namespace, folder: RunFolder) -> int:
    """Train, and fill the run folder; the exit code, 3 if the run diverged."""
    import torch

    from train_eval import Diverged, Trainer
    from utils import describe_model, mixed_seed, resolve_device, set_arithmetic

    device = resolve_device(args.device)
    set_arithmetic(device, args.deterministic)
    options = build_options(args, device)
    print_notices(args, device)
    data = load_data(args, device)
    print(data.description)
    shapes = {"num_classes": data.num_classes, "image_size": data.image_size}
    chosen = model_options(args, data.image_size)
    model = build_model(args, chosen, **shapes).to(device)
    check_last_batch(model, data.train)
    trainer = Trainer(model, Classification(args.criterion, args.label_smoothing), device, options)

    resolved = resolved_arguments(args, chosen, data, options, device, folder)
    if resolved["warmup_steps"] >= resolved["total_steps"]:
        print(f"Note: the warm-up ({args.warmup}) is longer than the whole training")
    args_text = cli.args_text(args, resolved, environment(device))
    folder.start(args_text, describe_model(model, site_type(args)), args.overwrite)
    torch.manual_seed(mixed_seed("dropout", args.seed))
    settings = {
        "args": vars(args),
        "model_options": chosen,
        **shapes,
        "class_names": list(data.class_names),
        "normalisation": [list(data.mean), list(data.std)],
    }
    try:
        trainer.fit(data, folder, settings)
    except Diverged as error:
        return report_divergence(error, folder)
    print(f"Results: {folder.path}")
    return 0


def check_last_batch(model, loader) -> None:
    """Refuse a last batch of one image where BatchNorm would see a single value.

    Raises:
        UserError: with the remedy.
    """
    import torch

    if loader.num_samples % loader.batch_size != (1 if loader.batch_size > 1 else 0):
        return
    images, _ = next(iter(loader.batches(0)))
    try:
        with torch.no_grad():
            copy.deepcopy(model).train()(images[:1])
    except ValueError:
        raise UserError(
            f"--batch_size {loader.batch_size}: leaves a batch of one image, whose last feature "
            "maps are one pixel, which BatchNorm cannot normalise; choose another size"
        ) from None


def print_notices(args: argparse.Namespace, device) -> None:
    print(f"Device: {device_description(device)}")
    if args.sigma != 1 and not cli.has_sigma(args):
        print(f"Note: {args.activation} has no sigma; --sigma {args.sigma:g} is ignored")


def site_type(args: argparse.Namespace) -> type:
    from models.activation import create_activation

    return type(create_activation(args.activation))


def resolved_arguments(args, chosen: dict, data, options, device, folder: RunFolder) -> dict:
    """What the automatic and derived arguments came to, for args.txt."""
    from train_eval import schedule_length

    total_steps, warmup = schedule_length(options, len(data.train))
    loaders = {"train": data.train, "val": data.val, "test": data.test}
    return {
        "output_dir": str(folder.path),
        "device": str(device),
        "sigma": args.sigma if cli.has_sigma(args) else None,
        "init_seed": seed_of(args, "init_seed"),
        "data_seed": seed_of(args, "data_seed"),
        **chosen,
        "image_size": data.image_size,
        "num_classes": data.num_classes,
        "mean": list(data.mean),
        "std": list(data.std),
        "samples": {name: loader.num_samples for name, loader in loaders.items() if loader},
        "total_steps": total_steps,
        "warmup_steps": warmup,
        "amp_dtype": str(options.amp_dtype or "off").removeprefix("torch."),
        "compile_mode": options.compile_mode or "off",
    }


def report_divergence(error: Exception, folder: RunFolder) -> int:
    line = f"[Diverged] {error}"
    folder.add_result(line)
    folder.add_metrics({"diverged": str(error)})
    print(f"error: the run diverged: {error}; try a lower --lr or more --warmup", file=sys.stderr)
    return 3


# --- evaluation alone ---


def test_only(args: argparse.Namespace, given: set[str], folder: RunFolder) -> int:
    """Evaluate a checkpoint, or the untrained network, on the whole test set."""
    from train_eval import Diverged, Trainer, load_checkpoint
    from utils import resolve_device, set_arithmetic

    device = resolve_device(args.device)
    set_arithmetic(device, args.deterministic)
    path = checkpoint_path(args, folder)
    settings = {}
    if path:
        checkpoint = load_checkpoint(path)
        settings = checkpoint["settings"]
        adopt_settings(args, given, settings, path)
    cli.check_together(args)
    model_options(args, known_image_size(args))
    options = build_options(args, device)
    print_notices(args, device)
    if path is None:
        print(f"Note: no --checkpoint, and none in {folder.path}: this is the untrained network")
    data = load_data(args, device, settings.get("normalisation"))
    print(data.description)
    shapes = {"num_classes": data.num_classes, "image_size": data.image_size}
    model = build_model(args, model_options(args, data.image_size), **shapes)
    if path:
        check_same_data(data, settings, path)
        load_weights(model, checkpoint["model"], path)
    task = Classification(args.criterion, args.label_smoothing)
    trainer = Trainer(model.to(device), task, device, options)
    what = str(path) if path else f"untrained {args.model}, {args.activation}"
    try:
        result = task.describe(trainer.evaluate(data.test, "Test"))
    except Diverged as error:
        raise UserError(f"{what}: {error}; these weights give no numbers") from None
    precision = str(options.amp_dtype or "float32").removeprefix("torch.")
    line = f"[Test] {result} | {what} | {args.criterion}, {precision} | {data.description}"
    print(line)
    home = folder if "output_dir" in given or path is None else RunFolder(path.parent)
    home.add_test_result(line)
    return 0


def checkpoint_path(args: argparse.Namespace, folder: RunFolder) -> Path | None:
    """--checkpoint, or the run folder's (which --config RUN/args.txt names too), or None.

    Raises:
        UserError: the run folder holds a run that left no checkpoint.
    """
    if args.checkpoint is not None:
        return Path(args.checkpoint)
    if args.output_dir is None and Path(args.config or "").name == RunFolder.ARGS:
        folder = RunFolder(Path(args.config).parent)
    if folder.checkpoint.exists():
        return folder.checkpoint
    if (folder.path / RunFolder.ARGS).exists():
        raise UserError(f"{folder.path} holds a run that left no checkpoint; give --checkpoint")
    return None


def adopt_settings(args: argparse.Namespace, given: set[str], settings: dict, path: Path) -> None:
    """Take model, shapes, data and precision from the checkpoint.

    Raises:
        UserError: a given flag says otherwise, or the checkpoint is not of a vision model.
    """
    if not {"args", "model_options", "class_names", "image_size"} <= settings.keys():
        raise UserError(f"--checkpoint {path}: not a checkpoint of a vision model")
    saved = settings["args"] | settings["model_options"]
    for name in MODEL_FLAGS:
        wanted = getattr(args, name)
        if name in given and wanted not in ("auto", saved[name]):
            raise UserError(
                f"--{name} {wanted} contradicts the checkpoint, which has {saved[name]}; "
                f"leave out --{name}"
            )
        setattr(args, name, saved[name])
    if args.resize not in (None, settings["image_size"]):
        raise UserError(
            f"--resize {args.resize} contradicts the checkpoint, which was trained on "
            f"{settings['image_size']} px; leave out --resize"
        )
    if not given & set(PRECISION_FLAGS):
        args.use_amp, args.amp_dtype = saved["use_amp"], saved["amp_dtype"]
    if "dataset" in given and args.dataset != saved["dataset"]:
        args.resize = settings["image_size"]
        return
    for name in DATA_FLAGS:
        if name not in given:
            setattr(args, name, saved[name])


def check_same_data(data, settings: dict, path: Path) -> None:
    """Refuse images of another size, or other classes, than the network was trained on.

    Raises:
        UserError: with what differs.
    """
    size, names = settings["image_size"], settings["class_names"]
    if data.image_size != size:
        raise UserError(
            f"--checkpoint {path}: was trained on {size} px, {data.name} has {data.image_size}; "
            f"give --resize {size}"
        )
    if list(data.class_names) != names:
        raise UserError(
            f"--checkpoint {path}: its {len(names)} classes ({names[0]}, ...) are not the "
            f"{data.num_classes} of {data.name} ({data.class_names[0]}, ...)"
        )


def load_weights(model, weights: dict, path: Path) -> None:
    """Copy a checkpoint's weights into `model`.

    Raises:
        UserError: they are another model's.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"--checkpoint {path}: its weights do not fit ({reason})") from None


if __name__ == "__main__":
    cli.run(main)
