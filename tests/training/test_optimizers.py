"""Optimizers of torch, timm and schedulefree: against the libraries' own loops, and resumed."""

import copy
import functools
import importlib.metadata
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import schedulefree
import timm.optim
import torch
import transformers
import yaml
from helpers.resumable import FLAGS, KILL, assert_same_run
from torch import nn

from cli.optimizer_names import optimizer_name
from cli.run import RunConfig
from cli.vision import VisionConfig
from models.activation import ZiLU
from models.gpt2 import GPT2
from run_folder.checkpoint import load_checkpoint, save_checkpoint
from run_folder.folder import RunFolder
from tasks.classification import Classification
from train_eval import Trainer
from training.objective import Objective
from training.optimization import build_optimizer, check_optimizer, hidden_matrices, notes
from training.optimizers import evaluated_weights
from utils import UserError

CPU = torch.device("cpu")
STEPS, SAVED, WARMUP, RATE = 100, 70, 10, 3e-3
NOT_TRAINED_WITH = ("LBFGS", "Optimizer", "SparseAdam")
TORCHS = [
    name
    for name, each in vars(torch.optim).items()
    if isinstance(each, type) and name not in NOT_TRAINED_WITH
]
TIMMS = [
    name
    for name in timm.optim.list_optimizers(exclude_filters=["bnb*", "fused*", "adahessian"])
    if not isinstance(timm.optim.get_optimizer_info(name).opt_class, str)
]
SCHEDULE_FREES = [
    name
    for name in dir(schedulefree)
    if "ScheduleFree" in name and "Closure" not in name and "Wrapper" not in name
]
NAMES = [
    *TORCHS,
    *(f"timm/{name}" for name in [*TIMMS, "lookahead_adamw", "AdafactorBigVision"]),
    *(f"schedulefree/{name}" for name in SCHEDULE_FREES),
]
# Arguments to try where the defaults hide something.
ARGUMENTS = {
    "RMSprop": '{alpha: 0.95, centered: true}',
    "adam": '{amsgrad: true, fused: false}',
    "adamw": '{eps: 1e-6, foreach: true}',
    "sgd": '{dampening: 0.5}',
    "timm/lamb": '{max_grad_norm: null}',
    "schedulefree/AdamWScheduleFree": '{betas: [0.95, 0.98], r: 1}',
}  # fmt: skip


@functools.cache
def batch(number):
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(8, 3, 6, 6, generator=generator)
    return images, torch.randint(0, 5, (8,), generator=generator)


@dataclass
class Batches:
    """So many batches of 8 small images, the same in every epoch."""

    count: int = STEPS
    batch_size: int = 8

    @property
    def num_samples(self):
        return self.count * self.batch_size

    def __len__(self):
        return self.count

    def batches(self, epoch, first=0):
        return map(batch, range(first, self.count))


@dataclass
class Data:
    train: Batches
    test: Batches
    val: Batches | None = None
    also: dict = field(default_factory=dict)


def network():
    """A network with one of everything that groups tell apart."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), ZiLU(learnable=True), nn.Flatten(),
        nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 5),
    )  # fmt: skip


def flags_of(name, **flags):
    free = name.startswith("schedulefree/")
    rates = {"num_epochs": 1, "lr": RATE, "warmup": str(WARMUP)}
    rates |= {"scheduler": "none" if free else "cosine"}
    decay = {"weight_decay": 0.0 if name == "Rprop" else 0.1}
    args = {"optimizer_args": ARGUMENTS.get(name)}
    texts = {"optimizer": name} | rates | decay | args | flags
    return VisionConfig.from_values(
        {
            each: VisionConfig.flags()[each].convert(value) if isinstance(value, str) else value
            for each, value in texts.items()
        }
    ).training


def trainer_of(folder, model, config):
    objective = Objective(model, Classification("CrossEntropy"), CPU)
    data = Data(Batches(), Batches(2))
    return Trainer(objective, data, config, RunConfig(), RunFolder(folder), {})


def train(trainer, until):
    trainer.model.train()
    for batch in trainer.data.train.batches(1, trainer.state.step):
        if trainer.state.step == until:
            return
        trainer.train_step([batch])


def groups_of(model):
    weights = [model[0].weight, model[4].weight, model[6].weight]
    others = [*model[1].parameters(), *model[2].parameters(), model[4].bias, model[6].bias]
    return {"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}


def librarys(name, model):
    """What somebody would write who uses the library alone: optimizers, in the order of steps."""
    weights, others = groups_of(model)
    prefix, _, rest = name.rpartition("/")
    if prefix == "schedulefree":
        warmup = {} if rest.startswith("RAdam") else {"warmup_steps": WARMUP}
        extra = {"betas": (0.95, 0.98), "r": 1} if rest == "AdamWScheduleFree" else {}
        return [getattr(schedulefree, rest)([weights, others], lr=RATE, **warmup, **extra)]
    if prefix == "timm":
        if rest in ("muon", "nmuon", "adamuon", "nadamuon"):
            hidden = weights | {"params": [model[0].weight, model[4].weight]}
            head = weights | {"params": [model[6].weight], "use_fallback": True}
            groups = [hidden, head, others | {"use_fallback": True}]
        else:
            groups = [weights, others]
        if rest == "AdafactorBigVision":
            return [timm.optim.AdafactorBigVision(groups, lr=RATE)]
        extra = {"max_grad_norm": None} if rest == "lamb" else {}
        return [timm.optim.create_optimizer_v2(groups, opt=rest, lr=RATE, **extra)]
    if name == "Muon":
        hidden = weights | {"params": [model[4].weight]}
        rest = weights | {"params": [model[0].weight, model[6].weight]}
        scaled = {"lr": RATE, "adjust_lr_fn": "match_rms_adamw"}
        return [
            torch.optim.Muon([hidden], **scaled),
            torch.optim.AdamW([rest, others], lr=RATE, fused=True),
        ]
    if name == "Rprop":
        groups = [{"params": group["params"]} for group in (weights, others)]
        return [torch.optim.Rprop(groups, lr=RATE)]
    extra = {
        "RMSprop": {"alpha": 0.95, "centered": True},
        "Adam": {"amsgrad": True, "fused": False},
        "AdamW": {"eps": 1e-6, "foreach": True},
        "SGD": {"momentum": 0.9, "dampening": 0.5},
    }
    return [getattr(torch.optim, name)([weights, others], lr=RATE, **extra.get(name, {}))]


def plain_loop(model, optimizers, clip):
    """A textbook loop with a warm-up and a cosine; schedulefree has its own warm-up."""
    model.train()
    for optimizer in optimizers:
        getattr(optimizer, "train", list)()
    for step, (images, targets) in enumerate(Batches().batches(0)):
        rate = RATE * ((step + 1) / WARMUP)
        free = [o for o in optimizers if hasattr(o, "train")]
        if step >= WARMUP:
            rate = RATE * (0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP))))
            rate = RATE if free else rate
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = RATE if "warmup_steps" in group else rate
        nn.functional.cross_entropy(model(images), targets).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def assert_equal(mine, theirs):
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


@pytest.fixture(autouse=True)
def eager():
    """timm's Kron compiles itself, which takes a minute."""
    with torch.compiler.set_stance("force_eager"):
        yield


# Of timm's; its others are slow tests, a second each.
OFTEN_USED = ("adafactorbv", "adopt", "lamb", "lion", "madgrad", "muon", "novograd", "sgdw")


def every_name():
    assert {*OFTEN_USED} <= {*TIMMS}
    for name in NAMES:
        rest = name.removeprefix("timm/")
        is_slow = rest in TIMMS and rest not in OFTEN_USED
        yield pytest.param(name, marks=[pytest.mark.slow] if is_slow else [], id=name)


@pytest.mark.parametrize("name", every_name())
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_optimizer_takes_its_librarys_steps_and_is_resumed_exactly(tmp_path, name):
    clip = 0.5 if NAMES.index(name) % 2 else 0.0
    config = flags_of(optimizer_name(name), clip_grad_norm=clip)
    whole = trainer_of(tmp_path, network(), config)
    train(whole, SAVED)
    save_checkpoint(tmp_path / "saved.pt", whole.state_dict() | {"settings": {}})
    train(whole, STEPS)

    reference = network()
    optimizers = librarys(name, reference)
    plain_loop(reference, optimizers, clip)
    assert_equal(whole.model.state_dict(), reference.state_dict())
    assert not torch.equal(reference[4].weight, network()[4].weight)

    resumed = trainer_of(tmp_path, network(), config)
    resumed.load_state_dict(load_checkpoint(tmp_path / "saved.pt"))
    train(resumed, STEPS)
    assert_equal(resumed.model.state_dict(), reference.state_dict())

    trained = copy.deepcopy(reference.state_dict())
    getattr(optimizers[0], "eval", list)()
    assert_equal(whole.state_dict()["model"], reference.state_dict())
    with evaluated_weights(whole.optimizer):
        assert_equal(whole.model.state_dict(), reference.state_dict())
    assert_equal(whole.model.state_dict(), trained)


# --- what fp16's scaler, Muon's groups and the flags do ---


@pytest.mark.parametrize("name", ["Muon", "schedulefree/AdamWScheduleFree", "timm/lamb"])
def test_a_step_that_the_scaler_skips_leaves_nothing(name):
    weights = []
    for factors in ([math.inf, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0]):
        model = network()
        optimizer = build_optimizer(model, flags_of(name))
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for factor in factors:
            loss = model.eval()(torch.ones(2, 3, 6, 6)).square().sum()
            scaler.scale(loss * factor).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        weights.append(model.state_dict())
    assert_equal(*weights)
    assert all(value.isfinite().all() for value in weights[0].values())


def test_adamws_rate_beside_muons_follows_the_same_schedule(tmp_path):
    args = '{"adamw_lr": 3e-4, "adjust_lr_fn": "original"}'
    config = flags_of("Muon", optimizer_args=args, lr=0.02, beta1=0.8)
    trainer = trainer_of(tmp_path, network(), config)
    for steps in (1, 40):
        train(trainer, steps)
        muon, *adamw = trainer.optimizer.param_groups
        assert muon["adjust_lr_fn"] == "original"
        assert muon["lr"] == trainer.schedule.rate(steps - 1)
        assert {group["betas"] for group in adamw} == {(0.8, 0.999)}
        for group in adamw:
            assert group["lr"] == pytest.approx(muon["lr"] * 3e-4 / 0.02, rel=1e-12)


def test_tied_weights_are_those_that_are_trained_when_a_run_goes_on(tmp_path):
    def tied():
        model = network()
        model.append(nn.Linear(5, 8)).append(nn.Linear(8, 5))
        model[8].weight = model[6].weight
        return model

    config = flags_of("schedulefree/SGDScheduleFree", lr=1.0)
    trainer = trainer_of(tmp_path, tied(), config)
    train(trainer, 20)
    resumed = trainer_of(tmp_path, tied(), config)
    resumed.load_state_dict(trainer.state_dict())
    assert_equal(resumed.model.state_dict(), trainer.model.state_dict())


def names_of_matrices(model):
    chosen = hidden_matrices(model)
    return [name for name, p in model.named_parameters() if id(p) in chosen]


def test_muon_takes_the_matrices_between_embeddings_and_outputs():
    gpt = GPT2(nn.GELU, 50, 8, 16, 2, 1, 0.0, "layer")
    layers = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert names_of_matrices(gpt) == [f"h.0.{layer}.weight" for layer in layers]
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=5)
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert names_of_matrices(theirs) == [f"blocks.0.{layer}.weight" for layer in layers]
    huggings = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=9, n_positions=4)
    )
    layers = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert names_of_matrices(huggings) == [f"transformer.h.0.{layer}.weight" for layer in layers]
    assert names_of_matrices(network()) == ["4.weight"]
    attention = nn.Sequential(nn.MultiheadAttention(4, 2), nn.Linear(4, 3))
    assert names_of_matrices(attention) == ["0.in_proj_weight", "0.out_proj.weight"]


@pytest.mark.parametrize(
    ("name", "flags", "group"),
    [
        ("RMSprop", {"momentum": 0.9}, {"momentum": 0.9, "alpha": 0.95}),
        ("RMSprop", {}, {"momentum": 0, "alpha": 0.95}),
        ("timm/sgdw", {"nesterov": False}, {"nesterov": False, "momentum": 0.9}),
        ("timm/sgdw", {}, {"nesterov": True}),
        ("NAdam", {"beta2": 0.95}, {"betas": (0.9, 0.95)}),
        ("timm/adan", {"optimizer_args": "{betas: [0.9, 0.8, 0.7]}"}, {"betas": (0.9, 0.8, 0.7)}),
        ("adamw", {"optimizer_args": "{foreach: true}"}, {"fused": None, "foreach": True}),
        ("adamw", {"optimizer_args": None}, {"fused": True, "eps": 1e-8}),
        ("schedulefree/SGDScheduleFree", {"momentum": 0.95}, {"momentum": 0.95}),
    ],
)
def test_what_a_flag_gives_counts_and_else_the_classs_own(name, flags, group):
    built = build_optimizer(network(), flags_of(name, **flags)).param_groups[0]
    assert {each: built[each] for each in group} == group


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("Adagrad", {"momentum": 0.9}, "--momentum: Adagrad takes no momentum"),
        ("RMSprop", {"beta2": 0.9}, "--beta1, --beta2: RMSprop takes no betas"),
        ("timm/adan", {"beta1": 0.9}, "give them all by --optimizer_args"),
        ("RMSprop", {"optimizer_args": "{alhpa: 0.9}"}, "takes no alhpa; did you mean alpha"),
        ("RMSprop", {"optimizer_args": "{lr: 0.9}"}, "lr is what --lr gives"),
        ("adamw", {"optimizer_args": "{betas: [0.9, 0.9]}"}, "betas is what --beta1, --beta2"),
        ("RMSprop", {"optimizer_args": "{alpha: -1}"}, "Invalid alpha value: -1"),
        ("NAdam", {"optimizer_args": "{eps: small}"}, "NAdam with .*small"),
        ("Rprop", {"weight_decay": 0.1}, "give --weight_decay 0"),
        ("Muon", {"optimizer_args": "{adjust_lr_fn: original}"}, "give adamw_lr"),
        ("schedulefree/AdamWScheduleFree", {"optimizer_args": "{warmup_steps: 3}"}, "--warmup"),
        ("schedulefree/AdamWScheduleFree", {"optimizer_args": "{betas: [0, 0.9]}"}, "zero"),
        ("timm/lambada", {}, "did you mean lamb"),
    ],
)
def test_what_a_class_does_not_take_is_refused_in_a_line(name, flags, words):
    with pytest.raises(UserError, match=words) as refused:
        check_optimizer(flags_of(name, **flags), CPU)
    assert "\n" not in str(refused.value)


def test_what_is_to_be_known_is_said():
    model = network()
    (line,) = notes(model, build_optimizer(model, flags_of("Muon")))
    rest = sum(p.numel() for p in model.parameters()) - 512
    assert line == f"Muon trains 1 tensors (512), and AdamW 7 tensors ({rest:,})"
    name = "schedulefree/AdamWScheduleFree"
    (line,) = notes(model, build_optimizer(model, flags_of(name)))
    assert line.startswith("Note: BatchNorm")
    assert notes(model[4:], build_optimizer(model[4:], flags_of(name))) == []
    assert notes(model, build_optimizer(model, flags_of("timm/lamb"))) == []


def test_muon_wants_a_hidden_matrix():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 5))
    with pytest.raises(UserError, match="no hidden matrices"):
        build_optimizer(model, flags_of("Muon"))


def test_checking_draws_nothing():
    before = torch.get_rng_state()
    check_optimizer(flags_of("RMSprop"), CPU)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("AdamW", "adamw"), ("rmsPROP", "RMSprop"), ("muon", "Muon"), ("timm/LAMB", "timm/lamb"),
        ("schedulefree/sgdschedulefree", "schedulefree/SGDScheduleFree"),
    ],
)  # fmt: skip
def test_names_without_regard_to_case(text, name):
    assert optimizer_name(text) == name
    assert optimizer_name(name) == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("RMSpropp", "did you mean RMSprop"), ("Optimizer", "unknown"), ("torch/Adam", "unknown"),
        ("schedulefree/AdamW", "did you mean schedulefree/AdamWScheduleFree"),
        ("LBFGS", "closure"), ("sparseadam", "sparse"), ("timm/adahessian", "create_graph"),
        ("timm/lookahead_adahessian", "create_graph"),
        ("timm/fusedadam", "CUDA"), ("timm/bnbadam8bit", "CUDA"), ("timm/Lookahead", "another"),
        ("schedulefree/AdamWScheduleFreeClosure", "closure"), ("", "unknown"), ("timm/", "unknown"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_with_is_refused_by_its_name(text, words):
    with pytest.raises(ValueError, match=words) as refused:
        optimizer_name(text)
    assert "\n" not in str(refused.value)


def test_names_are_known_before_torch_is_loaded():
    code = (
        "import sys; from cli.optimizer_names import optimizer_name as name; name('rmsprop'); "
        "name('schedulefree/AdamWScheduleFree'); "
        "assert not {'torch', 'schedulefree', 'timm', 'yaml'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_library_that_is_missing_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(UserError, match="pip install schedulefree"):
        build_optimizer(network(), flags_of("schedulefree/AdamWScheduleFree"))


# --- as users run them ---

FREE = ("--optimizer", "schedulefree/AdamWScheduleFree", "--scheduler", "none", "--warmup", "4")
RUNS = {
    "vision_main": FREE,
    "language_main": ("--optimizer", "Muon", "--optimizer_args", "{momentum: 0.9}"),
}


@pytest.fixture(scope="module")
def run(forked, data_path):
    """run("vision_main", folder, *more flags, fault=None, processes=1) -> the exit codes"""

    def run(module, folder, *flags, fault=None, processes=1):
        where = ("--data_path", data_path[module], "--output_dir", folder)
        flags = [*FLAGS[module], *where, *RUNS[module], *flags]
        faults = {0: fault} if fault else {}
        codes, output = forked(module, *flags, processes=processes, faults=faults)
        assert set(codes) <= {0, -KILL}, output
        return output

    return run


@pytest.fixture(scope="module")
def reference(run, tmp_path_factory):
    """The folder of an uninterrupted run, by program."""
    folders = {module: tmp_path_factory.mktemp(module) / "run" for module in RUNS}
    for module, folder in folders.items():
        run(module, folder)
    return folders


@pytest.mark.parametrize("module", RUNS)
@pytest.mark.parametrize("fault", [("step", KILL, 8), ("evaluation", KILL, 4)])
def test_a_killed_run_ends_as_the_uninterrupted_one(run, reference, tmp_path, module, fault):
    folder = tmp_path / "run"
    run(module, folder, "--resume", fault=fault)
    assert load_checkpoint(folder / "checkpoint.pt")["step"] < 15
    run(module, folder, "--resume")
    assert_same_run(folder, reference[module])
    mine, theirs = (load_checkpoint(f / "checkpoint.pt") for f in (folder, reference[module]))
    assert_equal(mine.get("trained_weights", {}), theirs.get("trained_weights", {}))


def test_what_averages_weights_is_evaluated_by_them(run, reference, tmp_path, forked, data_path):
    """The checkpoint has both weights; the others are those that --resume goes on with."""
    folder = reference["vision_main"]
    saved = load_checkpoint(folder / "checkpoint.pt")
    trained = saved["trained_weights"]
    assert trained.keys() < saved["model"].keys()
    different = [name for name in trained if not torch.equal(trained[name], saved["model"][name])]
    assert "conv1.weight" in different
    final = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["test"]["loss"]
    where = ("--data_path", data_path["vision_main"], "--device", "cpu")
    flags = ("--dataset", "imagefolder", "--output_dir", folder, "--test_only", *where)
    (code,), output = forked("vision_main", *flags)
    assert code == 0, output
    loss = re.search(r"\[Test\] Loss: (\S+)", output)[1]
    assert float(loss) == pytest.approx(final, rel=1e-5)  # in batches of another size
    new = tmp_path / "new"
    still = ("--init_from", folder, "--lr", "1e-30", "--max_steps", "1", "--warmup", "0")
    run("vision_main", new, *still)
    assert_equal(load_checkpoint(new / "checkpoint.pt")["trained_weights"],
                 {name: saved["model"][name] for name in trained})  # fmt: skip


def test_args_txt_has_the_librarys_version_and_going_on_says_where_it_differs(
    run, reference, tmp_path
):
    folder = tmp_path / "run"
    shutil.copytree(reference["vision_main"], folder)
    args = yaml.safe_load((folder / "args.txt").read_text())
    assert args["environment"]["schedulefree"] == importlib.metadata.version("schedulefree")
    assert (args["momentum"], args["beta1"]) == (None, None)
    assert json.loads(args["resolved"]["optimizer_args"])["betas"] == [0.9, 0.999]
    saved = load_checkpoint(folder / "checkpoint.pt")
    saved["settings"]["environment"]["schedulefree"] = "0.1"
    save_checkpoint(folder / "checkpoint.pt", saved)
    assert "schedulefree was 0.1 and is" in run("vision_main", folder, "--resume")


@pytest.mark.parametrize("module", RUNS)
def test_two_processes_train_as_one_does(run, tmp_path, module):
    dropout = ("--dropout", "0") if module == "language_main" else ("--sync_batchnorm",)
    few = ("--max_steps", "4", "--eval_interval", "9", *dropout)
    losses = []
    for processes in (1, 2):
        folder = tmp_path / f"{processes}"
        run(module, folder, *few, processes=processes)
        record = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        losses.append(record["train"]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
