"""Parse the command line of evaluate_lm.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cli.converters import activation_name, count, device_name, file_path, one_of, positive_int
from cli.parser import checked, parsed_into, tool_parser


@dataclass(frozen=True)
class EvaluationArguments:
    """Hold the command line.

    Attributes:
        run: the folder of a finished run.
        tasks: names of lm_eval's, or paths of task files.
        num_fewshot: examples before each question; None for each task's own number.
        limit: of each task so many first documents; None for all.
        batch_size: texts that the network is given at once.
        device: where it computes.
        task_data: a folder with tasks, or the data of tasks; None for Hugging Face's.
        use_amp, amp_dtype: the precision; None for the run's.
        ema: evaluate the averaged weights.
        tokenizer, data_path: where the run's tokenizer is; None for where it was.
        activation: the user's own, whose code may be run.
    """

    run: Path
    tasks: list[str]
    num_fewshot: int | None
    limit: int | None
    batch_size: int
    device: str
    task_data: Path | None
    use_amp: bool | None
    amp_dtype: str | None
    ema: bool
    tokenizer: str | None
    data_path: str | None
    activation: str | None

    def language_flags(self) -> list[str]:
        """Return the command line of language_main.py that tests this run's network."""
        words = ["--test_only", "--output_dir", str(self.run), "--device", self.device]
        for name in ("amp_dtype", "tokenizer", "data_path", "activation"):
            value = getattr(self, name)
            words += [] if value is None else [f"--{name}", value]
        if self.use_amp is not None:
            words.append("--use_amp" if self.use_amp else "--no-use_amp")
        return words


def task_names(text: str) -> list[str]:
    """Return names with commas between, each once."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ValueError("expected names of tasks with commas between: lambada_openai,hellaswag")
    return names


def evaluation_arguments(description: str, argv: list[str] | None) -> EvaluationArguments:
    """Read the command line.

    Args:
        description: the program's docstring.
        argv: the command line, by default the process's own.

    Raises:
        UserError: a flag is unknown, or a value is refused.
    """
    parser = tool_parser("%(prog)s RUN --tasks NAMES [flags]", description)
    parser.add_argument("run", type=checked(file_path), metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--use_amp", action="store_true", default=None, help="mixed precision (as the run)"
    )
    parser.add_argument("--no-use_amp", action="store_false", dest="use_amp", default=None,
        help="full precision")  # fmt: skip
    parser.add_argument("--ema", action="store_true", help="evaluate the averaged weights")
    for name, convert, default, text in (
        ("tasks", task_names, None, "names of tasks, or their .yaml files, with commas between"),
        ("num_fewshot", count, None, "examples before each question (the task's own; else 0)"),
        ("limit", positive_int, None, "only so many first documents of each task (all)"),
        ("batch_size", positive_int, 16, "texts at once (16)"),
        ("device", device_name, "auto", "auto, cpu, cuda, cuda:N, mps (auto)"),
        ("task_data", file_path, None, "folder of task files of your own, or of tasks' data"),
        ("amp_dtype", one_of("auto", "bf16", "fp16"), None, "of --use_amp (as the run)"),
        ("tokenizer", str, None, "where the run's tokenizer is now, if it was moved"),
        ("data_path", str, None, "folder of gpt2/, the tokenizer, if it was moved"),
        ("activation", activation_name, None, "an activation of your own: run its code again"),
    ):
        parser.add_argument(
            f"--{name}", type=checked(convert), default=default, metavar="VALUE", help=text,
            required=name == "tasks",
        )  # fmt: skip
    return parsed_into(EvaluationArguments, parser, argv)
