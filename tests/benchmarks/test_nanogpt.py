"""The comparison of nanoGPT's recipe with a plain loop, and the recipe's own mathematics."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch

from benchmarks import nanogpt
from benchmarks.nanogpt import PLAIN, RECIPE, Run, main, nanogpt_rate, plain_loss
from benchmarks.plain_gpt import PlainGPT, plain_optimizer, plain_step
from cli.language import SIZES, LanguageConfig
from cli.parser import parse
from cli.run import RunConfig
from dataset import load_text
from run_folder.folder import RunFolder
from tasks.language import LanguageProgram
from train_eval import Trainer
from training.schedule import Schedule
from utils import UserError


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "input.txt"
    path.write_text(
        "".join(f"{n} bottles of ale on the wall, take {n % 7} down\n" for n in range(99))
    )
    return path


def recipe(*flags):
    return parse(LanguageConfig, "Train.", ["--config", str(RECIPE), *flags]).config


@pytest.mark.parametrize("name", ["char_cpu_nanogpt", "shakespeare_char_nanogpt", "gpt2_nanogpt"])
def test_learning_rates_are_nanogpts(name):
    path = RECIPE.with_name(f"{name}.yaml")
    training = parse(LanguageConfig, "Train.", ["--config", str(path)]).config.training
    steps, warmup = training.max_steps, int(training.warmup)
    schedule = Schedule(training, steps_per_epoch=1308, total_steps=steps)
    looked_at = [0, 1, warmup - 1, warmup, warmup + 1, steps // 2, steps - 1]
    wanted = [nanogpt_rate(step, steps, warmup, training.lr, training.min_lr) for step in looked_at]
    assert [schedule.rate(step) for step in looked_at] == pytest.approx(wanted, rel=1e-12)


def test_the_recipe_follows_the_plain_loop(text):
    """The same weights and batches: every loss of 60 steps, through decay and warm-up."""
    data = load_text("text", text_folder(text), tokenizer="bytes", block_size=64, batch_size=2)
    config = recipe("--activation", "GELU", "--device", "cpu", "--max_steps", "60", "--warmup", "9")
    program = LanguageProgram(config)
    model = program.network_for(257)
    sizes = (getattr(config.model, name) for name in SIZES)
    plain = PlainGPT(257, 64, *sizes, bias=False)
    plain.copy_weights(model)
    training = config.training
    parts = program.objective(model, data), data, training, RunConfig()
    trainer = Trainer(*parts, RunFolder("unused", writes=False), {})
    optimizer = plain_optimizer(plain, training.lr, training.beta2, decays_positions=True)
    decayed = {id(p) for p in optimizer.param_groups[0]["params"]}
    assert {id(p) for p in plain.parameters() if p.dim() == 2} == decayed
    ours, theirs = [], []
    epochs = (batch for epoch in range(1, 9) for batch in data.train.batches(epoch))
    for step, (ids, targets) in zip(range(60), epochs, strict=False):
        trainer.state.place.steps = step % len(data.train)
        nats, count = trainer.train_step([(ids, targets)]).tolist()
        ours.append(nats / count)
        for group in optimizer.param_groups:  # what --warmup_lr makes of nine steps
            rate = training.warmup_lr + (training.lr - training.warmup_lr) * step / 9
            late = nanogpt_rate(step, 60, 9, training.lr, training.min_lr)
            group["lr"] = rate if step < 9 else late
        theirs.append(plain_step(plain, optimizer, ids, targets).item())
    assert len(ours) == 60
    assert ours[-1] < ours[0] - 1.5
    assert ours == pytest.approx(theirs, abs=1e-3)
    torch.testing.assert_close(model.wpe, plain.positions.weight, atol=1e-3, rtol=0)


def text_folder(text):
    folder = text.parent / "splits"
    folder.mkdir(exist_ok=True)
    for name in ("train", "valid", "test"):
        (folder / f"{name}.txt").write_text(text.read_text())
    return folder


def test_initial_weights_are_nanogpts():
    torch.manual_seed(0)
    model = PlainGPT(256, 64, 128, 4, 8)
    model.init_as_nanogpt()
    for name, value in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            assert (value == ("norm" in name and name.endswith("weight"))).all(), name
        else:
            std = 0.02 / 4 if name.endswith(("out.weight", "down.weight")) else 0.02
            assert value.std().item() == pytest.approx(std, rel=0.05), name


def test_the_whole_split_is_scored_once():
    """Against a pass for each byte, with what its window has before it."""
    torch.manual_seed(0)
    model = PlainGPT(256, 8, 16, 2, 1).eval()
    ids = np.random.RandomState(0).randint(0, 256, 45)
    found = nanogpt.whole_split_loss(model, ids, 8, torch.device("cpu"))
    losses = []
    for place in range(1, 45):
        first = (place - 1) // 8 * 8
        seen = torch.from_numpy(ids[first : place + 1])[None]
        logits = []
        hook = model.norm.register_forward_hook(lambda *call, kept=logits: kept.append(call[2]))
        model(seen[:, :-1], seen[:, 1:].contiguous())
        hook.remove()
        scores = (logits[0][0, -1] @ model.tokens.weight.T).log_softmax(0)
        losses.append(-scores[seen[0, -1]].item())
    assert found == pytest.approx(sum(losses) / 44, rel=1e-5)


@pytest.mark.slow
def test_the_command_trains_both_on_the_same_text(text, tmp_path, capfd, monkeypatch):
    """Its figures are those that the two leave."""
    monkeypatch.chdir(RECIPE.parents[1])
    flags = ["--text", str(text), "--seeds", "1", "--max_steps", "3", "--size", "4000"]
    code = main([*flags, "--output_dir", str(tmp_path / "out"), "--margin", "5"])
    assert code == 0
    first, second = (tmp_path / "out" / f"{name}.txt" for name in ("train", "valid"))
    assert len(first.read_text()) == 3600
    assert first.read_text() + second.read_text() == text.read_text()[:4000]
    lines = (tmp_path / "out" / "seed_0" / "metrics.jsonl").read_text().splitlines()
    ours = json.loads(lines[-1])["val"]
    assert ours["count"] == 400
    options = nanogpt.parsed_into(
        nanogpt.Options, nanogpt.build_parser(), [*flags, "--output_dir", str(tmp_path / "out")]
    )
    plain = plain_loss(options, tmp_path / "out", 0)
    printed = capfd.readouterr().out
    assert f"seed 0, this project: {ours['loss']:.4f} in" in printed
    assert f"seed 0, plain loop: {plain:.4f} in" in printed
    assert f"difference {ours['loss'] - plain:+.4f}" in printed
    uniform = math.log(256)
    assert abs(ours["loss"] - uniform) < 1 > abs(plain - uniform)


@pytest.mark.parametrize(("losses", "code"), [([1.0, 1.2, 1.1], 0), ([1.1, 1.3, 1.2], 1)])
def test_a_recipe_that_is_worse_is_an_error(losses, code, capsys):
    plain = [Run(loss, 10.0) for loss in (1.0, 1.1, 1.2)]
    runs = {nanogpt.OURS: [Run(loss, 9.0) for loss in losses], PLAIN: plain}
    assert nanogpt.report(runs, 0.02) == code
    printed = capsys.readouterr().out
    assert "validation loss 1.1000 ± 0.1000, 10.0 ± 0.0 s, n = 3" in printed
    # By hand: two samples of sd 0.1 and n = 3, 4 degrees of freedom, t = 2.776.
    mean, half = sum(losses) / 3 - 1.1, 2.776 * 0.1 * (2 / 3) ** 0.5
    low, high = map(float, re.search(r"interval (\S+) to (\S+)\)", printed).groups())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=2e-4)
    assert "time 0.90 of" in printed


@pytest.mark.parametrize(
    "line", ["scheduler: linear", "decay: weights", "use_amp: true", "warmup: 5%"]
)
def test_a_recipe_that_the_plain_loop_cannot_follow_is_refused(text, tmp_path, line):
    name = line.split(":")[0]
    kept = [each for each in RECIPE.read_text().splitlines() if not each.startswith(f"{name}:")]
    if name == "scheduler":
        kept = [each for each in kept if not each.startswith("warmup_lr")]
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join([*kept, line]))
    flags = ["--text", str(text), "--recipe", str(path), "--plain", "0"]
    with pytest.raises(UserError, match=f"the plain loop is not made for its {name}"):
        main([*flags, "--output_dir", str(tmp_path)])


def test_windows_are_inputs_and_their_next_bytes():
    ids = np.arange(20)
    inputs, targets = nanogpt.windows(ids, [3, 0], 4, torch.device("cpu"))
    assert inputs.tolist() == [[3, 4, 5, 6], [0, 1, 2, 3]]
    assert torch.equal(targets, inputs + 1)
