"""Write down each evaluation of a run: into its folder, and on the terminal."""

import sys
from typing import Any

import torch
from torch import Tensor, nn

from cli.errors import DIVERGED
from run_folder.evaluations import kept_lines
from run_folder.folder import RunFolder, metrics_line
from run_folder.result_lines import Record, also_lines, divergence_line, result_line, summary
from training import processes, sharding
from training.devices import peak_flops, peak_memory_bytes
from training.evaluation import Diverged
from training.task import Task
from utils import is_main, world_size
from zilu.custom.activation import is_custom, sigma_of


class RunLog:
    """Write records of evaluations as lines of results and metrics.

    Args:
        task: describes the metrics.
        folder: the run's.
    """

    def __init__(self, task: Task, folder: RunFolder):
        self.task, self.folder = task, folder

    def add(self, record: Record) -> None:
        """Write one record, and print it with its costs."""
        line = result_line(self.task.describe, record)
        self.folder.add_result(line)
        self.folder.add_metrics(record)
        rate = f"{record[f'{self.task.counted}_per_second']:,.0f} {self.task.counted}/s"
        if "mfu" in record:
            rate += f" ({100 * record['mfu']:.1f} % of the device's peak)"
        memory = record["peak_memory_bytes"] / 2**30
        print(f"{line} | {rate}, {memory:.2f} GiB", flush=True)

    def add_also(self, record: Record, name: str, ending: str, result: Record) -> None:
        """Write the result of a test set beside the test split, and print it without its parts.

        Args:
            record: the run's last one.
            name: of the test set.
            ending: "_ema" of averaged weights, else "".
            result: see `also_lines`.
        """
        lines = also_lines(self.task.describe, name, ending, result)
        self.folder.add_result("\n".join(lines))
        when = {key: record[key] for key in ("epoch", "step")}
        self.folder.add_metrics(when | {f"also{ending}": {name: result}})
        print(lines[0], flush=True)

    def end(self, records: list[Record]) -> None:
        """Write the summary, all lines at once: where there is one, the run is whole."""
        lines = "\n".join(
            summary(self.task.describe, self.task.score, records, self.task.test_each_epoch)
        )
        print(lines)
        # Those of evaluate_lm.py, which a run that goes on has taken back with all after its end.
        kept = kept_lines(self.folder, records[-1]["step"]) if self.folder.writes else []
        self.folder.add_result("\n".join([*kept, lines]))

    def lines_of(self, records: list[Record]) -> dict[str, list[str]]:
        """Return the lines of the result files, by name, that hold these records."""
        return {
            RunFolder.RESULTS: [result_line(self.task.describe, record) for record in records],
            RunFolder.METRICS: [metrics_line(record) for record in records],
        }


def costs(
    task: Task,
    model: nn.Module,
    device: torch.device,
    amp_dtype: torch.dtype | None,
    count: float,
    train_seconds: float,
) -> dict[str, Any]:
    """Return throughput, memory, share of the device's peak, sigmas and alphas.

    Args:
        task: names what is counted, and knows its operations.
        model: the network.
        device: where it is.
        amp_dtype: the precision; None is fp32.
        count: samples trained on since the epoch's start, over all ranks.
        train_seconds: the time that this took.
    """
    rate = count / train_seconds
    memory = torch.tensor(peak_memory_bytes(device))
    found: dict[str, Any] = {
        f"{task.counted}_per_second": rate,
        "peak_memory_bytes": int(processes.total(memory, largest=True)),
    }
    flops, peak = task.flops(model), peak_flops(device, amp_dtype)
    if flops and peak:
        found["mfu"] = rate * flops / (peak * world_size())
    with sharding.whole_activations(model):
        if sigmas := learned_sigmas(model):
            found["sigma"] = sigmas
        if alphas := trained_alphas(model):
            found["alpha"] = alphas
    return found


def learned_sigmas(model: nn.Module) -> dict[str, float]:
    """Return every learned sigma by the path of its module."""
    found = {}
    for path, module in model.named_modules():
        with torch.enable_grad():  # which shows whether it is learned
            sigma = sigma_of(module)
        is_learned = getattr(module, "learnable", False) or (
            is_custom(module) and isinstance(sigma, Tensor) and sigma.requires_grad
        )
        if is_learned and sigma is not None:
            found[path] = sigma.item() if isinstance(sigma, Tensor) else sigma
    return found


def trained_alphas(model: nn.Module) -> dict[str, float]:
    """Return every alpha of an expanded gate by the path of its module."""
    return {
        path: module.alpha.item()
        for path, module in model.named_modules()
        if getattr(module, "expand_gate", False) and not is_custom(module)
    }


def report_divergence(error: Diverged, folder: RunFolder) -> int:
    """Write down that the run diverged; return the exit code."""
    folder.add_result(divergence_line(str(error)))
    folder.add_metrics({"diverged": str(error)})
    if is_main():
        print(
            f"error: the run diverged: {error}; try a lower --lr or more --warmup", file=sys.stderr
        )
    return DIVERGED
