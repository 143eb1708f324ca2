"""Training and evaluation never wait for the device: every recipe, every precision, every flag."""

from __future__ import annotations

import pytest

from null_cuda.short_runs import (
    PRECISIONS,
    RECIPES,
    assert_never_waits,
    unexpected,
)  # fmt: skip

RESNET, GPT2 = "digits_demo", "pydoc_demo"
# In fp16, which has a scaler beside; the others are slow tests.
KINDS = ("llama_124m", "wikitext103_gpt2")


def cases():
    """Yield recipes and precisions: two recipes in every precision, KINDS in fp16."""
    assert {*KINDS} <= {*RECIPES}
    for recipe in RECIPES:
        for precision in PRECISIONS:
            is_taken = recipe in (RESNET, GPT2) or (precision == "fp16" and recipe in KINDS)
            marks = [] if is_taken else [pytest.mark.slow]
            yield pytest.param(recipe, precision, marks=marks, id=f"{recipe}-{precision}")


@pytest.mark.parametrize(("recipe", "precision"), cases())
def test_recipes(recipe, precision, null_cuda, short_form, tmp_path):
    flags = [*short_form(recipe), *PRECISIONS[precision]]
    ran = null_cuda(*flags, "--device", "cuda", "--output_dir", tmp_path / "run")
    assert_never_waits(ran)
    # Kernels are compiled and loaded by then, those for an epoch's last, smaller batch too.
    assert not any(step["modules"] for step in ran.reports[0]["steps"][1:])


@pytest.fixture
def run(null_cuda, short_form, image_folder, tmp_path):
    """Run a recipe in short form with further flags, in mixed precision."""

    def run(recipe, *flags, **options):
        flags = [*short_form(recipe), "--use_amp", *flags]
        flags = [image_folder if flag == "IMAGES" else flag for flag in flags]
        return null_cuda(*flags, "--device", "cuda", "--output_dir", tmp_path / "run", **options)

    return run


STREAMED = [
    "--dataset", "imagenet", "--data_path", "IMAGES", "--resize", "32", "--batch_size", "8",
    "--augment",
]  # fmt: skip
MIXED = [
    "--augment", "--random_resized_crop", 0.3, "--color_jitter", "--rotate", 10,
    "--random_erasing", 0.5, "--erasing_mode", "pixel", "--repeated_augmentation", 3,
    "--mixup", 0.8, "--cutmix", 1, "--label_smoothing", 0.1,
]  # fmt: skip


def slow(recipe, flags, id):
    return pytest.param(recipe, flags, marks=pytest.mark.slow, id=id)


@pytest.mark.parametrize(
    ("recipe", "flags"),
    [
        slow(RESNET, ["--grad_accum_steps", 3, "--batch_size", 64], id="accumulated"),
        pytest.param(GPT2, ["--grad_accum_steps", 2, "--batch_size", 4], id="gpt2-accumulated"),
        pytest.param(RESNET, ["--class_balanced", 0.999], id="class-balanced"),
        slow(RESNET, ["--imb_factor", 0.1, "--batch_size", 80], id="long-tailed"),
        slow(RESNET, ["--criterion", "MSE", "--label_smoothing", 0.1], id="mse"),
        slow(RESNET, ["--color_jitter", "--noise", 0.1], id="augmented"),
        pytest.param(
            RESNET, [*MIXED, "--auto_augment", "rand-m9-mstd0.5-inc1", "--criterion", "BCE"],
            id="mixed-as-deit",
        ),
        slow(
            RESNET,
            [*MIXED, "--auto_augment", "trivialaugment", "--class_balanced", 0.999,
             "--batch_size", 512],
            id="mixed-as-torchvision",
        ),
        pytest.param(RESNET, ["--val_fraction", 0.2, "--scheduler", "plateau"], id="plateau"),
        pytest.param(RESNET, ["--learn_sigma", "--norm", "gn"], id="learned-sigma"),
        pytest.param(
            GPT2, ["--learn_sigma", "--save_for_backward", "output", "--inplace"], id="from-output"
        ),
        slow(RESNET, ["--activation", "PReLU"], id="prelu"),
        pytest.param(RESNET, [*STREAMED, "--num_workers", 0], id="streamed"),
        slow(RESNET, [*STREAMED, "--num_workers", 1], id="streamed-by-workers"),
        pytest.param(GPT2, ["--sample", 1, "--dropout", 0.1], id="sampled"),
        pytest.param(GPT2, ["--eval_stride", 8], id="eval-stride"),
        pytest.param(RESNET, ["--deterministic"], id="deterministic"),
        slow(RESNET, ["--ema", 0.99], id="ema"),
        pytest.param(
            RESNET, ["--ema", 0.9, "--ema_kind", "warmup", "--amp_dtype", "fp16"], id="ema-fp16"
        ),
    ],
)  # fmt: skip
def test_flags(recipe, flags, run):
    assert_never_waits(run(recipe, *flags))


@pytest.mark.parametrize(
    ("recipe", "flags"),
    [
        pytest.param(RESNET, [], id="resnet"),
        pytest.param(GPT2, ["--grad_accum_steps", 2, "--batch_size", 5], id="gpt2-accumulated"),
    ],
)  # fmt: skip
def test_two_processes(recipe, flags, run):
    ran = run(recipe, *flags, "--max_steps", 14, processes=2, devices=2)
    # DistributedDataParallel times its first steps, and then every hundredth.
    assert_never_waits(ran, steps=14, first=12)
    for rank in (0, 1):
        other = 1 - rank
        assert ran.of_devices("contexts", rank)[other] == 0
        assert ran.of_devices("allocations", rank)[other] == 0


def test_stats_wait_in_their_own_steps_alone(run):
    ran = run(RESNET, "--stats", 4)
    assert ran.codes == [0], ran.output
    steps = {
        event["number"]
        for event in ran.reports[0]["events"]
        if event["kind"] == "waits"
        and event["phase"] == "training"
        and event["number"] > 2
        and (event["file"], event["line"]) in unexpected(ran)
    }
    assert steps == {5, 9}


@pytest.mark.parametrize("recipe", [RESNET, GPT2])
def test_predictions_wait_once(recipe, run):
    """Their copies to the host run on, and are waited for at the end, however many they are."""
    ran = run(recipe, "--batch_size", 24, "--max_steps", 2)
    assert ran.codes == [0], ran.output
    once = {("pipelines/images/loaders.py", "order = order.to(self._home)")}
    waits = {place: n for place, n in ran.waits("predictions").items() if place not in once}
    assert sum(waits.values()) == 1, waits
