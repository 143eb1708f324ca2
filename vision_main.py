"""Train and evaluate a vision model with any activation function.

    python vision_main.py --model resnet20 --activation ZiLU --dataset cifar10

What is vision's own: images, networks for them, and the task of classifying. program.py and the
loop (train_eval.py) do the rest. torch is imported inside the functions: flags are checked, and
--help answers, before it is loaded.
"""

import argparse
import copy
from pathlib import Path

import cli
import dataset
import models
from training import processes, program
from utils import UserError, one_line_warnings, usable_cpus

FLAGS = cli.VISION_FLAGS


def main(argv: list[str] | None = None) -> int:
    return program.main(Vision(), __doc__.splitlines()[0], argv)


class Vision(program.Program):
    """Images."""

    name, kind, flags = "vision_main.py", "vision", FLAGS
    model_flags = (
        "model", "activation", "sigma", "learn_sigma", "stem", "head", "patch_size", "norm",
        "criterion",
    )  # fmt: skip
    data_flags = (
        "dataset", "data_path", "resize", "val_fraction", "imb_factor", "imb_type", "split_seed",
    )  # fmt: skip
    test_each_epoch = True  # as published results have it

    def check(self, args):
        check_long_tail(args)
        check_synchronised_norms(args)
        model_options(args, known_image_size(args))

    def load_data(self, args, device, settings, prepared):
        return dataset.load_images(
            args.dataset,
            args.data_path,
            batch_size=args.batch_size,
            resize=args.resize,
            augment=args.augment,
            color_jitter=args.color_jitter,
            noise=args.noise,
            val_fraction=args.val_fraction,
            imb_factor=args.imb_factor,
            imb_type=args.imb_type,
            data_seed=program.seed_of(args, "data_seed"),
            split_seed=args.split_seed,
            device=device,
            num_workers=num_workers(args),
            normalisation=settings.get("normalisation"),
            rank=processes.rank(),
            world_size=processes.world_size(),
        )

    def build_model(self, args, data):
        return build_model(args, data.num_classes, data.image_size)

    def check_training(self, args, model, data):
        check_shares(args, data.train)
        check_norms(args, model, data.train)
        if args.sync_batchnorm and processes.world_size() > 1:
            from training.sync_batchnorm import synchronise_norms

            with program.user_errors():
                synchronise_norms(model, next(model.parameters()).device)

    def task(self, args, data):
        beta = args.class_balanced
        return Classification(
            args.criterion,
            args.label_smoothing,
            None if beta is None else class_balanced_weights(data.class_sizes, beta),
            shows_balanced=is_long_tailed(args),
        )

    def resolved(self, args, data):
        return {
            **model_options(args, data.image_size),
            "image_size": data.image_size,
            "num_classes": data.num_classes,
            "mean": list(data.mean),
            "std": list(data.std),
            "samples": samples(data),
            **unequal_classes(data),
        }

    def settings(self, args, data):
        return {
            "model_options": model_options(args, data.image_size),
            "num_classes": data.num_classes,
            "image_size": data.image_size,
            "class_names": list(data.class_names),
            "samples": samples(data),
            "data_digest": data.digest,
            "normalisation": [list(data.mean), list(data.std)],
        }

    def adopt(self, args, given, settings, other_data):
        size = settings["image_size"]
        if args.resize not in (None, size):
            raise UserError(
                f"--resize {args.resize} contradicts the checkpoint, which was trained on "
                f"{size} px; leave out --resize"
            )
        if other_data:
            args.resize = size

    def check_data(self, data, settings, path):
        check_same_data(data, settings, path)

    def measure(self, args):
        return args.criterion


def check_synchronised_norms(args: argparse.Namespace) -> None:
    """Refuse to synchronise norms that are none, or need it not.

    Raises:
        UserError: with the remedy.
    """
    if args.sync_batchnorm and args.norm in ("gn", "none"):
        raise UserError(
            f"--sync_batchnorm: --norm {args.norm} has no BatchNorm; leave out --sync_batchnorm"
        )


def check_long_tail(args: argparse.Namespace) -> None:
    """Refuse flags of long-tailed sets that cannot be together.

    Raises:
        UserError: with the remedy.
    """
    if args.imb_type != "exp" and not is_long_tailed(args):
        raise UserError("--imb_type has no effect without --imb_factor; add --imb_factor 0.01")
    if args.class_balanced is not None and args.criterion != "CrossEntropy":
        raise UserError(
            f"--class_balanced is for --criterion CrossEntropy, not {args.criterion}; leave one out"
        )


def is_long_tailed(args: argparse.Namespace) -> bool:
    return args.imb_factor is not None or args.dataset in dataset.LONG_TAILED


def num_workers(args: argparse.Namespace) -> int | None:
    """--num_workers, or by default this process's share of the machine's processors."""
    if args.num_workers is not None or processes.world_size() == 1:
        return args.num_workers
    return max(1, usable_cpus() // processes.local_world_size())


def unequal_classes(data) -> dict[str, list[int]]:
    """Training images of each class, where they are not all as many: a line of args.txt."""
    return {"class_sizes": data.class_sizes} if len(set(data.class_sizes)) > 1 else {}


def samples(data) -> dict[str, int]:
    """Images in every split there is."""
    loaders = {"train": data.train, "val": data.val, "test": data.test}
    return {name: loader.num_samples for name, loader in loaders.items() if loader}


def known_image_size(args: argparse.Namespace) -> int:
    """The images' size as far as flags tell; for a folder of images, one that fits any model."""
    size = args.resize or dataset.IMAGE_SIZES.get(args.dataset)
    return size or (224 if args.patch_size == "auto" else args.patch_size)


def model_options(args: argparse.Namespace, image_size: int) -> dict:
    """The model's own options, every auto resolved.

    Raises:
        UserError: an option that the model does not have, or images too small for it.
    """
    with program.user_errors(), one_line_warnings():
        return models.resolve_options(
            args.model, image_size, args.stem, args.head, args.patch_size, args.norm
        )


def build_model(args: argparse.Namespace, num_classes: int, image_size: int):
    import torch

    from utils import seed_everything

    seed_everything(program.seed_of(args, "init_seed"))
    activation, options = program.activation_factory(args), model_options(args, image_size)
    with program.user_errors(), one_line_warnings():
        model = models.build_model(args.model, activation, num_classes, image_size, **options)
    program.scale_weights(args, model)
    return model.to(memory_format=torch.channels_last)


def batch_sizes(loader) -> set[int]:
    """Of an epoch: the full one, and the last one's."""
    return {min(loader.batch_size, loader.num_samples), loader.num_samples % loader.batch_size} - {
        0
    }


def check_shares(args: argparse.Namespace, loader) -> None:
    """Refuse a batch that leaves a process out of what --sync_batchnorm adds up.

    Raises:
        UserError: with the remedy.
    """
    smallest = min(batch_sizes(loader))
    if args.sync_batchnorm and smallest < processes.world_size():
        raise UserError(
            f"--sync_batchnorm: --batch_size {loader.batch_size} gives a batch of {smallest} "
            f"images, too few for {processes.world_size()} processes; choose another size"
        )


def check_norms(args: argparse.Namespace, model, loader) -> None:
    """Refuse batches of which a process has one image, where BatchNorm would see a single value.

    Raises:
        UserError: with the remedy.
    """
    import torch

    parts = 1 if args.sync_batchnorm else processes.world_size()
    if min(batch_sizes(loader)) // parts > 1:
        return
    images, _ = next(iter(loader.batches(0)))
    try:
        with torch.no_grad():
            copy.deepcopy(model).train()(images[:1])
    except ValueError:
        raise UserError(
            f"--batch_size {loader.batch_size}: gives a process a batch of one image, whose last "
            "feature maps are one pixel, which BatchNorm cannot normalise; choose another size"
        ) from None


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


def class_balanced_weights(sizes: list[int], beta: float) -> list[float]:
    """Weights of the classes, from their numbers of training images: (1 - beta) / (1 - beta^n),
    scaled to a mean of 1 (Cui et al. 2019, arXiv 1901.05555). 0 weighs all alike, near 1 by 1 / n.
    """
    weights = [(1 - beta) / (1 - beta**size) if size else 0.0 for size in sizes]
    return [weight * len(weights) / sum(weights) for weight in weights]


class Classification:
    """Images into classes: the loss, and the share of images with the right class among the first
    one and first five; in evaluation also the mean over the classes of the share of right ones.

    Args:
        criterion: "CrossEntropy", or "MSE" between the outputs and one-hot targets.
        label_smoothing: of the training targets; evaluation has none.
        class_weights: of the training loss of an image, by its class.
        shows_balanced: whether lines of results have the balanced accuracy.
    """

    unit = "images"

    def __init__(
        self,
        criterion: str,
        label_smoothing: float = 0.0,
        class_weights: list[float] | None = None,
        shows_balanced: bool = False,
    ):
        self.criterion, self.label_smoothing = criterion, label_smoothing
        self.class_weights, self.shows_balanced = class_weights, shows_balanced

    def __call__(self, model, batch):
        import torch
        from torch.nn import functional as F

        images, targets = batch
        logits = model(images).float()
        loss = self._loss(logits, targets, model.training)
        guesses = logits.detach().topk(min(5, logits.shape[1])).indices
        right = guesses == targets[:, None]
        count = len(images)
        counts = [right[:, 0].sum(), right.sum(), right.new_full((), count, dtype=torch.int64)]
        sums = torch.cat([loss.detach()[None] * count, torch.stack(counts)])
        if not torch.is_grad_enabled():  # an evaluation; an empty share is trained on in that mode
            classes = F.one_hot(targets, logits.shape[1])
            sums = torch.cat([sums, classes[right[:, 0]].sum(0), classes.sum(0)])
        return loss, sums

    def _loss(self, logits, targets, training: bool):
        from torch.nn import functional as F

        smoothing = self.label_smoothing if training else 0.0
        if self.criterion == "MSE":
            one_hot = F.one_hot(targets, logits.shape[1]) * (1 - smoothing)
            return F.mse_loss(logits, one_hot + smoothing / logits.shape[1])
        if self.class_weights is None or not training:
            return F.cross_entropy(logits, targets, label_smoothing=smoothing)
        losses = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
        return (losses * logits.new_tensor(self.class_weights)[targets]).mean()

    def metrics(self, sums: list[float], loader) -> dict[str, float]:
        loss, top1, top5, count, *by_class = sums
        metrics = {
            "loss": loss / count,
            "top1": 100 * top1 / count,
            "top5": 100 * top5 / count,
            "count": int(count),
        }
        if by_class:
            right, of = by_class[: len(by_class) // 2], by_class[len(by_class) // 2 :]
            shares = [r / n for r, n in zip(right, of, strict=True) if n]
            metrics["balanced"] = 100 * sum(shares) / len(shares)
        return metrics

    def describe(self, metrics: dict[str, float]) -> str:
        text = (
            f"Loss: {metrics['loss']:.8f} "
            f"Accuracy: Top1: {metrics['top1']:.4f}%, Top5: {metrics['top5']:.4f}%"
        )
        if self.shows_balanced and "balanced" in metrics:
            text += f", Balanced: {metrics['balanced']:.4f}%"
        return text

    def score(self, metrics: dict[str, float]) -> float:
        return metrics["top1"]

    def predictions(self, model, batch):
        """logits (B, classes) in fp16, and labels (B,)."""
        images, targets = batch
        return {"logits": model(images).float().clamp(-65504, 65504).half(), "labels": targets}

    def flops(self, model) -> None:
        """Not counted for convolutional networks."""


if __name__ == "__main__":
    cli.run(main)
