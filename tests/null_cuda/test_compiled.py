"""torch.compile, and CUDA graphs: one graph for each of training and evaluation, no waits."""

from __future__ import annotations

import json

import pytest

from null_cuda.short_runs import PRECISIONS, RECIPES, assert_never_waits
from zilu.names import OUTPUT_NAMES

MODES = ("default", "reduce-overhead")
# Of batches that small an evaluation has several full ones, which alone are compiled for.
SMALL_BATCHES = {"vision_main": "64", "language_main": "4"}
SHALLOW = {
    "resnet": ("digits_demo", ["--use_amp", "--amp_dtype", "fp16"]),
    "vit": ("cifar10_vit_tiny", []),
    "gpt2": ("pydoc_demo", ["--use_amp", "--amp_dtype", "bf16", "--num_layers", "1"]),
}
FROM_OUTPUT = ["--save_for_backward", "output", "--inplace", "--learn_sigma"]


@pytest.fixture
def compiled(null_cuda, short_form, tmp_path):
    """Run a recipe in short form, compiled; `shallow` cuts its network short."""

    def run(recipe, mode, *flags, shallow=False):
        program, *own = short_form(recipe)
        if not recipe.startswith("imagenet"):  # theirs are smaller yet
            own += ["--batch_size", SMALL_BATCHES[program]]
        own += flags
        own += ["--use_compiled", "--compile_mode", mode]
        own += ["--device", "cuda", "--output_dir", tmp_path / "run"]
        if shallow and program == "vision_main":
            program = "null_cuda.shallow_networks"
        return null_cuda(program, *own)

    return run


def assert_compiled(ran, mode: str, batches: int = 1) -> None:
    """Assert that all was compiled, and that nothing waits once graphs are recorded.

    Args:
        ran: what the fixture has run.
        mode: torch.compile's.
        batches: how many make a step.
    """
    assert_never_waits(ran, first_batch=3)
    (report,) = ran.reports
    assert report["breaks"] == {}
    assert report["graphs"] == 2  # training and evaluation: none was compiled again
    graphs = [step["graph_launches"] for step in report["steps"][2:]]
    forward_and_backward = 2 * batches if mode == "reduce-overhead" else 0
    assert graphs == [forward_and_backward] * len(graphs)


@pytest.mark.parametrize(
    ("network", "mode"),
    [
        # The test below does much of what these do, each of which takes half a minute.
        pytest.param("resnet", "reduce-overhead", marks=pytest.mark.slow),
        pytest.param("vit", "reduce-overhead", marks=pytest.mark.slow),
        pytest.param("resnet", "default", marks=pytest.mark.slow),
        pytest.param("vit", "default", marks=pytest.mark.slow),
        pytest.param("gpt2", "default", marks=pytest.mark.slow),
        pytest.param("gpt2", "reduce-overhead", marks=pytest.mark.slow),
    ],
)
def test_shallow_networks(network, mode, compiled):
    recipe, flags = SHALLOW[network]
    assert_compiled(compiled(recipe, mode, *flags, shallow=True), mode)


@pytest.mark.slow
def test_accumulated_with_graphs(compiled):
    recipe, flags = SHALLOW["gpt2"]
    flags = [*flags, "--grad_accum_steps", "2", "--batch_size", "2"]
    ran = compiled(recipe, "reduce-overhead", *flags, shallow=True)
    assert_compiled(ran, "reduce-overhead", batches=2)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet", "gpt2"])
def test_gradients_from_the_output(network, compiled):
    recipe, flags = SHALLOW[network]
    ran = compiled(recipe, "reduce-overhead", *flags, *FROM_OUTPUT, shallow=True)
    assert_compiled(ran, "reduce-overhead")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "inplace"),
    [
        (["ZiLU"], True),
        (OUTPUT_NAMES, False),
        (OUTPUT_NAMES, True),
    ],
)
def test_graphs_of_a_network_from_the_output(names, inplace, null_cuda):
    arguments = {"names": names, "inplace": inplace, "steps": 5}
    ran = null_cuda("null_cuda.calls", "compiled_from_output", json.dumps(arguments))
    assert ran.codes == [0], ran.output
    (report,) = ran.reports
    assert report["breaks"] == {}
    assert report["graphs"] == 1
    # The first step compiles, and the second records the graphs of forward and backward.
    assert ran.of_devices("graph_launches") == [2 * 4]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes(recipe, precision, mode, compiled):
    assert_compiled(compiled(recipe, mode, *PRECISIONS[precision]), mode)
