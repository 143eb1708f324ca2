"""The loop against plain loops, torch's own schedulers and direct computations."""

import copy
import json
import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from sklearn.metrics import top_k_accuracy_score
from torch import nn
from torch.nn import functional

import vision_main
from cli.run import RunConfig
from cli.training import TrainingConfig
from models.activation import ZiLU
from run_folder.checkpoint import load_checkpoint
from run_folder.folder import RunFolder
from run_folder.result_lines import moment
from tasks.classification import Classification
from train_eval import Trainer
from training import live_progress, objective, optimization, run_log
from training.devices import peak_flops
from training.diagnostics.watch import Watch
from training.evaluation import Diverged, evaluate
from training.model_text import activation_paths, describe_model
from training.objective import Objective
from training.optimization import parameter_groups
from training.random_state import random_state, set_random_state
from training.schedule import Plateau, Schedule
from utils import UserError
from zilu import replace_activations

CPU = torch.device("cpu")
TRAINING = TrainingConfig(
    num_epochs=3,
    clip_grad_norm=1.0,
    optimizer="adamw",
    lr=1e-2,
    weight_decay=0.1,
    momentum=0.9,
    scheduler="cosine",
    warmup="1ep",
    lr_step=20,
    lr_gamma=0.1,
)


class ListLoader:
    """The same samples every epoch, in fixed order; the last batch is smaller."""

    def __init__(self, count=50, batch_size=16, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.randn(count, 3, 8, 8, generator=generator)
        self.targets = torch.randint(0, 7, (count,), generator=generator)
        self.batch_size, self.num_samples = batch_size, count

    def __len__(self):
        return math.ceil(self.num_samples / self.batch_size)

    def batches(self, epoch, first=0):
        images, targets = (
            part.split(self.batch_size)[first:] for part in (self.images, self.targets)
        )
        return zip(images, targets, strict=True)


@dataclass
class Data:
    train: ListLoader
    test: ListLoader
    val: ListLoader | None = None
    also: dict = field(default_factory=dict)


def tiny_network(seed=0, activation=nn.ReLU):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        activation(),
        nn.Flatten(),
        nn.Linear(288, 7),
    )


def trainer_of(folder, model, data, task=None, precision=(None, None), device=CPU, **changes):
    """A trainer; `precision` is the autocast dtype and the mode of torch.compile."""
    task = task or Classification("CrossEntropy")
    run = RunConfig(save_interval="1ep")
    parts = Objective(model, task, device, *precision), data, replace(TRAINING, **changes), run
    return Trainer(*parts, RunFolder(folder), {})


def fit(folder, model=None, data=None, task=None, amp_dtype=None, compile_mode=None, **changes):
    model = model or tiny_network()
    data = data or Data(ListLoader(), ListLoader(30, seed=1))
    folder.mkdir(parents=True, exist_ok=True)
    trainer = trainer_of(folder, model, data, task, (amp_dtype, compile_mode), **changes)
    trainer.fit()
    records = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    return trainer, records


# --- progress.json, by an injected clock ---


class Timed:
    """A trainer whose steps take `seconds`, with what it wrote and what it should have read."""

    def __init__(self, folder, monkeypatch, seconds, count=320):
        self.now, self.sums, self.written, self.read = 50.0, [], [], []
        monkeypatch.setattr(live_progress, "perf_counter", lambda: self.now)
        data = Data(ListLoader(count), ListLoader(30, seed=1))
        folder.mkdir(exist_ok=True)
        self.trainer = trainer_of(folder, tiny_network(), data, num_epochs=1)
        train_step, metrics = self.trainer.train_step, self.trainer._training_metrics

        def step(batches):
            ((images, targets),) = batches
            with torch.no_grad():
                logits = copy.deepcopy(self.trainer.model)(images)
                loss = nn.functional.cross_entropy(logits, targets, reduction="sum")
            self.sums.append((loss.item(), len(images)))
            self.now += seconds
            return train_step(batches)

        def training_metrics():
            self.read.append(self.trainer.state.step)
            return metrics()

        self.trainer.train_step, self.trainer._training_metrics = step, training_metrics
        self.trainer.folder.write_progress = self.written.append

    def loss(self, first, last):
        """The mean over steps from `first` to `last`, from 1."""
        losses, counts = zip(*self.sums[first - 1 : last], strict=True)
        return sum(losses) / sum(counts)


def test_slow_steps_show_the_loss_and_the_rate_within_seconds(tmp_path, monkeypatch):
    timed = Timed(tmp_path, monkeypatch, seconds=3.0)
    timed.trainer.fit()
    steps = [each for each in timed.written if each["phase"] == "training"]
    assert [each["step"] for each in steps] == list(range(1, 21))
    # After the first step, and then as soon as ten seconds have passed.
    assert timed.read == [1, 6, 11, 16, 20]
    for each in steps[:-1]:
        last = max(step for step in timed.read if step <= each["step"])
        assert each["loss"] == pytest.approx(timed.loss(1, last), rel=1e-5)
        assert each["images_per_second"] == pytest.approx(16 / 3)


def test_quick_steps_are_read_no_more_often_than_before(tmp_path, monkeypatch):
    timed = Timed(tmp_path, monkeypatch, seconds=0.1, count=16 * 120)
    timed.trainer.fit()
    assert timed.read == [1, 50, 100, 120]


def test_a_resumed_run_shows_its_loss_at_once(tmp_path, monkeypatch):
    class Enough(Exception):
        pass

    first = Timed(tmp_path / "a", monkeypatch, seconds=3.0)
    batches, saved = first.trainer.data.train.batches, []

    def four(epoch, start=0):
        for number, batch in enumerate(batches(epoch, start)):
            if number == 4:
                saved.append(copy.deepcopy(first.trainer.state_dict()))
                raise Enough
            yield batch

    first.trainer.data.train.batches = four
    with pytest.raises(Enough):
        first.trainer.fit()
    again = Timed(tmp_path / "b", monkeypatch, seconds=3.0)
    again.trainer.load_state_dict(saved[0])
    again.sums = first.sums
    again.trainer.fit()
    assert again.written[0]["step"] == again.read[0] == 5
    assert again.written[0]["loss"] == pytest.approx(again.loss(1, 5), rel=1e-5)
    assert again.written[0]["images_per_second"] == pytest.approx(16 / 3)


# --- against plain loops ---


def plain_loop(model, loader, optimizer, factors, clip):
    """A textbook loop; the mean loss of each epoch, per sample."""
    losses = []
    steps = iter(range(10**9))
    for _ in range(3):
        total = 0
        for images, targets in loader.batches(0):
            factor = factors[next(steps)]
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * factor
            loss = nn.functional.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            total += loss.item() * len(images)
        losses.append(total / loader.num_samples)
    return losses


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "nesterov"])
@pytest.mark.parametrize("clip", [0, 0.5])
def test_training_equals_a_plain_loop(tmp_path, optimizer, clip):
    model = tiny_network()
    reference = copy.deepcopy(model)
    nesterov = optimizer == "nesterov"
    flags = {"optimizer": "sgd" if nesterov else optimizer, "nesterov": nesterov}
    _, records = fit(tmp_path, model, clip_grad_norm=clip, weight_decay=0.1, **flags)
    classes = {
        "nesterov": lambda groups: torch.optim.SGD(groups, lr=1e-2, momentum=0.9, nesterov=True),
        "adamw": torch.optim.AdamW,
        "adam": torch.optim.Adam,
        "sgd": lambda groups: torch.optim.SGD(groups, lr=1e-2, momentum=0.9),
    }
    weights = [reference[0].weight, reference[4].weight]
    others = [*reference[1].parameters(), reference[4].bias]
    groups = [
        {"params": weights, "weight_decay": 0.1},
        {"params": others, "weight_decay": 0.0},
    ]
    schedule = Schedule(TrainingConfig(lr=1.0, scheduler="cosine", warmup="4"), 4, 12)
    factors = [schedule.rate(step) for step in range(12)]
    losses = plain_loop(reference, ListLoader(), classes[optimizer](groups), factors, clip)
    assert [r["train"]["loss"] for r in records] == pytest.approx(losses, rel=1e-5)
    for mine, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_metrics_are_per_sample_with_an_uneven_last_batch():
    model = tiny_network().eval()
    loader = ListLoader(count=37, batch_size=16)
    metrics = evaluate(Objective(model, Classification("CrossEntropy"), CPU), loader, "Test")
    with torch.no_grad():
        logits = model(loader.images)
    classes = range(7)
    loss = nn.functional.cross_entropy(logits, loader.targets).item()
    assert metrics["loss"] == pytest.approx(loss, rel=1e-6)
    for key, k in (("top1", 1), ("top5", 5)):
        share = top_k_accuracy_score(loader.targets, logits, k=k, labels=classes)
        assert metrics[key] == pytest.approx(100 * share, abs=1e-9)
    assert metrics["count"] == 37


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_criteria_against_direct_computations(smoothing):
    model = tiny_network()
    loader = ListLoader(12, 12)
    batch = next(iter(loader.batches(0)))
    logits = model(batch[0])
    smooth = torch.full((12, 7), smoothing / 7)
    smooth[torch.arange(12), batch[1]] += 1 - smoothing
    wanted = {
        "CrossEntropy": -(smooth * logits.log_softmax(1)).sum(1).mean(),
        "MSE": ((logits - smooth) ** 2).mean(),
    }
    for criterion, loss in wanted.items():
        task = Classification(criterion, smoothing)
        model.train()
        torch.testing.assert_close(task(model, batch)[0], loss)
        # Evaluation is not smoothed, so that its loss compares across settings.
        model.eval()
        plain = Classification(criterion)
        assert torch.equal(task(model, batch)[0], plain(model, batch)[0])


class EmptyShares(ListLoader):
    """Yield the shares of a rank that has nothing of any batch."""

    def batches(self, epoch, first=0):
        for images, targets in super().batches(epoch, first):
            yield images[:0], targets[:0]


def test_the_placeholder_of_an_empty_share_wakes_no_channel():
    model = tiny_network()
    with torch.no_grad():
        model[1].bias.fill_(1.0)  # above 0 for an image of zeros
    watch = Watch(model, {"2": model[2]}, CPU)
    network = Objective(model, Classification("CrossEntropy"), CPU)
    for loader, alive in ((EmptyShares(), 0), (ListLoader(), 8)):
        batches = list(loader.batches(0))
        with torch.no_grad(), watch.channels(lambda: network.has_data) as living:
            for batch in batches:
                with network.stand_in(batch) as inputs:
                    network(inputs, False)
        assert living["2"].tolist() == [bool(alive)] * 8


def test_nan_outputs_are_never_right():
    class Nan(nn.Module):
        def forward(self, images):
            return images.new_full((len(images), 7), math.nan)

    with pytest.raises(Diverged, match="the test loss is nan"):
        evaluate(Objective(Nan(), Classification("CrossEntropy"), CPU), ListLoader(), "Test")


# --- learning rate ---


@pytest.mark.parametrize(("with_val", "watched"), [(True, "val"), (False, "train")])
def test_plateau_never_watches_the_test_set(tmp_path, monkeypatch, with_val, watched):
    seen = []
    monkeypatch.setattr(Plateau, "end_epoch", lambda self, loss: seen.append(loss))
    data = Data(ListLoader(), ListLoader(30, seed=1), ListLoader(20, seed=2) if with_val else None)
    _, records = fit(tmp_path, data=data, scheduler="plateau", warmup="0")
    assert seen == [record[watched]["loss"] for record in records]


def test_learning_rates_are_in_the_records(tmp_path):
    _, records = fit(tmp_path, scheduler="step", warmup="0", lr_step=1, lr_gamma=0.5)
    assert [record["lr"] for record in records] == [1e-2, 5e-3, 2.5e-3]


# --- weight decay ---


WEIGHTS = {"conv.weight", "linear.weight", "tokens.weight"}
BESIDE = {"conv.bias", "norm.weight", "norm.bias", "linear.bias", "scale"}


@pytest.mark.parametrize(
    ("decay", "wanted"),
    [
        ("weights", WEIGHTS),
        ("matrices", WEIGHTS | {"positions"}),
        ("all", WEIGHTS | {"positions"} | BESIDE),
    ],
)
def test_what_decays(decay, wanted):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.norm = nn.BatchNorm2d(4)
            self.linear = nn.Linear(4, 2)
            self.tokens = nn.Embedding(5, 4)
            self.prelu = nn.PReLU()
            self.zilu = ZiLU(learnable=True)
            self.positions = nn.Parameter(torch.zeros(3, 4))
            self.scale = nn.Parameter(torch.zeros(3))

    model = Network()
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, others = (
        {names[id(p)] for p in group["params"]} for group in parameter_groups(model, 0.1, decay)
    )
    assert decayed == wanted
    assert others >= {"zilu.rho", "prelu.weight"}
    assert len(decayed) + len(others) == len(names)


# --- mixed precision, compilation ---


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_mixed_precision_trains_close_to_fp32(tmp_path, dtype):
    # Long enough for the few steps that fp16 skips until its gradient scale fits.
    _, full = fit(tmp_path / "full", lr=1e-3, num_epochs=15)
    trainer, mixed = fit(tmp_path / "mixed", lr=1e-3, num_epochs=15, amp_dtype=dtype)
    assert trainer.scaler.is_enabled() == (dtype is torch.float16)
    assert mixed[-1]["train"]["loss"] == pytest.approx(full[-1]["train"]["loss"], rel=0.05)


def test_compiled_training_equals_eager_and_saves_plain_keys(tmp_path):
    torch._dynamo.reset()
    _, eager = fit(tmp_path / "eager", tiny_network(activation=ZiLU))
    _, compiled = fit(tmp_path / "compiled", tiny_network(activation=ZiLU), compile_mode="default")
    assert compiled[-1]["train"]["loss"] == pytest.approx(eager[-1]["train"]["loss"], rel=1e-3)
    checkpoint = load_checkpoint(tmp_path / "compiled" / "checkpoint.pt")
    assert checkpoint["model"].keys() == tiny_network().state_dict().keys()


def test_a_smaller_last_batch_is_not_compiled(tmp_path, monkeypatch):
    sizes = []

    def counting(function, mode):
        def call(batch):
            sizes.append(len(batch[0]))
            return function(batch)

        return call

    monkeypatch.setattr(objective, "compiled", counting)
    _, records = fit(tmp_path, compile_mode="default", num_epochs=1)
    assert sizes == [16] * 3 + [16]  # 50 training and 30 test samples in batches of 16
    assert records[0]["train"]["count"] == 50
    assert records[0]["test"]["count"] == 30


@pytest.mark.slow
def test_reduce_memory_saves_less_for_backward():
    def bytes_saved(mode):
        torch._dynamo.reset()
        torch.manual_seed(0)
        blocks = [
            nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.SiLU())
            for _ in range(2)
        ]
        model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *blocks)
        run = objective.compiled(lambda x: model(x).square().mean(), mode)
        saved = {}

        def note(tensor):
            saved[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            run(torch.randn(8, 3, 32, 32))
        return sum(saved.values())

    from torch._functorch import config

    with config.patch(activation_memory_budget=1.0):  # restored afterwards
        default = bytes_saved("default")
        assert bytes_saved("reduce-memory") < 0.75 * default


# --- stopping ---


class PoisonedLoader(ListLoader):
    """From one epoch on, a batch holds an infinity."""

    def batches(self, epoch, first=0):
        for number, (images, targets) in enumerate(super().batches(epoch, first), first):
            bad = epoch == 2 and number == 1
            yield (images * math.inf if bad else images), targets


def test_a_nan_loss_stops_the_run_and_what_was_saved_stays(tmp_path):
    data = Data(PoisonedLoader(), ListLoader(30, seed=1))
    with pytest.raises(Diverged, match="in epoch 2, step 6, the training loss is NaN"):
        fit(tmp_path, data=data)
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pt")
    assert checkpoint["step"] == 4
    assert all(v.isfinite().all() for v in checkpoint["model"].values())
    assert len((tmp_path / "train_eval_results.txt").read_text().splitlines()) == 1


def test_fp16_that_skips_every_step_stops_the_run(tmp_path):
    class NanGradients(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 7)

        def forward(self, images):
            features = images.flatten(1).sum(1, keepdim=True) * 0
            return self.linear(features) + torch.sqrt(self.linear.weight.sum() * 0)

    with pytest.raises(Diverged, match="gradients are NaN or infinite at every fp16 scale"):
        fit(tmp_path, NanGradients(), amp_dtype=torch.float16, num_epochs=20)


def test_max_steps_stops_inside_an_epoch(tmp_path):
    trainer, records = fit(tmp_path, max_steps=6)
    assert trainer.state.step == 6
    assert [r["train"]["count"] for r in records] == [50, 32]
    assert records[-1]["lr"] < 1e-2  # the schedule's end is the last step that is made
    lines = (tmp_path / "train_eval_results.txt").read_text().splitlines()
    assert [line.split("]")[0] for line in lines[:2]] == ["[Epoch 001", "[Step 000006"]
    assert lines[2].startswith("[Summary] Final: step 000006 | ")
    assert [r.get("partial") for r in records] == [None, True]


class Counting(Classification):
    """Sums that fp32 cannot add: a large one, and many small ones."""

    def __call__(self, model, batch):
        loss, _ = super().__call__(model, batch)
        large = torch.where(batch[1][0] == 0, 2.0**24, 1.0)
        return loss, torch.stack([5.3 * large, large * 0, large * 0, large])


def test_sums_are_exact_however_many(tmp_path):
    loader = ListLoader(201, batch_size=1)
    loader.targets = torch.ones_like(loader.targets)
    loader.targets[0] = 0
    data = Data(loader, loader)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 7))
    _, records = fit(tmp_path, network, data, Counting("CrossEntropy"), num_epochs=1)
    for split in ("train", "test"):
        assert records[0][split]["count"] == 2**24 + 200
        assert records[0][split]["loss"] == pytest.approx(5.3, rel=1e-7)
    _, records = fit(
        tmp_path / "more",
        network,
        data,
        Counting("CrossEntropy"),
        num_epochs=1,
        grad_accum_steps=50,
    )
    assert records[0]["train"]["count"] == 2**24 + 200


def test_what_json_lacks_is_null(tmp_path):
    run = RunFolder(tmp_path)
    run.add_metrics({"test": {"loss": math.inf, "count": 3}, "val": {"loss": math.nan}})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert line == '{"test": {"loss": null, "count": 3}, "val": {"loss": null}}\n'


# --- accumulated gradients, evaluations inside an epoch ---


@pytest.mark.parametrize(("batch", "accumulated"), [(8, 2), (12, 2), (20, 2), (20, 3), (16, 5)])
def test_accumulated_batches_equal_large_ones(tmp_path, batch, accumulated):
    """Uneven last batches and groups included; without BatchNorm, which sees single batches."""

    def train(name, batch_size, **options):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.Tanh(), nn.Linear(16, 7))
        data = Data(ListLoader(50, batch_size), ListLoader(30, seed=1))
        return fit(tmp_path / name, model, data, clip_grad_norm=0.1, warmup="2", **options)

    trainer, records = train("small", batch, grad_accum_steps=accumulated)
    reference, wanted = train("large", batch * accumulated)
    assert trainer.state.step == reference.state.step == 3 * math.ceil(50 / (batch * accumulated))
    losses = [record["train"]["loss"] for record in wanted]
    assert [record["train"]["loss"] for record in records] == pytest.approx(losses, rel=1e-5)
    for mine, theirs in zip(trainer.model.parameters(), reference.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_evaluating_inside_an_epoch_changes_nothing(tmp_path):
    def train(name, **options):
        torch.manual_seed(0)
        model = nn.Sequential(tiny_network(), nn.Dropout(0.2))
        torch.manual_seed(1)
        data = Data(ListLoader(), ListLoader(30, seed=1), ListLoader(20, seed=2))
        return fit(tmp_path / name, model, data, scheduler="plateau", lr_step=1, **options)

    _, plain = train("plain")
    trainer, records = train("often", eval_interval=3)
    # Four steps an epoch: step 12 is an epoch's end and no evaluation of its own.
    assert [r["step"] for r in records] == [3, 4, 6, 8, 9, 12]
    assert [r["epoch"] for r in records] == [1, 1, 2, 2, 3, 3]
    ended = [r for r in records if not r.get("partial")]
    for mine, theirs in zip(ended, plain, strict=True):
        assert {s: mine[s] for s in ("train", "val", "test", "lr")} == {
            s: theirs[s] for s in ("train", "val", "test", "lr")
        }
    assert records[0]["train"]["count"] == 48  # of the epoch so far
    lines = (tmp_path / "often" / "train_eval_results.txt").read_text().splitlines()
    assert [line.split("]")[0] for line in lines] == [
        "[Step 000003", "[Epoch 001", "[Step 000006", "[Epoch 002", "[Step 000009", "[Epoch 003",
        *["[Summary"] * 3,
    ]  # fmt: skip
    best = max(records, key=lambda r: r["val"]["top1"])
    assert f"Best validation: {moment(best)} |" in lines[7]
    assert trainer.model.training is False  # as the last evaluation left it


def test_the_test_split_is_evaluated_once_where_it_is_not_to_be_seen(tmp_path):
    data = Data(ListLoader(), ListLoader(30, seed=1), ListLoader(20, seed=2))
    task = Classification("CrossEntropy")
    task.test_each_epoch = False
    trainer, records = fit(tmp_path, data=data, task=task, eval_interval=3)
    assert ["test" in record for record in records] == [False] * 5 + [True]
    assert all("val" in record for record in records)
    lines = (tmp_path / "train_eval_results.txt").read_text().splitlines()
    assert len(lines) == 6 + 2
    result = trainer.task.describe(trainer.evaluate(data.test, "Test"))
    assert lines[6].startswith("[Summary] Final: epoch 003 | ")
    assert lines[6].endswith(f" | [Test] {result}")
    assert "Best validation" in lines[7]


def test_model_flops_utilisation_where_the_peak_is_known(tmp_path, monkeypatch):
    class Counted(Classification):
        def flops(self, model):
            return 1e6

    _, records = fit(tmp_path / "unknown", task=Counted("CrossEntropy"))
    assert all("mfu" not in record for record in records)
    monkeypatch.setattr(run_log, "peak_flops", lambda device, dtype: 1e12)
    _, records = fit(tmp_path / "known", task=Counted("CrossEntropy"))
    for record in records:
        assert record["mfu"] == pytest.approx(record["images_per_second"] * 1e6 / 1e12)


@pytest.mark.parametrize(
    ("name", "dtype", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16, 312e12),
        ("NVIDIA H100 80GB HBM3", None, 494.7e12),
        ("NVIDIA H200", torch.bfloat16, 989.4e12),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", torch.bfloat16, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", torch.bfloat16, None),
        ("Some New Device", None, None),
    ],
)
def test_peaks_are_those_of_whole_known_devices(monkeypatch, name, dtype, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda"), dtype) == peak
    assert peak_flops(CPU, dtype) is None


def test_the_step_reads_nothing_from_the_device(tmp_path, monkeypatch):
    reads = []
    for name in ("item", "tolist", "__bool__", "__float__", "__int__"):
        method = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda *a, m=method, n=name: reads.append(n) or m(*a)
        )
    monkeypatch.setattr(live_progress, "READ_SECONDS", math.inf)
    fit(tmp_path, data=Data(ListLoader(480, 4), ListLoader(8, 4)), num_epochs=1)
    # The first step's loss, two log intervals in 120 steps, the end of the epoch, the evaluation,
    # its cost, two saves.
    assert len(reads) <= 1 + 2 * 2 + 2 + 1 + 1 + 2


def test_a_skipped_first_step_leaves_nothing_in_sgds_momentum(monkeypatch):
    """fp16's scaler skips steps whose gradients overflow, and the first scale often is too large.

    Memory that nobody has written is filled with NaN here, so that its use shows.
    """
    weights = []
    torch.use_deterministic_algorithms(True)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    for steps in ([math.inf, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0]):
        torch.manual_seed(0)
        model = nn.Linear(5, 3)
        config = replace(TRAINING, optimizer="sgd", weight_decay=0.1)
        optimizer = optimization.build_optimizer(model, config)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for factor in steps:
            scaler.scale(model(torch.ones(2, 5)).square().sum() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        weights.append([p.detach() for p in model.parameters()])
    assert all(p.isfinite().all() for p in weights[0])
    assert all(map(torch.equal, *weights))


def test_apples_generator_is_kept_for_resuming(monkeypatch):
    states = [torch.arange(3)]
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: states[-1].clone())
    monkeypatch.setattr(torch.mps, "set_rng_state", states.append)
    mps = torch.device("mps")
    kept = random_state(mps)
    states.append(torch.ones(3))
    set_random_state(kept, mps)
    assert torch.equal(states[-1], torch.arange(3))
    set_random_state(random_state(torch.device("cpu")), mps)
    assert len(states) == 3  # a checkpoint of another device leaves it as it is


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_one_line(monkeypatch, tmp_path, mistake_in, error):
    calls = []
    step = Trainer.train_step

    def third_step_fails(trainer, batches):
        calls.append(None)
        if len(calls) == 3:
            raise error
        return step(trainer, batches)

    monkeypatch.setattr(Trainer, "train_step", third_step_fails)
    flags = ["--model", "resnet20", "--dataset", "digits", "--resize", "8", "--device", "cpu"]
    flags += ["--batch_size", "64", "--save_interval", "2", "--output_dir", str(tmp_path)]
    line = mistake_in(vision_main, *flags)
    assert "--batch_size" in line
    assert "--grad_accum_steps" in line
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=False)["step"] == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_step_never_waits_for_the_device(tmp_path):
    cuda = torch.device("cuda")
    loader = ListLoader(64, 16)
    loader.images, loader.targets = loader.images.to(cuda), loader.targets.to(cuda)
    for dtype in (None, torch.float16):
        network = tiny_network().to(cuda)
        data = Data(loader, loader)
        trainer = trainer_of(tmp_path, network, data, precision=(dtype, None), device=cuda)
        batches = list(loader.batches(1))
        trainer.train_step([batches[0]])
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch in batches[1:]:
                trainer.train_step([batch])
        finally:
            torch.cuda.set_sync_debug_mode("default")


# --- results and checkpoints ---


def test_the_summary_labels_how_each_epoch_was_chosen(tmp_path):
    data = Data(ListLoader(), ListLoader(30, seed=1), ListLoader(20, seed=2))
    _, records = fit(tmp_path, data=data)
    lines = (tmp_path / "train_eval_results.txt").read_text().splitlines()
    assert len(lines) == 3 + 3
    final, by_val, by_test = lines[3:]
    assert final.startswith("[Summary] Final: epoch 003 | [Val] Loss: ")
    best_val = max(range(3), key=lambda i: records[i]["val"]["top1"])
    best_test = max(range(3), key=lambda i: records[i]["test"]["top1"])
    assert by_val.startswith(f"[Summary] Best validation: epoch {best_val + 1:03d} | ")
    assert f"Top1: {records[best_val]['test']['top1']:.4f}%" in by_val.split("[Test]")[1]
    assert by_test.startswith(
        f"[Summary] Best test (chosen on the test set): epoch {best_test + 1:03d} | "
    )


def test_learned_sigma_is_in_every_record(tmp_path):
    model = tiny_network(activation=lambda: ZiLU(0.5, learnable=True))
    _, records = fit(tmp_path, model)
    sigmas = [record["sigma"]["2"] for record in records]
    assert sigmas[-1] == pytest.approx(model[2].sigma.item())
    assert sigmas[0] != sigmas[-1] != 0.5


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"hello"])
def test_a_broken_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint.pt: not a readable checkpoint"):
        load_checkpoint(path)


def test_foreign_and_hostile_checkpoints_are_refused(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (print, ("code from a checkpoint ran",))

    path = tmp_path / "checkpoint.pt"
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="not a checkpoint of this project"):
        load_checkpoint(path)
    torch.save({"settings": Hostile(), "model": {}}, path)
    with pytest.raises(UserError, match="not a readable checkpoint"):
        load_checkpoint(path)
    with pytest.raises(UserError, match="no such file"):
        load_checkpoint(tmp_path / "missing.pt")


def test_model_txt_lists_sites():
    text = describe_model(tiny_network(activation=ZiLU), ZiLU)
    assert text.startswith("Parameters: 2,255 (2,255 trainable)\n\nActivation sites: 1\n  2: ZiLU")


class _TwoPlaces(nn.Module):
    """Call a function in two places, one for each width, which then share one new module."""

    def forward(self, x):
        if x.shape[-1] == 2:
            return functional.relu(x)
        return functional.relu(x - 1)


def test_paths_of_activations_are_given_once():
    assert activation_paths(tiny_network(activation=ZiLU), ZiLU) == ["2"]
    network = nn.Sequential(places := _TwoPlaces(), nn.Linear(2, 3), places, nn.ReLU())
    network.replacement = replace_activations(
        network, "ZiLU", functional="rewrite", example_input=torch.zeros(1, 2)
    )
    sites = [site.path for site in network.replacement.replaced]
    assert sorted(sites) == ["0.relu_call_0", "0.relu_call_0", "3"]
    assert sorted(activation_paths(network, nn.Module)) == ["0.relu_call_0", "3"]


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_betas_are_the_options(optimizer):
    options = replace(TRAINING, optimizer=optimizer, beta1=0.8, beta2=0.95)
    built = optimization.build_optimizer(tiny_network(), options)
    assert all(group["betas"] == (0.8, 0.95) for group in built.param_groups)
