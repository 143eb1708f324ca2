"""The scripts of bash/ on a real SLURM cluster of this machine, with a stand-in for the programs;
the slow tests run the programs themselves."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import slurm_cluster
from helpers.close_runs import assert_close
from helpers.resumable import assert_same_run, without_times

pytestmark = pytest.mark.skipif(
    not slurm_cluster.AVAILABLE, reason="needs root, and Debian's slurm-wlm and munge"
)

ROOT = Path(__file__).parents[2]

# Keeps the programs' promises: --resume, what a signal does, CONTINUE and the job's own file. A
# step takes 0.1 s.
STAND_IN = """
import argparse, json, os, signal, sys, time
from pathlib import Path

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--output_dir", type=Path)
parser.add_argument("--resume", nargs="?", const="auto")
parser.add_argument("--words", nargs="*")
parser.add_argument("--steps", type=int)  # of the whole run
parser.add_argument("--steps_per_start", type=int, default=10**9)  # then it is interrupted
parser.add_argument("--code", type=int, default=0)
parser.add_argument("--linger", type=Path)  # interrupted, wait for that file
args = parser.parse_args()

def say(line):  # in one piece: unbuffered, `print` would mix its words with another process's
    sys.stdout.write(line + "\\n")

say("arguments " + json.dumps(sys.argv[1:]))
say(f"process {os.environ.get('RANK')} offline {os.environ['HF_HUB_OFFLINE']}")
signals = []
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: signals.append(number))
checkpoint, marker = args.output_dir / "checkpoint.pt", args.output_dir / "CONTINUE"
marker.unlink(missing_ok=True)
first = step = int(checkpoint.read_text()) if checkpoint.exists() else 0
while step < args.steps and step - first < args.steps_per_start and not signals:
    time.sleep(0.1)
    step += 1
    say(f"step {step}")
if step > first:
    checkpoint.write_text(str(step))
if step < args.steps:
    marker.touch()
    Path(os.environ["ZILU_CONTINUE"]).touch()
    while args.linger and not args.linger.exists():
        time.sleep(0.1)
    sys.exit(75)
sys.exit(args.code)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm_cluster.Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        cluster.environment |= {
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        yield cluster


@pytest.fixture
def project(tmp_path, cluster):
    """The scripts, with the stand-in for both programs."""
    shutil.copytree(ROOT / "bash", tmp_path / "bash")
    (tmp_path / "training").symlink_to(ROOT / "training")  # for the start of several processes
    for name in ("vision_main.py", "language_main.py"):
        (tmp_path / name).write_text(STAND_IN)
    yield tmp_path
    cluster.cancel_all()


# Not, for example, REQUEUED or CONFIGURING, which a job is for moments between two starts.
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


class Job:
    """One submission. `words` are sbatch's; the run folder is RUN."""

    def __init__(self, cluster, project, *words, before="true"):
        self.cluster, self.project, self.hurried = cluster, project, set()
        script = f'{before} && sbatch --parsable "$@"'
        self.id = cluster.run("bash", "-c", script, "bash", *words, cwd=project).strip()
        assert self.id

    def task(self, number: int) -> "Task":
        return Task(self, number)

    def facts(self) -> dict[str, str]:
        text = self.cluster.run("scontrol", "show", "job", self.id)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def state(self) -> str:
        return self.facts()["JobState"]

    def wait_for_end(self, seconds=60):
        """The exit code; however often it is requeued."""
        end = time.monotonic() + seconds
        while self.state() not in ENDED:
            assert time.monotonic() < end, self.log()
            self.hurry()
            time.sleep(0.2)
        return int(self.facts()["ExitCode"].split(":")[0])

    def hurry(self):
        """A requeued job, without SLURM's delay; but not in the second in which it was stopped,
        as SLURM would take the new start for the old one."""
        if self.facts()["Reason"] == "BeginTime" and self.restarts() not in self.hurried:
            self.hurried.add(self.restarts())
            self.cluster.run("scontrol", "update", f"JobId={self.id}", "StartTime=now+1")

    def wait_for_log(self, text, seconds=60):
        def found():
            self.hurry()
            return text in self.log()

        self.cluster.wait_for(found, seconds)

    def preempt(self):
        """By a job that takes both nodes for a moment."""
        restarts = self.restarts()
        words = ("--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null")
        self.cluster.run("sbatch", *words, "--wrap=true", cwd=self.project)
        self.cluster.wait_for(lambda: self.restarts() > restarts)  # counted before it has ended

    def interrupt(self):
        """Send the signal of --signal=B:USR1, as before the time limit."""
        self.cluster.run("scancel", "--batch", "--signal=USR1", self.id)

    def restarts(self):
        return int(self.facts()["Restarts"])

    def output(self) -> str:
        """Return what SLURM wrote."""
        return (self.project / f"slurm-{self.id}.out").read_text()

    def log(self, run="RUN") -> str:
        path = self.project / run / f"slurm-{self.id}.log"
        return path.read_text() if path.exists() else ""


class Task(Job):
    """One task of an array, whose run folder is RUN and its number."""

    def __init__(self, array: Job, number: int):
        self.cluster, self.project, self.hurried = array.cluster, array.project, set()
        self.id, self.run = f"{array.id}_{number}", array.project / f"RUN{number}"

    def log(self) -> str:
        return "".join(path.read_text() for path in self.run.glob("slurm-*.log"))

    def starts(self) -> int:
        return self.log().count("--- job ")


def hurry_all(cluster):
    """The tasks of an array, as Job.hurry does for one job."""
    time.sleep(1)  # SLURM takes a start in the second of the stop for the old one
    for task in cluster.run("squeue", "-h", "-r", "-o", "%A %r").splitlines():
        number, reason = task.split(" ", 1)
        if reason == "BeginTime":
            cluster.run("scontrol", "update", f"JobId={number}", "StartTime=now+1")


def test_flags_exit_code_and_log(cluster, project):
    words = ["--words", "a b", "c'd", '"e"', "$HOME", "*", ""]
    job = Job(cluster, project, "bash/vision.sbatch", "--steps", 2, *words)
    crash = ("--steps", 2, "--code", 3, "--output_dir=a folder")
    crashed = Job(cluster, project, "bash/language.sbatch", *crash)
    assert job.wait_for_end() == 0
    assert crashed.wait_for_end() == 3
    assert (job.restarts(), crashed.restarts()) == (0, 0)
    run = f"Output/slurm/vision-{job.id}"
    arguments = json.loads(re.search("arguments (.*)", job.log(run))[1])
    assert arguments == ["--steps", "2", *words, "--output_dir", run, "--resume"]
    assert job.output() == f"Log: {run}/slurm-{job.id}.log\n"
    assert "step 2" in crashed.log("a folder")


def test_settings_come_from_one_file(cluster, project):
    with open(project / "bash/env.sh", "a") as file:
        file.write("export SBATCH_PARTITION=urgent\n")
    words = ("bash/vision.sbatch", "--steps", 1, "--output_dir", "RUN")
    job = Job(cluster, project, *words, before="source bash/env.sh")
    facts = job.facts()
    assert (facts["Partition"], facts["TimeLimit"]) == ("urgent", "04:00:00")
    assert facts["TresPerNode"].endswith("gpu:1")
    assert job.wait_for_end() == 0
    assert "process None offline 1\n" in job.log()


def test_a_process_for_every_gpu(cluster, project):
    words = ("--gpus-per-node=2", "bash/vision.sbatch", "--steps", 1, "--output_dir", "RUN")
    job = Job(cluster, project, *words)
    assert job.wait_for_end() == 0
    assert sorted(re.findall(r"process (\w+)", job.log())) == ["0", "1"]


def test_goes_on_to_its_end(cluster, project):
    """More often than SLURM's default of 5 for requeues that it chooses to make itself."""
    flags = ("--output_dir", "RUN", "--steps", 7, "--steps_per_start", 1)
    job = Job(cluster, project, "bash/vision.sbatch", *flags)
    assert job.wait_for_end() == 0
    assert re.findall("step .*", job.log()) == [f"step {number}" for number in range(1, 8)]
    assert job.restarts() == 6
    assert job.output().count("Log: ") == 7


def test_signals(cluster, project):
    """Before the time limit, on preemption, and from the user, who does not want it back."""
    job = Job(cluster, project, "bash/vision.sbatch", "--output_dir", "RUN", "--steps", 10**6)
    checkpoint, marker = project / "RUN/checkpoint.pt", project / "RUN/CONTINUE"
    job.wait_for_log("step 5\n")
    job.interrupt()
    job.wait_for_log("1 restarts\n")
    job.wait_for_log(f"step {int(checkpoint.read_text()) + 5}\n")
    job.preempt()
    cluster.wait_for(marker.exists)
    job.wait_for_log("2 restarts\n")
    job.wait_for_log(f"step {int(checkpoint.read_text()) + 5}\n")
    assert not marker.exists()
    cluster.run("scancel", job.id)
    cluster.wait_for(lambda: job.state() == "CANCELLED")
    assert marker.exists()
    steps = [int(step) for step in re.findall(r"step (\d+)", job.log())]
    assert steps == list(range(1, len(steps) + 1))
    time.sleep(2)
    assert job.state() == "CANCELLED"


def test_no_progress_no_requeue(cluster, project):
    flags = ("--output_dir", "RUN", "--steps", 1, "--steps_per_start", 0)
    job = Job(cluster, project, "bash/vision.sbatch", *flags)
    assert job.wait_for_end() == 1
    assert job.restarts() == 2
    assert "error: interrupted three times before a checkpoint was saved" in job.log()


def test_resume_from_a_folder(cluster, project):
    """Later starts go on where the earlier ones ended, not where the first one began."""
    (project / "old").mkdir()
    (project / "old/checkpoint.pt").write_text("4")
    flags = ("--steps", 6, "--steps_per_start", 1)
    job = Job(cluster, project, "bash/vision.sbatch", "--resume", "old", *flags)
    assert job.wait_for_end() == 0
    assert re.findall("step .*", job.log("old")) == ["step 5", "step 6"]
    assert (project / "old/checkpoint.pt").read_text() == "6"


# sweep.py's promises: --index K does run K in this process, and --folder names its folder. The grid
# has the flags of each run.
SWEEP_STAND_IN = """
import json, os, sys
from pathlib import Path

number = sys.argv[sys.argv.index("--index") + 1]
if "--folder" in sys.argv:
    print(f"RUN{number}")
    sys.exit()
words = [sys.executable, "vision_main.py", "--output_dir", f"RUN{number}", "--resume"]
os.execv(words[0], [*words, *json.loads(Path(sys.argv[1]).read_text())[number].split()])
"""


def submit_grid(cluster, project, *flags: str, words=()) -> Job:
    """An array of a task for each run, numbered from 1."""
    (project / "sweep.py").write_text(SWEEP_STAND_IN)
    grid = {str(number): run for number, run in enumerate(flags, 1)}
    (project / "grid.yaml").write_text(json.dumps(grid))
    array = f"--array=1-{len(flags)}"
    return Job(cluster, project, *words, array, "bash/sweep.sbatch", "grid.yaml")


ENDLESS = "--steps 1000000"


def test_a_grid_as_an_array(cluster, project):
    """Each task does its run, and comes back until that is whole."""
    job = submit_grid(cluster, project, *[f"--steps 3 --steps_per_start {n}" for n in (1, 2, 3)])
    checkpoints = [project / f"RUN{number}/checkpoint.pt" for number in (1, 2, 3)]

    def whole():
        hurry_all(cluster)
        return all(path.exists() and path.read_text() == "3" for path in checkpoints)

    cluster.wait_for(whole)
    for number, starts in ((1, 3), (2, 2), (3, 1)):
        task = job.task(number)
        assert re.findall("step .*", task.log()) == ["step 1", "step 2", "step 3"]
        assert task.starts() == starts


# The last task of an array to start has the array's own id as its SLURM_JOB_ID.


def test_the_last_task_is_interrupted_when_the_others_have_ended(cluster, project):
    job = submit_grid(cluster, project, "--steps 1", "--steps 1 --code 3", ENDLESS)
    done, failed, last = map(job.task, (1, 2, 3))
    last.wait_for_log("step 2\n")
    cluster.wait_for(lambda: (done.state(), failed.state()) == ("COMPLETED", "FAILED"))
    assert last.facts()["JobId"] == job.id
    last.interrupt()
    last.wait_for_log("1 restarts\n")
    assert (done.state(), failed.state(), last.state()) == ("COMPLETED", "FAILED", "RUNNING")
    assert (done.starts(), failed.starts(), last.starts()) == (1, 1, 2)
    assert (done.restarts(), failed.restarts(), last.restarts()) == (0, 0, 1)


@pytest.mark.slow
def test_the_last_task_is_interrupted_while_another_one_waits(cluster, project):
    job = submit_grid(cluster, project, ENDLESS, ENDLESS)
    waiting, last = map(job.task, (1, 2))
    for task in (waiting, last):
        task.wait_for_log("step 2\n")
    waiting.interrupt()
    cluster.wait_for(lambda: waiting.state() == "PENDING")
    cluster.run("scontrol", "hold", waiting.id)
    assert last.facts()["JobId"] == job.id
    last.interrupt()
    last.wait_for_log("1 restarts\n")
    assert (waiting.state(), last.state()) == ("PENDING", "RUNNING")
    assert (waiting.restarts(), last.restarts()) == (1, 1)
    assert waiting.starts() == 1


@pytest.mark.slow
def test_the_last_task_reaches_its_time_limit_beside_another_one(cluster, project):
    """Within the time of --signal, so that it stops in the middle; the other one is nearly done."""
    job = submit_grid(cluster, project, "--steps 240", ENDLESS, words=["--time=1"])
    other, last = map(job.task, (1, 2))
    last.wait_for_log("1 restarts\n", 90)
    assert last.facts()["JobId"] == job.id
    assert int((project / "RUN2/checkpoint.pt").read_text()) > 100
    assert (other.state(), last.state()) == ("COMPLETED", "RUNNING")
    assert (other.restarts(), last.restarts()) == (0, 1)
    assert other.starts() == 1


def test_activation_scripts_go_on_as_in_a_login_shell(cluster, project):
    """A line of the user's own that fails is named; what follows it is done."""
    (project / "activate").write_text("hash no_such_tool\n[ -n '' ] && export NOTHING=1\n")
    with open(project / "bash/env.sh", "a") as file:
        file.write("source ./activate\nno_such_module load gcc\nexport HF_HUB_OFFLINE=after\n")
    job = Job(cluster, project, "bash/vision.sbatch", "--steps", 1, "--output_dir", "RUN")
    assert job.wait_for_end() == 0
    assert "offline after\n" in job.log()
    number = (project / "bash/env.sh").read_text().splitlines().index("no_such_module load gcc")
    warnings = [line for line in job.output().splitlines() if line.startswith("warning: ")]
    assert f"line {number + 1}," in warnings[-1]
    assert warnings[-1].endswith(": no_such_module load gcc")


def test_a_job_that_an_activation_script_ends_says_so(cluster, project):
    (project / "activate").write_text("exit 4\n")
    with open(project / "bash/env.sh", "a") as file:
        file.write("source ./activate\n")
    job = Job(cluster, project, "bash/vision.sbatch", "--steps", 1, "--output_dir", "RUN")
    assert job.wait_for_end() == 4
    assert re.fullmatch("error: bash/env.sh, .* with exit code 4\n", job.output())


@pytest.mark.parametrize("free", [0, 4096])
def test_a_full_disk_at_the_start(cluster, project, mounted, free):
    """The log takes nothing, or its first line alone; what SLURM has opened lies elsewhere."""
    folder, _ = mounted
    (folder / "RUN").mkdir()
    (folder / "filling").write_bytes(bytes(2**20 - free))
    words = ("--steps", 1, "--output_dir", "mounted/RUN", "--words", 5000 * "x")
    job = Job(cluster, project, "bash/vision.sbatch", *words)
    assert job.wait_for_end() == 1
    last = job.output().splitlines()[-1]
    assert last.startswith("error: ")
    assert f"mounted/RUN/slurm-{job.id}.log cannot be written" in last
    assert ("No space left on device" in last) == (not free)


@pytest.mark.slow
def test_a_second_submission_costs_the_first_no_requeue(cluster, project):
    """It takes the run over between the first one's save and its end, and is itself no good."""
    flags = ("bash/vision.sbatch", "--output_dir", "RUN", "--steps", 10**6)
    first = Job(cluster, project, *flags, "--linger", "go")
    first.wait_for_log("step 3\n")
    first.interrupt()
    cluster.wait_for((project / "RUN/CONTINUE").exists)
    saved = int((project / "RUN/checkpoint.pt").read_text())
    second = Job(cluster, project, *flags[:-1], saved, "--code", 2)
    assert second.wait_for_end() == 2
    assert not (project / "RUN/CONTINUE").exists()
    (project / "go").touch()
    first.wait_for_log("1 restarts\n")
    first.wait_for_log(f"step {saved + 2}\n")


def test_an_earlier_interruption_is_none_of_a_failure(cluster, project):
    """CONTINUE is still there when the next program fails before it has taken the run over."""
    (project / "RUN").mkdir()
    (project / "RUN/CONTINUE").touch()
    (project / "vision_main.py").write_text("raise SystemExit(1)")
    job = Job(cluster, project, "bash/vision.sbatch", "--output_dir", "RUN")
    assert job.wait_for_end() == 1
    assert job.restarts() == 0
    assert (project / "RUN/CONTINUE").exists()


@pytest.mark.parametrize(
    ("folder", "words", "message"),
    [
        (".", ["multinode", "--model"], "error: the program comes first: bash/multinode.sbatch "),
        ("bash", ["vision"], "error: submit from the project's folder: sbatch bash/vision.sbatch"),
        (".", ["sweep", "grid.yaml"], "error: an array and a grid file: sbatch --array=1-N "),
    ],
)
def test_mistakes(cluster, project, folder, words, message):
    script = project / f"bash/{words[0]}.sbatch"
    job = Job(cluster, project / folder, script, *words[1:])
    assert job.wait_for_end() == 2
    assert job.output().startswith(message)
    assert job.output().count("\n") == 1


def test_shellcheck():
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    scripts = sorted(map(str, (ROOT / "bash").iterdir()))
    done = subprocess.run(
        ["shellcheck", "-x", "-e", "SC1091", *scripts], cwd=ROOT, capture_output=True, text=True
    )
    assert not done.stdout


# --- the programs themselves ---

PATIENCE = 500  # seconds for what takes some, where other programs use the machine too

RESNET = (
    "--model", "resnet20", "--dataset", "digits", "--batch_size", "240", "--lr", "3e-3",
    "--augment", "--device", "cpu", "--activation", "ZiLU", "--stats", "3",
)  # fmt: skip
VIT = (
    "--model", "vit-tiny", "--dataset", "digits", "--resize", "16", "--batch_size", "240",
    "--max_steps", "6", "--lr", "1e-3", "--device", "cpu", "--save_interval", "1",
)  # fmt: skip


@pytest.fixture
def real_project(tmp_path, cluster):
    for path in ROOT.iterdir():
        if path.name != "Output":
            (tmp_path / path.name).symlink_to(path)
    yield tmp_path
    cluster.cancel_all()


def uninterrupted(cluster, folder, *flags):
    """The folder of the same run without SLURM."""
    command = [sys.executable, "vision_main.py", *map(str, flags), "--output_dir", folder]
    subprocess.run(command, cwd=ROOT, env=cluster.environment, check=True, timeout=PATIENCE)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_preempted_again_and_again(cluster, real_project, tmp_path):

    flags = (*RESNET, "--num_epochs", 5)
    job = Job(cluster, real_project, "bash/vision.sbatch", *flags, "--output_dir", "RUN")
    for epoch in (1, 2, 3):
        job.wait_for_log(f"[Epoch 00{epoch}]", PATIENCE)
        job.preempt()
    assert job.wait_for_end(PATIENCE) == 0, job.log()
    assert job.restarts() == 3
    assert job.log().count("Resuming from") == 3
    (tmp_path / f"RUN/slurm-{job.id}.log").unlink()
    assert_same_run(tmp_path / "RUN", uninterrupted(cluster, tmp_path / "whole", *flags))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_time_limit_shorter_than_the_run(cluster, real_project, tmp_path):
    """And shorter than the scripts' --signal asks for."""

    flags = (*RESNET, "--num_epochs", 8)
    words = ("--time=1", "bash/vision.sbatch", *flags, "--output_dir", "RUN")
    job = Job(cluster, real_project, *words)
    assert job.wait_for_end(PATIENCE) == 0, job.log()
    assert job.restarts() >= 1
    (tmp_path / f"RUN/slurm-{job.id}.log").unlink()
    assert_same_run(tmp_path / "RUN", uninterrupted(cluster, tmp_path / "whole", *flags))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_sweep_as_an_array(cluster, real_project, tmp_path):
    """Preempted once; the same results as those of the sweep on one machine."""

    runs = {"model": "resnet20", "dataset": "digits", "resize": 8, "num_epochs": 12,
            "device": "cpu", "save_interval": "2", "activation": ["ReLU", "ZiLU"]}  # fmt: skip
    (tmp_path / "grid.yaml").write_text(json.dumps({"runs": runs}))
    words = ("sweep.py", "grid.yaml", "--output_dir", "ARRAY")
    python = str(Path(sys.executable))
    count = cluster.run(python, *words, "--count", cwd=tmp_path).strip()
    array = (f"--array=1-{count}", "bash/sweep.sbatch", "grid.yaml", "--output_dir", "ARRAY")
    job = Job(cluster, real_project, *array)
    cluster.wait_for(lambda: len(list((tmp_path / "ARRAY").rglob("checkpoint.pt"))) == 2, PATIENCE)
    job.preempt()

    def ended():
        hurry_all(cluster)
        return not cluster.run("squeue", "-h")

    cluster.wait_for(ended, PATIENCE)
    for run in (tmp_path / "ARRAY").glob("*seed0"):
        logs = "".join(log.read_text() for log in run.glob("slurm-*.log"))
        assert logs.count("--- job ") == 2, logs
    whole = [python, "sweep.py", "grid.yaml", "--output_dir", "WHOLE"]
    subprocess.run(whole, cwd=tmp_path, env=cluster.environment, check=True, timeout=PATIENCE)
    assert without_times(tmp_path / "ARRAY") == without_times(tmp_path / "WHOLE")


BATTERY_TASK = {
    "program": "table",
    "runs": {"dataset": "digits", "val_fraction": 0.2, "hidden_layers": 1, "hidden_width": 8,
             "num_epochs": 1, "device": "cpu", "activation": ["ReLU", "GELU", "SiLU"]},
    "tune": {"lr": [1e-2, 2e-2], "seeds": [100], "equal_settings": False},
    "report": {"baseline": "ReLU", "metric": "loss", "margin": 1},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_battery_as_an_array(cluster, real_project, tmp_path):
    """A task that is interrupted among its runs comes back, and then nothing is left to do."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own/one.yaml").write_text(json.dumps(BATTERY_TASK))
    words = ("--activation", "ELU", "--size", "own", "--max_seeds", "6", "--jobs", "1")
    words += ("--output_dir", "OUT", "--records", "KEPT")
    job = Job(cluster, real_project, "--array=1-1", "bash/battery.sbatch", *words)
    ended_runs = "OUT/own/one/*/tune/*/train_eval_results.txt"
    cluster.wait_for(lambda: len(list(tmp_path.glob(ended_runs))) == 2, PATIENCE)
    job.task(1).interrupt()

    def ended():
        hurry_all(cluster)
        return not cluster.run("squeue", "-h")

    cluster.wait_for(ended, PATIENCE)
    (log,) = (tmp_path / "OUT/own/ELU/one").glob("slurm-*.log")
    assert log.read_text().count("--- job ") == 2, log.read_text()
    python = str(Path(sys.executable))
    assert not cluster.run(python, "battery.py", *words, "--dry_run", cwd=tmp_path).strip()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_two_nodes_train_as_one_process(cluster, real_project, tmp_path):
    """Interrupted once; the signal reaches the processes of both nodes."""

    words = ("bash/multinode.sbatch", "vision_main.py", *VIT, "--output_dir", "RUN")
    job = Job(cluster, real_project, *words)
    cluster.wait_for((tmp_path / "RUN/checkpoint.pt").exists, PATIENCE)
    job.interrupt()
    assert job.wait_for_end(PATIENCE) == 0, job.log()
    assert job.restarts() == 1
    assert "Resuming from" in job.log()
    assert_close(tmp_path / "RUN", uninterrupted(cluster, tmp_path / "whole", *VIT), 2e-5)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_two_nodes_are_preempted_in_few_words(cluster, real_project, tmp_path):
    """Both have saved before torchrun ends, which says nothing that hides what has happened."""
    words = ("bash/multinode.sbatch", "vision_main.py", *VIT, "--output_dir", "RUN")
    job = Job(cluster, real_project, *words)
    cluster.wait_for((tmp_path / "RUN/checkpoint.pt").exists, PATIENCE)
    job.preempt()
    cluster.wait_for(lambda: "\nInterrupted; " in job.log(), PATIENCE)
    assert job.log().splitlines()[-1].startswith("Interrupted; ")
    assert "Traceback" not in job.log()
    assert "goes on with --resume" in job.log()
    assert (tmp_path / "RUN/CONTINUE").exists()
    assert job.wait_for_end(PATIENCE) == 0, job.log()
    assert_close(tmp_path / "RUN", uninterrupted(cluster, tmp_path / "whole", *VIT), 2e-5)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_node_that_fails_ends_the_job(cluster, real_project, tmp_path):
    words = ("bash/multinode.sbatch", "vision_main.py", *VIT, "--max_steps", "100000")
    job = Job(cluster, real_project, *words, "--num_epochs", "100000", "--output_dir", "RUN")
    cluster.wait_for((tmp_path / "RUN/checkpoint.pt").exists, PATIENCE)
    os.kill(process_of_rank(1, job.id), signal.SIGKILL)
    assert job.wait_for_end(PATIENCE) == 1, job.log()
    assert "torchrun: process 1 ended with signal 9\n" in job.log()
    assert job.restarts() == 0


def process_of_rank(rank: int, job: str) -> int:
    wanted = {f"RANK={rank}".encode(), f"SLURM_JOB_ID={job}".encode()}
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted <= set(path.read_bytes().split(b"\0")):
                return int(path.parent.name)
    raise AssertionError(f"no process of rank {rank}")
