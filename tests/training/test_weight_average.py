"""The average of the weights: against timm's, torch's and torchvision's; resumed; skipped steps."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from helpers.close_runs import assert_close
from helpers.resumable import KILL, TERM, TRY_AGAIN, VISION, assert_same_run, results
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import language_main
import vision_main
from cli.run import RunConfig
from cli.training import TrainingConfig
from run_folder.checkpoint import load_checkpoint
from run_folder.folder import RunFolder
from run_folder.metrics import metrics_in
from run_folder.records import read_records
from run_folder.result_lines import records_of
from tasks.classification import Classification
from train_eval import Trainer
from training.evaluation import evaluate
from training.objective import Objective
from training.weight_average import Averaging, WeightAverage

CPU = torch.device("cpu")


class Images:
    """The same images every epoch; the last batch is smaller."""

    batch_size, num_samples = 8, 28

    def __init__(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.randn(28, 3, 6, 6, generator=generator)
        self.targets = torch.randint(0, 5, (28,), generator=generator)

    def __len__(self):
        return 4

    def batches(self, epoch, first=0):
        pairs = zip(self.images.split(8), self.targets.split(8), strict=True)
        return iter(list(pairs)[first:])


class Data:
    def __init__(self, also=None):
        self.train, self.val, self.test, self.also = Images(), Images(1), Images(2), also or {}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(64, 5)
    )


def trainer_of(folder, precision=(None, None), **flags):
    folder.mkdir(parents=True, exist_ok=True)
    config = TrainingConfig(**{"num_epochs": 3, "lr": 0.03, "optimizer": "sgd"} | flags)
    objective = Objective(network(), Classification("CrossEntropy"), CPU, *precision)
    return Trainer(objective, Data(), config, RunConfig(), RunFolder(folder), {})


def train(trainer, steps):
    """Make steps, in epochs of four."""
    trainer.model.train()
    for _ in range(steps):
        place = trainer.state.place
        trainer.train_step([next(trainer.data.train.batches(place.epoch, place.steps))])
        yield
        place.steps %= 4


def floats(state):
    return {name: value for name, value in state.items() if value.is_floating_point()}


def assert_equal(found, wanted, **tolerance):
    assert floats(found).keys() == floats(wanted).keys()
    for name, value in floats(wanted).items():
        torch.testing.assert_close(found[name], value, **tolerance or {"rtol": 0, "atol": 0})


# --- the average ---


def test_the_average_is_timms_and_torchs_after_200_steps(tmp_path):
    """timm copies BatchNorm's counter of batches as we do; torch averages it, in whole numbers."""
    trainer = trainer_of(tmp_path, ema=0.97)
    timms = ModelEmaV3(trainer.model, decay=0.97)
    torchs = AveragedModel(trainer.model, use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(0.97))
    for step, _ in enumerate(train(trainer, 200), 1):
        timms.update(trainer.model, step=step)
        torchs.update_parameters(trainer.model)
    found = trainer.average.state_dict()
    assert found["updates"] == 200
    assert_equal(found["model"], timms.module.state_dict())
    assert_equal(found["model"], torchs.module.state_dict())
    assert found["model"]["1.num_batches_tracked"] == 200
    drift = (found["model"]["4.weight"] - trainer.model[4].weight).abs().max()
    assert drift > 1e-4  # or the comparison says nothing


def test_the_warm_up_is_timms(tmp_path):
    trainer = trainer_of(tmp_path, ema=0.97, ema_kind="warmup")
    timms = ModelEmaV3(trainer.model, decay=0.97, use_warmup=True)
    for step, _ in enumerate(train(trainer, 300), 1):  # 0.97 is reached at the 192nd
        timms.update(trainer.model, step=step)
        if step in (1, 2, 100, 300):
            wanted = timms.module.state_dict()
            assert_equal(trainer.average.named, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_torchvisions_recipe_as_its_reference_has_it(tmp_path, accumulated):
    """references/classification: train.py's adjusted decay, and train_one_epoch's resets."""
    trainer = trainer_of(
        tmp_path, ema=0.999, ema_every=3, ema_kind="torchvision", warmup="2ep", num_epochs=5,
        grad_accum_steps=accumulated,
    )  # fmt: skip
    alpha = min(1.0, (1.0 - 0.999) * (8 * accumulated * 3 / 5))
    assert trainer.average.averaging.share == pytest.approx(alpha)
    if accumulated == 2:
        return
    model_ema = AveragedModel(
        trainer.model,
        avg_fn=lambda average, value, _: (1.0 - alpha) * average + alpha * value,
        use_buffers=True,
    )
    steps = train(trainer, 20)
    for epoch in range(5):
        for i in range(4):
            next(steps)
            if i % 3 == 0:
                model_ema.update_parameters(trainer.model)
                if epoch < 2:
                    model_ema.n_averaged.fill_(0)
        wanted = model_ema.module.state_dict()
        assert_equal(trainer.average.named, wanted, rtol=1e-5, atol=1e-7)
    assert TrainingConfig(ema=0.9, ema_kind="torchvision").bound_to_length


@pytest.mark.parametrize("kind", ["plain", "warmup"])
def test_steps_that_the_scaler_skips_do_not_count(tmp_path, kind):
    """Those that it makes count as without a scaler, the first of them too."""
    trainer = trainer_of(
        tmp_path, (torch.float16, None), ema=0.9, ema_kind=kind, clip_grad_norm=0.0
    )
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    reference = WeightAverage(trainer.model, trainer.average.averaging)
    made, scale = [], trainer.scaler._init_scale
    for step, _ in enumerate(train(trainer, 60)):
        if trainer.scaler.get_scale() >= scale:
            reference.after_step(step, 0)
            made.append(step)
        if step % 20 == 0:
            trainer.scaler.update(2.0**24)  # the next steps overflow again
        scale = trainer.scaler.get_scale()
    assert 0 not in made
    assert 5 < len(made) < 55
    assert trainer.average.state_dict()["updates"] == len(made)
    assert_equal(trainer.average.named, reference.named, rtol=1e-5, atol=1e-6)


def test_tied_weights_are_averaged_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    average = WeightAverage(model, Averaging(0.5))
    for step, value in enumerate((1.0, 3.0)):
        with torch.no_grad():
            model[0].weight.fill_(value)
        average.after_step(step, step)
    assert average.named["0.weight"].eq(2).all()
    assert average.named["1.weight"].eq(2).all()
    other = WeightAverage(copy.deepcopy(model), Averaging(0.5))
    other.load_state_dict(copy.deepcopy(average.state_dict()))
    with other.evaluated():
        assert other.model[1].weight.eq(2).all()
    assert other.model[1].weight.eq(3).all()


# --- in a run ---


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The trainers of a run with an average and of one without, and their records."""
    folder, found = tmp_path_factory.mktemp("fitted"), {}
    for name, decay in (("ema", 0.9), ("without", None)):
        trainer = trainer_of(folder / name, ema=decay)
        trainer.fit()
        found[name] = trainer, read_records(folder / name)
    return found


def test_the_average_changes_nothing_of_the_run(fitted):
    (trainer, records), (plain, plain_records) = fitted["ema"], fitted["without"]
    assert_equal(trainer.model.state_dict(), plain.model.state_dict())
    for mine, theirs in zip(records, plain_records, strict=True):
        assert {split: mine[split] for split in ("train", "val", "test")} == {
            split: theirs[split] for split in ("train", "val", "test")
        }
        assert "test_ema" not in theirs
    assert not list(plain.folder.path.glob("*ema*"))
    assert "ema" not in load_checkpoint(plain.folder.checkpoint)


def test_both_are_evaluated_predicted_and_saved(fitted):
    trainer, records = fitted["ema"]
    folder = trainer.folder.path
    saved = load_checkpoint(folder / "checkpoint.pt")
    for key, ending in (("model", ""), ("ema", "_ema")):
        model = network()
        model.load_state_dict(saved[key]["model"] if ending else saved[key])
        objective = Objective(model, trainer.task, CPU)
        for split in ("val", "test"):
            wanted = evaluate(objective, getattr(trainer.data, split), split)
            assert records[-1][split + ending] == pytest.approx(wanted)
        arrays = np.load(folder / f"predictions{ending}.npz")
        with torch.no_grad():
            logits = model.eval()(trainer.data.test.images)
        assert arrays["logits"] == pytest.approx(logits.numpy(), abs=2e-3)
        assert arrays["labels"].tolist() == trainer.data.test.targets.tolist()
    assert records[-1]["test_ema"]["loss"] != records[-1]["test"]["loss"]


def test_lines_of_results_have_both(fitted):
    trainer, records = fitted["ema"]
    lines = (trainer.folder.path / "train_eval_results.txt").read_text().splitlines()
    for found, wanted in zip(records_of(lines), records, strict=True):
        for split in ("val", "test", "val_ema", "test_ema"):
            assert found[split]["loss"] == pytest.approx(wanted[split]["loss"], abs=1e-8)
    best = max(records, key=lambda record: record["val_ema"]["top1"])
    (line,) = [x for x in lines if x.startswith("[Summary] Best validation of the averaged")]
    assert f"epoch {best['epoch']:03d} | [Val EMA] Loss: {best['val_ema']['loss']:.8f}" in line


def test_an_average_that_gives_no_numbers_ends_no_run(tmp_path):
    trainer = trainer_of(tmp_path, ema=0.9, num_epochs=1)
    trainer.average.named["1.running_var"].fill_(math.inf)
    trainer.average.named["4.bias"].fill_(math.inf)
    trainer.average.updates = 1  # so that the next update does not copy
    trainer.fit()
    (record,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert record["test_ema"]["loss"] is None
    assert math.isfinite(record["test"]["loss"])


@pytest.mark.slow
def test_compiled_code_evaluates_the_average_too(tmp_path, fitted):
    torch._dynamo.reset()
    trainer = trainer_of(tmp_path, (None, "default"), ema=0.9)
    trainer.fit()
    record, wanted = read_records(tmp_path)[-1], fitted["ema"][1][-1]
    for split in ("test", "test_ema"):
        assert record[split]["loss"] == pytest.approx(wanted[split]["loss"], rel=1e-3)


# --- the programs ---


FLAGS = (*VISION, "--ema", "0.8", "--ema_every", "2", "--num_epochs", "2")


@pytest.fixture(scope="module")
def run(forked, image_folder):
    def run(folder, *flags, fault=None, processes=1):
        where = ("--data_path", image_folder, "--output_dir", folder)
        faults = {0: fault} if fault else {}
        return forked("vision_main", *FLAGS, *where, *flags, faults=faults, processes=processes)

    return run


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    codes, output = run(folder)
    assert codes == [0], output
    return folder


@pytest.mark.parametrize("fault", [("step", KILL, 8), ("evaluation", TERM, 7)])
def test_a_killed_run_ends_with_the_same_average(run, whole, tmp_path, fault):
    """In the middle of an epoch, and while averaged weights stand in the network's place."""
    folder = tmp_path / "run"
    codes, output = run(folder, fault=fault)
    assert codes == [-KILL if fault[1] == KILL else TRY_AGAIN], output
    codes, output = run(folder, "--resume")
    assert codes == [0], output
    assert_same_run(folder, whole)
    mine, theirs = (load_checkpoint(each / "checkpoint.pt")["ema"] for each in (folder, whole))
    assert mine["updates"] == theirs["updates"] == 6  # after steps 1, 3 and 5 of two epochs
    assert_equal(mine["model"], theirs["model"])
    predictions = [np.load(each / "predictions_ema.npz")["logits"] for each in (folder, whole)]
    assert np.array_equal(*predictions)


def test_test_only_evaluates_both(run, whole):
    before = results(whole)
    codes, output = run(whole, "--test_only")
    assert codes == [0], output
    lines = (whole / "test_results.txt").read_text().splitlines()
    final = before[1][-1]
    for line, split in zip(lines, ("test", "test_ema"), strict=True):
        assert line.startswith("[Test EMA] " if split == "test_ema" else "[Test] ")
        found = metrics_in(line)
        assert found["loss"] == pytest.approx(final[split]["loss"], rel=1e-5)
    assert results(whole) == before


@pytest.mark.parametrize("flags", [(), ("--init_ema",)])
def test_a_run_starts_from_either_weights(run, whole, tmp_path, flags):
    start = ("--init_from", whole, "--max_steps", "1", "--lr", "1e-30", "--weight_decay", "0")
    codes, output = run(tmp_path / "run", *start, *flags)
    assert codes == [0], output
    assert ("its trained weights; --init_ema takes" in output) == (not flags)
    mine, theirs = (load_checkpoint(x / "checkpoint.pt") for x in (tmp_path / "run", whole))
    wanted = theirs["ema"]["model"] if flags else theirs["model"]
    names = [name for name in wanted if name.endswith("weight")]
    assert_equal(*({name: state[name] for name in names} for state in (mine["model"], wanted)))
    first = names[0]
    assert torch.equal(wanted[first], theirs["model"][first]) == (not flags)


@pytest.mark.slow
def test_several_processes_have_one_average(run, tmp_path):
    """Norms that do not see the batch: two processes have what one has, and all of them agree."""
    flags = ("--norm", "gn", "--max_steps", "4", "--save_interval", "1ep")
    for count in (1, 2):
        codes, output = run(tmp_path / str(count), *flags, processes=count)
        assert codes == [0] * count, output
    assert_close(tmp_path / "2", tmp_path / "1", 2e-5)
    records = [read_records(tmp_path / str(count)) for count in (1, 2)]
    for mine, theirs in zip(*records, strict=True):
        assert mine["test_ema"]["loss"] == pytest.approx(theirs["test_ema"]["loss"], rel=2e-5)
    averages = [load_checkpoint(tmp_path / x / "checkpoint.pt")["ema"]["model"] for x in "12"]
    assert_equal(*averages, rtol=1e-2, atol=2e-4)


@pytest.mark.parametrize(
    ("module", "flags", "words"),
    [
        (vision_main, ["--ema", "1"], "--ema: expected a number of at least 0 and below 1"),
        (vision_main, ["--init_ema"], "--init_ema is for --init_from"),
        (vision_main, ["--ema_every", "32"], "no effect without --ema"),
        (vision_main, ["--ema", "0", "--ema_kind", "warmup"], "no effect without --ema"),
        (
            language_main,
            [
                "--ema",
                "0.9",
                "--optimizer",
                "schedulefree/AdamWScheduleFree",
                "--scheduler",
                "none",
            ],
            "evaluates an average of the weights already",
        ),
    ],
)
def test_mistakes(mistake_in, module, flags, words):
    assert words in mistake_in(module, *flags)
