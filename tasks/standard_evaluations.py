"""Evaluate a finished run on tasks of lm_eval, and write down what it finds."""

from __future__ import annotations

import logging
import random
import tempfile
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import numpy
import torch

from cli.evaluation import EvaluationArguments
from cli.language import LanguageConfig
from cli.parser import parse
from pipelines.text import tokenizer
from run_folder.checkpoint import load_checkpoint
from run_folder.evaluations import Results, add_evaluations, evaluation_lines, label
from run_folder.folder import RunFolder
from tasks.harness_model import NetworkLM
from tasks.harness_tasks import load_tasks
from tasks.language import LanguageModelling, LanguageProgram
from training.devices import enough_memory
from training.objective import Objective
from utils import UserError, may_draw

# lm_eval's own, so that its examples are those of published results.
SEED, OTHER_SEED = 0, 1234


NO_TEXT: Any = None  # in place of TextData: a checkpoint knows the size of the vocabulary


def evaluate_run(arguments: EvaluationArguments) -> int:
    """Evaluate, print the results and add them to the run folder; return the exit code.

    Raises:
        UserError: a task, its data or the run cannot be used.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if not may_draw():
        datasets.disable_progress_bars()  # its bars are no lines of a log
    with tempfile.TemporaryDirectory() as scratch:
        tasks = load_tasks(arguments.tasks, arguments.task_data, Path(scratch))
        model, facts = evaluated_network(arguments)
        with enough_memory(model.device):
            found = evaluate(model, tasks, arguments.num_fewshot, arguments.limit)
    results = results_of(found, arguments, facts)
    for line in evaluation_lines(results):
        print(line)
    with RunFolder(arguments.run).locked():
        try:
            add_evaluations(arguments.run, results)
        except ValueError as error:
            raise UserError(f"{error}; move it away, and evaluate again") from None
    print(f"Results: {arguments.run / RunFolder.EVALUATIONS}")
    return 0


def evaluated_network(arguments: EvaluationArguments) -> tuple[NetworkLM, dict[str, Any]]:
    """Return the run's network as lm_eval takes it, and what results say of it.

    Raises:
        UserError: the checkpoint or the tokenizer cannot be used.
    """
    command = parse(LanguageConfig, str(__doc__), arguments.language_flags())
    command.check()
    path = arguments.run / RunFolder.CHECKPOINT
    checkpoint = load_checkpoint(path)
    program = LanguageProgram.of_checkpoint(command, path, checkpoint)
    config = program.config
    data = config.data
    vocabulary = tokenizer.load_for(data.dataset, data.tokenizer, data.data_path)
    network = program.trained_network(NO_TEXT, path, checkpoint)
    if arguments.ema:
        if "ema" not in checkpoint:
            raise UserError(f"--ema: {arguments.run} has no averaged weights; leave it out")
        network.load_state_dict(checkpoint["ema"]["model"])
    objective = Objective(network.eval(), LanguageModelling(), program.device, program.amp_dtype)
    length = config.model.max_seq_length
    model = NetworkLM(network, vocabulary, length, arguments.batch_size, objective.precision)
    return model, {"step": checkpoint["step"], "precision": program.precision}


def evaluate(model: Any, tasks: Any, num_fewshot: int | None, limit: int | None) -> Any:
    """Return lm_eval's results; `num_fewshot` counts where a task does not forbid examples."""
    random.seed(SEED)
    numpy.random.seed(OTHER_SEED)
    torch.manual_seed(OTHER_SEED)
    for task in tasks["tasks"].values():
        own = task.get_config("num_fewshot")
        if own is None or (num_fewshot is not None and own != 0):
            task.set_config(key="num_fewshot", value=num_fewshot or 0)
        task.set_fewshot_seed(seed=OTHER_SEED)
    return lm_eval.evaluate(lm=model, task_dict=tasks, limit=limit, log_samples=False)


def results_of(found: Any, arguments: EvaluationArguments, facts: dict[str, Any]) -> Results:
    """Return lm_eval's results as the run folder keeps them, by label."""
    counts = {name: numbers["effective"] for name, numbers in found["n-samples"].items()}
    made = {
        **facts, "lm_eval": version("lm_eval"), "limit": arguments.limit, "ema": arguments.ema,
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }  # fmt: skip
    results = {}
    for task, numbers in found["results"].items():
        metrics = _metrics(numbers, found["higher_is_better"].get(task) or {})
        if not metrics:  # a group without a mean of its own
            continue
        shots = int(found["n-shot"].get(task, arguments.num_fewshot or 0))
        documents = sum(counts.get(name, 0) for name in _leaves(task, found["group_subtasks"]))
        name = label(task, shots, arguments.limit, arguments.ema)
        results[name] = {
            "task": task, "metrics": metrics, "num_fewshot": shots, "documents": documents,
            "version": found["versions"].get(task), **made,
        }  # fmt: skip
    return results


def _leaves(name: str, members: dict[str, list[str]]) -> set[str]:
    """Return the tasks of a group, those of the groups in it among them; of a task itself."""
    below = members.get(name)
    return set().union(*(_leaves(each, members) for each in below)) if below else {name}


def _metrics(numbers: dict[str, Any], higher: dict[str, Any]) -> dict[str, Any]:
    """Return value and standard error of each metric.

    lm_eval calls them `acc,none` and `acc_stderr,none`, the latter part being that of a filter.
    """
    metrics = {}
    for key, value in numbers.items():
        name, comma, filtered = key.partition(",")
        if not comma or name.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = numbers.get(f"{name}_stderr,{filtered}")
        shown = name if filtered == "none" else f"{name} ({filtered})"
        metrics[shown] = {
            "value": float(value),
            "stderr": float(error) if isinstance(error, int | float) else None,
            "higher_is_better": higher.get(name),
        }
    return metrics
