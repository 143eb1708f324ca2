"""Evaluate a trained language model on standard tasks, by EleutherAI's lm_eval.

    python evaluate_lm.py Output/my_run --tasks lambada_openai,hellaswag --num_fewshot 0

The results, with their standard errors, go into lm_eval.json and train_eval_results.txt of the run
folder, and into reports (report.py). Tasks that are evaluated again are replaced; those with
another number of examples or documents stand beside them. Needs `pip install lm_eval`.

The data of tasks come from Hugging Face, or from --task_data FOLDER: FOLDER/TASK/SPLIT.jsonl (or
.parquet), or a task of your own, a YAML file of lm_eval's form.
"""

import importlib
import os
import sys
from pathlib import Path

from cli.errors import one_line_errors
from cli.evaluation import EvaluationArguments, evaluation_arguments
from cli.run import is_installed
from run_folder.folder import RunFolder
from run_folder.status import FINISHED, status_of
from training.before_torch import shorten_spins
from utils import UserError, may_draw, world_size


def main(argv: list[str] | None = None) -> int:
    """Evaluate; return the exit code."""
    arguments = parse(argv)
    check_run(arguments.run)
    if not is_installed("lm_eval"):
        raise UserError("lm_eval is not installed: pip install lm_eval")
    if not may_draw():  # its bars are no lines of a log; tqdm reads this when it is loaded
        os.environ["TQDM_DISABLE"] = "1"
    shorten_spins()
    # By its name: it loads torch and lm_eval.
    return importlib.import_module("tasks.standard_evaluations").evaluate_run(arguments)


def parse(argv: list[str] | None) -> EvaluationArguments:
    """Read the command line.

    Raises:
        UserError: a flag is unknown, or a value is refused.
    """
    return evaluation_arguments(__doc__, argv)


def check_run(run: Path) -> None:
    """Refuse a folder that holds no finished run of a language model.

    Raises:
        UserError: with the remedy.
    """
    if world_size() > 1:
        raise UserError("evaluate_lm.py is for one process; start it without torchrun")
    try:
        flags = RunFolder(run).arguments()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "its args.txt is damaged"
        raise UserError(f"{run}: no run folder ({reason}); give the folder of a run") from None
    if not isinstance(flags, dict) or "max_seq_length" not in flags:
        raise UserError(
            f"{run}: not a run of language_main.py; images are tested by vision_main.py --test_only"
        )
    status = status_of(run)
    if status.kind != FINISHED:
        raise UserError(
            f"{run}: the run is {status.kind}, not finished; language_main.py --resume {run} goes "
            "on with one that was interrupted"
        )


if __name__ == "__main__":
    with one_line_errors():
        code = main()
    sys.exit(code)
