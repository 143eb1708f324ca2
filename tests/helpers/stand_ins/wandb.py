"""Stand in for the package wandb: keeps what it is sent in files, and is as strict about steps.

The server is a folder, $WANDB_STAND_IN, with a file of rows for each run. What is sent there is
there at once, as if the network were infinitely fast. Offline runs lie where wandb puts them.
$WANDB_REFUSES names what fails: `online`, or `row N`.
"""

import json
import os
from pathlib import Path


class Error(Exception):
    pass


class Run:
    def __init__(self, folder, rows, options, mode):
        self.folder, self.rows, self.mode = folder, rows, mode
        self.step = 0
        if rows.exists():
            self.step = 1 + max(json.loads(line)["_step"] for line in rows.open())
        (folder / "options.json").write_text(json.dumps([mode, options]))
        self.metrics = {}

    def define_metric(self, name, step_metric):
        self.metrics[name] = step_metric

    def log(self, values, step):
        if os.environ.get("WANDB_REFUSES") == f"row {step}":
            raise Error("no more rows\nwith a second line")
        if step < self.step:  # wandb warns and forgets the values
            raise Error(f"step {step} comes after {self.step - 1}")
        assert self.metrics == {"*": "step"}
        with self.rows.open("a") as file:
            file.write(json.dumps({"_step": step} | values) + "\n")
        self.step = step + 1

    def finish(self, exit_code):
        (self.folder / "exit_code").write_text(str(exit_code))


def init(id, dir, name, config, resume=None, mode=None):
    mode = mode or os.environ.get("WANDB_MODE", "online")
    options = {"id": id, "name": name, "config": config, "resume": resume}
    if mode == "online":
        if os.environ.get("WANDB_REFUSES") == "online":
            raise Error("No API key configured.\nUse `wandb login` to log in.")
        assert resume == "allow", "a second run of this id would replace the first one's rows"
        folder = Path(os.environ["WANDB_STAND_IN"]) / id
        folder.mkdir(parents=True, exist_ok=True)
    else:
        number = len(list((Path(dir) / "wandb").glob("offline-run-*")))
        folder = Path(dir) / "wandb" / f"offline-run-{os.getpid()}{number}-{id}"
        folder.mkdir(parents=True)
    return Run(folder, folder / "rows.jsonl", options, mode)


def teardown():
    pass
