"""Runs the programs in forks of a process that has loaded everything: a start costs no import.

Reads a JSON object per line, the arguments of `run`, and answers with the list of the processes'
exit codes, negative for a signal. A fault is a name of FAULTS, the signal that the process sends
itself, and how many times it passes the place before.
"""

import importlib
import json
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path


def kill(number: int) -> None:
    os.kill(os.getpid(), number)


def at_call(owner, name: str, number: int, passes: int, half=None) -> None:
    """Send signal `number` in a call of `owner.name`, after `passes` calls that go well: before
    it begins, or, where `half` is given, after half(arguments)."""
    function, calls = getattr(owner, name), []

    def wrapper(*args, **kwargs):
        calls.append(None)
        if len(calls) == passes + 1:
            if half is not None:
                half(*args)
            kill(number)
        return function(*args, **kwargs)

    setattr(owner, name, wrapper)


def half_a_file(content, file) -> None:
    """A checkpoint of which half has reached the disk."""
    import pickle

    whole = pickle.dumps(content)
    file.write(whole[: len(whole) // 2])
    file.flush()


def half_a_line(folder, name: str, line: str) -> None:
    with open(folder.path / name, "a", encoding="utf-8") as file:
        file.write(line[: len(line) // 2])


def start_up(number, passes):
    from training.program import Program

    at_call(Program, "network", number, passes)


def before_training(number, passes):
    import train_eval

    at_call(train_eval.Trainer, "fit", number, passes)


def step(number, passes):
    import train_eval

    at_call(train_eval.Trainer, "train_step", number, passes)


def evaluation(number, passes):
    from training.objective import Objective

    forward = Objective.forward
    calls = []

    def wrapper(self, *args):
        calls.extend([None] * (not self.model.training))
        if len(calls) == passes + 1:
            calls.append(None)
            kill(number)
        return forward(self, *args)

    Objective.forward = wrapper


def half_a_save(number, passes):
    import torch

    at_call(torch, "save", number, passes, half_a_file)


def renaming(number, passes):
    at_call(os, "replace", number, passes)


def result_line(number, passes):
    from run_folder.folder import RunFolder

    at_call(RunFolder, "_append", number, passes, half_a_line)


def interrupt_twice(number, passes):
    import train_eval

    def never_ends(*_):
        kill(number)
        kill(number)

    at_call(train_eval.Trainer, "train_step", 0, passes, never_ends)


def poisoned(number, passes):
    """Weights that are not numbers; `number` is 0, which is no signal."""
    import torch

    import train_eval

    def poison(trainer, *_):
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter.fill_(float("nan"))

    at_call(train_eval.Trainer, "train_step", number, passes, poison)


def minutes(number, passes):
    """No fault: a step takes a minute by the trainer's clock, and each save prints its step."""
    from types import SimpleNamespace

    import train_eval

    made, step, save = [], train_eval.Trainer.train_step, train_eval.save_checkpoint

    def counted(trainer, batches):
        made.append(None)
        return step(trainer, batches)

    def told(path, content):
        print("saved at step", content["step"])
        save(path, content)

    train_eval.time = SimpleNamespace(perf_counter=lambda: 60.0 * len(made))
    train_eval.Trainer.train_step, train_eval.save_checkpoint = counted, told


FAULTS = {
    fault.__name__: fault
    for fault in (
        start_up, before_training, step, evaluation, half_a_save, renaming, result_line,
        interrupt_twice, poisoned, minutes,
    )
}  # fmt: skip


def run(
    module, arguments, output, faults, processes, joined, prepare=lambda rank: None
) -> list[int]:
    """The exit codes of `processes` processes, ranks of one run if `joined`; `faults` by rank.

    `prepare` is called in each, with its rank, before the program is."""
    children, port = [], free_port()
    for rank in range(processes):
        child = os.fork()
        if not child:
            if processes > 1 and joined:
                os.environ |= {
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
                    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                }  # fmt: skip
            work(module, arguments, output, faults.get(str(rank)), partial(prepare, rank))
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def work(module, arguments, output, fault, prepare) -> None:
    os.setpgid(0, 0)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    from cli.errors import one_line_errors

    sys.argv = [f"{module}.py", *arguments]
    try:
        prepare()
        if fault:
            name, number, passes = fault
            FAULTS[name](number, passes)
        with one_line_errors():
            code = importlib.import_module(module).main()
        sys.exit(code)
    except SystemExit as stop:
        sys.stdout.flush()
        os._exit(stop.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def load() -> None:
    """Load whatever a run imports."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    # Nothing that starts threads, which a fork would lose.
    for name in (
        "torch", "torchvision.transforms.v2", "sklearn.datasets", "torch.optim", "torch._dynamo",
        "torch.distributed.fsdp", "train_eval", "tasks.vision", "tasks.language", "vision_main",
        "language_main", "table_main", "inr_main", "pipelines.images.loaders",
        "pipelines.text.loaders", "tasks.table", "tasks.inr",
    ):  # fmt: skip
        importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    load()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
