"""Run a network with replaced calls and learned sigmas in DistributedDataParallel and FSDP."""

import copy
import itertools

import pytest
import torch
from helpers.networks_to_rewrite import Both, Calls, rewritten
from torch import distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

PROCESSES = 2
NAMES = ("ZiLU", "ZiLU_Approx", "SquarePlus")
CASES = [("ZiLU", "input", False), *itertools.product(NAMES, ["output"], [False, True])]


def data_parallel(model):
    return nn.parallel.DistributedDataParallel(model)


def sharded(model):
    mesh = init_device_mesh("cpu", (PROCESSES,))
    fully_shard(model.calls, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def flattened(model):
    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)


def gradients(model, x):
    model.zero_grad()
    model(x).square().mean().backward()
    grads = [p.grad for p in model.parameters()]
    return [g.full_tensor() if hasattr(g, "full_tensor") else g for g in grads]


def compare(rank, wrap, name, save, inplace):
    torch.manual_seed(0)
    x = torch.randn(4, 8)
    model = Both(Calls())
    sharpness = {} if name == "SquarePlus" else {"learnable": True, "sigma": 0.7}
    rewritten(model, name, x, save=save, **sharpness)
    for module in model.modules():
        if hasattr(module, "save"):
            module.inplace = inplace
    alone = copy.deepcopy(model)
    wrapped, mine = wrap(model), x.chunk(PROCESSES)[rank]
    torch.testing.assert_close(wrapped(mine), alone(mine))
    if wrap is not flattened:  # it keeps only pieces of the gradients
        torch.testing.assert_close(gradients(wrapped, mine), gradients(alone, x))


def work(rank, rendezvous, wrap, failures):
    distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=PROCESSES
    )
    try:
        for case in CASES:
            compare(rank, wrap, *case)
    except Exception as error:
        failures.put(f"{case}: {error!r}")
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("wrap", [data_parallel, sharded, flattened])
def test_results_are_those_of_one_process(wrap, tmp_path):
    if wrap is sharded and torch.__version__ < "2.7":
        pytest.skip("torch 2.6 shards on GPUs only")
    # Forks of this process could not run backward once threads of backward have started here.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_replacement"])
    failures = context.SimpleQueue()
    arguments = tmp_path / "rendezvous", wrap, failures
    processes = [context.Process(target=work, args=(r, *arguments)) for r in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert failures.empty(), failures.get()
    assert [process.exitcode for process in processes] == [0] * PROCESSES
