"""Which devices a program touches, what it does when one is full or it is stopped, and memory."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import pytest

from cli.errors import TRY_AGAIN, USER_ERROR
from models.catalogue import LANGUAGE_MODELS, VISION_MODELS
from null_cuda import device
from null_cuda.short_runs import ROOT, VISION, unexpected

RUN = ["--config", f"{ROOT}/recipes/digits_demo.yaml", *VISION, "--max_steps", "4"]


# --- the chosen device alone ---


@pytest.mark.slow
@pytest.mark.parametrize("precision", [[], ["--use_amp"]], ids=["fp32", "amp"])
def test_another_device_is_not_touched(precision, null_cuda, tmp_path):
    flags = [*RUN, *precision, "--device", "cuda:1", "--output_dir", tmp_path / "run"]
    ran = null_cuda("vision_main", *flags, devices=3)
    assert ran.codes == [0], ran.output
    for name in ("contexts", "allocations", "launches", "waits"):
        first, second, third = ran.of_devices(name)
        assert first == third == 0, name
        assert second > 0, name


def test_a_benchmark_waits_for_its_own_device(null_cuda, tmp_path):
    ran = null_cuda(
        "benchmark", "--activations", "ZiLU", "--dtypes", "fp32", "--sizes", "2^12", "--rounds", 1,
        "--device", "cuda:1", "--output_dir", tmp_path, devices=2,
    )  # fmt: skip
    assert ran.codes == [0], ran.output
    assert ran.of_devices("contexts") == [0, 1]


@pytest.mark.parametrize(
    ("processes", "optimizer"),
    [
        (1, "sgd"),
        pytest.param(
            1, "adamw",
            marks=pytest.mark.xfail(strict=True, reason="torch's Adam asks a GPU for its stream"),
        ),
        pytest.param(2, "sgd", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_run_on_the_cpu_touches_no_device(processes, optimizer, null_cuda, tmp_path):
    flags = [*RUN, "--resize", "8", "--optimizer", optimizer, "--lr", "0.01", "--device", "cpu"]
    flags += ["--output_dir", tmp_path / "run"]
    ran = null_cuda("vision_main", *flags, processes=processes, devices=2)
    assert ran.codes == [0] * processes, ran.output
    for rank in range(processes):
        assert ran.of_devices("contexts", rank) == [0, 0]


@pytest.mark.parametrize(("capability", "dtype"), [(75, "float16"), (80, "bfloat16")])
def test_mixed_precision_is_what_the_device_has(capability, dtype, null_cuda, tmp_path):
    flags = [*RUN, "--use_amp", "--device", "cuda", "--output_dir", tmp_path / "run"]
    ran = null_cuda("vision_main", *flags, capability=capability)
    assert ran.codes == [0], ran.output
    assert f"amp_dtype: {dtype}" in (tmp_path / "run/args.txt").read_text()


@pytest.mark.slow
def test_torchrun(tmp_path, image_folder):
    if reason := device.missing():
        pytest.skip(reason)
    flags = [*RUN, "--device", "cuda", "--output_dir", tmp_path / "run"]
    program = [ROOT / "tests/null_cuda/server.py", tmp_path / "report", "vision_main", *flags]
    ran = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         *map(str, program)],
        env=device.environment(tmp_path) | device.settings(devices=2), cwd=ROOT,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    for rank in (0, 1):
        report = json.loads((tmp_path / f"report.{rank}").read_text())
        assert [counts["contexts"] for counts in report["devices"]] == [rank == 0, rank == 1]


# --- memory ---


def test_too_little_memory_for_a_step_is_one_line(null_cuda, tmp_path):
    flags = [*RUN, "--batch_size", "1024", "--device", "cuda", "--output_dir", tmp_path / "run"]
    ran = null_cuda("vision_main", *flags, mib=500)
    assert ran.codes == [USER_ERROR], ran.output
    assert "Traceback" not in ran.output
    (line,) = re.findall("^error: .*$", ran.output, re.MULTILINE)
    assert "--batch_size" in line
    assert "--grad_accum_steps" in line
    assert (tmp_path / "run/checkpoint.pt").exists()


def test_a_device_that_others_have_filled_is_one_line(null_cuda, tmp_path):
    flags = [*RUN, "--device", "cuda:1", "--output_dir", tmp_path / "run"]
    ran = null_cuda("vision_main", *flags, devices=2, full=1)
    assert ran.codes == [USER_ERROR], ran.output
    assert "Traceback" not in ran.output
    assert len(re.findall("^error: .*$", ran.output, re.MULTILINE)) == 1


@pytest.fixture
def call(null_cuda):
    """Call a function of null_cuda/calls.py and return its result."""

    def call(name, **arguments):
        ran = null_cuda("null_cuda.calls", name, json.dumps(arguments))
        assert ran.codes == [0], ran.output
        return json.loads(ran.output.split("RESULT ")[1])

    return call


@pytest.mark.parametrize("amp", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("model", ["resnet20", "vit-tiny", "gpt2"])
def test_peak_memory_is_that_of_gelu(model, amp, call):
    names = ["ReLU", "GELU", "ZiLU", "ZiLU_Approx"]
    peaks = call("peaks", model=model, activations=names, use_amp=amp, batch_size=64)
    assert peaks["ZiLU"] == peaks["ZiLU_Approx"] == pytest.approx(peaks["GELU"], rel=1e-4)
    # What ReLU gives is all that its backward pass needs, and the next layer keeps that anyway.
    assert peaks["ReLU"] < peaks["ZiLU"] < 1.7 * peaks["ReLU"]


@pytest.mark.parametrize("learn_sigma", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("model", ["resnet20", "vit-tiny", "gpt2"])
def test_peak_memory_from_the_output_is_that_of_relu(model, learn_sigma, call):
    common = {"model": model, "use_amp": True, "batch_size": 64}
    relu = call("peaks", activations=["ReLU"], **common)["ReLU"]
    saving = {"save_for_backward": "output", "learn_sigma": learn_sigma}
    found = call("peaks", activations=["ZiLU", "ZiLU_Approx"], **saving, **common)
    assert max(found.values()) <= 1.01 * relu


@pytest.mark.parametrize("model", ["resnet20", "gpt2"])
def test_a_learned_sigma_needs_no_further_memory(model, call):
    fixed, learned = (
        call("peaks", model=model, activations=["ZiLU"], batch_size=64, learn_sigma=is_learned)
        for is_learned in (False, True)
    )
    assert learned["ZiLU"] < 1.05 * fixed["ZiLU"]


# --- launches ---


@pytest.mark.parametrize("program", ["digits_demo", "pydoc_demo"])
def test_a_step_launches_as_many_kernels_as_with_gelu(program, null_cuda, short_form, tmp_path):
    launches = {}
    for activation in ("GELU", "ZiLU"):
        flags = [*short_form(program), "--activation", activation, "--use_amp"]
        ran = null_cuda(*flags, "--device", "cuda", "--output_dir", tmp_path / activation)
        assert ran.codes == [0], ran.output
        launches[activation] = [step["launches"] for step in ran.reports[0]["steps"]]
    # In ResNet-20 ZiLU keeps channels last where GELU's backward pass puts them first: a copy, and
    # BatchNorm's other kernels, in all 389 launches for 384.
    limit = 1.02 if program == "digits_demo" else 1
    for zilu, gelu in zip(launches["ZiLU"], launches["GELU"], strict=True):
        assert gelu <= zilu <= limit * gelu


# --- layout ---


@pytest.mark.parametrize("norm", ["bn", "gn"])
@pytest.mark.parametrize(
    "model",
    ["resnet20", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vgg11", "resnet50"))],
)
def test_channels_stay_last(model, norm, call):
    assert call("channels_first", model=model, norm=norm) == []
    assert call("channels_first", model=model, norm=norm, use_amp=True) == []


# --- deterministic ---

SMALL = [{"model": name} for name in (*VISION_MODELS, *LANGUAGE_MODELS)]
OTHER_FORMS = [
    {"model": "resnet18", "size": 96, "stem": "imagenet"},
    {"model": "resnet50", "size": 64, "stem": "imagenet"},
    {"model": "vit-tiny", "size": 64, "patch_size": 16},
    {"model": "vgg11", "size": 224, "head": "imagenet"},
    {"model": "resnet20", "norm": "gn"},
    {"model": "resnet20", "activation": "PReLU"},
    {"model": "resnet20", "learn_sigma": True},
    {"model": "gpt2", "learn_sigma": True, "dropout": 0.1},
    {"model": "resnet20", "learn_sigma": True, "save_for_backward": "output", "inplace": True},
]


@pytest.mark.parametrize(
    "amp", [pytest.param(False, marks=pytest.mark.slow, id="fp32"), pytest.param(True, id="bf16")]
)
def test_every_model_is_deterministic(amp, call):
    cases = [case | {"use_amp": amp} for case in SMALL + OTHER_FORMS]
    assert call("deterministic", cases=cases) == {}


@pytest.mark.parametrize("size", [64, 128, 256])
def test_vggs_imagenet_head_is_deterministic(size, call):
    case = {"model": "vgg11", "size": size, "head": "imagenet"}
    assert call("deterministic", cases=[case]) == {}


# --- stopped, and going on ---


def test_a_stopped_run_goes_on(null_cuda, tmp_path):
    flags = [*RUN, "--max_steps", "10", "--use_amp", "--device", "cuda"]
    flags += ["--output_dir", tmp_path / "run"]
    stop = {"0": ("step", int(signal.SIGUSR1), 3)}
    first = null_cuda("vision_main", *flags, faults=stop)
    assert first.codes == [TRY_AGAIN], first.output
    second = null_cuda("vision_main", *flags, "--resume")
    assert second.codes == [0], second.output
    done = [len(ran.reports[0]["steps"]) for ran in (first, second)]
    assert done == [4, 6]
    assert not unexpected(second, first=done[0] + 3)
