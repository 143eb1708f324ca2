"""Runs that are killed, or asked to stop, and go on: they end as if nothing had happened."""

import os
import shutil
import threading
from pathlib import Path

import pytest
import yaml
from helpers.resumable import (
    FLAGS,
    INT,
    KILL,
    LANGUAGE,
    TERM,
    TRY_AGAIN,
    USR1,
    assert_same_result,
    assert_same_run,
)

from cli.args_file import args_text
from cli.parser import Command
from cli.vision import VisionConfig
from run_folder.checkpoint import load_checkpoint, save_checkpoint
from run_folder.folder import RunFolder
from training import session
from training.signals import Interrupted


@pytest.fixture(scope="module")
def run(forked, data_path):
    """run("vision_main", folder, *more flags, fault=(name, signal, passes)) -> exit code, output"""

    def run(module, folder, *flags, fault=None):
        where = ("--data_path", data_path[module])
        flags = [*FLAGS[module], *where, "--output_dir", folder, *flags]
        (code,), output = forked(module, *flags, faults={0: fault} if fault else {})
        return code, output

    return run


@pytest.fixture(scope="module")
def reference(run, tmp_path_factory):
    """The folder of an uninterrupted run, by program."""
    folders = {}

    def reference(module):
        if module not in folders:
            folders[module] = tmp_path_factory.mktemp(module) / "run"
            code, output = run(module, folders[module])
            assert code == 0, output
        return folders[module]

    return reference


# --- killed, ten times each program ---

# Where, and how often it is passed before. A run is 15 steps long (5 an epoch).
KILLS = [
    ("start_up", KILL, 0),
    ("before_training", TERM, 0),
    ("step", KILL, 1),
    ("step", TERM, 3),
    ("step", KILL, 8),
    ("evaluation", KILL, 4),
    ("evaluation", USR1, 7),
    ("half_a_save", KILL, 3),
    ("renaming", KILL, 4),
    ("result_line", KILL, 6),
]


def kills():
    """Each place with one of the programs, in turn; with the other one too where time allows."""
    for number, fault in enumerate(KILLS):
        for other, module in enumerate(FLAGS):
            marks = [pytest.mark.slow] if number % 2 != other else []
            name = f"{fault[0]}-{fault[1].name}-{fault[2]}-{module}"
            yield pytest.param(fault, module, marks=marks, id=name)


@pytest.mark.parametrize(("fault", "module"), kills())
def test_a_killed_run_ends_as_the_uninterrupted_one(run, reference, tmp_path, module, fault):
    folder = tmp_path / "run"
    code, output = run(module, folder, "--resume", fault=fault)
    assert code == (-KILL if fault[1] == KILL else TRY_AGAIN), output
    assert (folder / "CONTINUE").exists() == (fault[1] != KILL)
    code, output = run(module, folder, "--resume")
    assert code == 0, output
    assert_same_run(folder, reference(module))


@pytest.mark.parametrize("fault", [("step", TERM, 6), ("evaluation", TERM, 12)])
@pytest.mark.parametrize("module", FLAGS)
def test_a_run_that_ends_in_an_epoch_does_not_go_on_beyond_its_end(run, tmp_path, module, fault):
    """It is stopped after its last step, or in its last evaluation, and has that one to make."""
    whole, folder = tmp_path / "whole", tmp_path / "run"
    code, output = run(module, whole, "--max_steps", "7")
    assert code == 0, output
    code, output = run(module, folder, "--max_steps", "7", fault=fault)
    assert code == TRY_AGAIN, output
    assert load_checkpoint(folder / "checkpoint.pt")["step"] == 7
    code, output = run(module, folder, "--max_steps", "7", "--resume")
    assert code == 0, output
    assert_same_run(folder, whole)


@pytest.mark.parametrize("module", FLAGS)
def test_stats_change_nothing(forked, data_path, reference, tmp_path, module):
    flags = [flag for flag in FLAGS[module] if flag not in ("--stats",)][:-1]
    where = ("--data_path", data_path[module], "--output_dir", tmp_path / "run")
    (code,), output = forked(module, *flags, *where)
    assert code == 0, output
    assert_same_result(tmp_path / "run", reference(module))
    assert not (tmp_path / "run" / "stats.jsonl").exists()


@pytest.mark.parametrize("module", FLAGS)
def test_interrupted_again_and_again(run, reference, tmp_path, module):
    """A stop after every two steps: more than a dozen resumes."""
    folder, codes = tmp_path / "run", []
    while not codes or codes[-1] == TRY_AGAIN:
        code, output = run(module, folder, "--resume", fault=("step", TERM, 1))
        codes.append(code)
    assert code == 0, output
    assert len(codes) >= 6
    assert_same_run(folder, reference(module))
    resumed = yaml.safe_load((folder / "args.txt").read_text())["resumed"]
    assert [item["step"] for item in resumed] == list(range(2, 2 * len(codes), 2))[: len(resumed)]


# --- what --resume takes and refuses ---


@pytest.fixture(scope="module")
def stopped(run, tmp_path_factory):
    """A folder of a language run stopped at step 4; tests work on copies of it."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    code, output = run("language_main", folder, fault=("step", TERM, 3))
    assert code == TRY_AGAIN, output
    assert output.splitlines()[-1] == f"Interrupted by SIGTERM; {folder} goes on with --resume"
    return folder


@pytest.fixture
def copy(stopped, tmp_path):
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(forked, folder, *flags, module="language_main"):
    """The one line of a mistake that leaves the folder as it was."""
    before = content(folder)
    (code,), output = forked(module, *flags)
    assert code == 2, output
    assert content(folder) == before
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in output
    return errors[0]


def test_resume_with_a_path_needs_no_other_flag(forked, reference, copy):
    """From the folder or the file; a given flag that changes no result counts."""
    path = copy / "checkpoint.pt"
    (code,), output = forked("language_main", "--resume", path, "--save_interval", "7")
    assert code == 0, output
    assert f"Resuming from {path}: epoch 1, step 4" in output
    assert_same_run(copy, reference("language_main"))
    assert load_checkpoint(path)["settings"]["args"]["save_interval"] == "7"


def test_resume_into_another_folder_leaves_the_first(forked, reference, copy, tmp_path):
    """The results so far are written there too."""
    before, other = content(copy), tmp_path / "other"
    (code,), output = forked("language_main", "--resume", copy, "--output_dir", other)
    assert code == 0, output
    assert_same_run(other, reference("language_main"))
    assert content(copy) == before
    assert (other / "args.txt").exists()
    assert "already" in refused(forked, other, "--resume", copy, "--output_dir", other)


def test_a_run_taken_elsewhere_goes_on_there_after_a_kill(forked, reference, copy, tmp_path):
    other = tmp_path / "other"
    flags = ("--resume", copy, "--output_dir", other)
    codes, output = forked("language_main", *flags, faults={0: ("step", KILL, 0)})
    assert codes == [-KILL], output
    (code,), output = forked("language_main", "--resume", other)
    assert code == 0, output
    assert_same_run(other, reference("language_main"))


def test_a_checkpoint_beside_another_run_does_not_replace_it(forked, reference, copy, tmp_path):
    folder = Path(shutil.copytree(reference("language_main"), tmp_path / "finished"))
    shutil.copy(copy / "checkpoint.pt", folder / "other.pt")
    assert "holds a run already" in refused(forked, folder, "--resume", folder / "other.pt")


def test_a_link_to_a_checkpoint_means_its_run(forked, reference, copy, tmp_path):
    (tmp_path / "latest.pt").symlink_to(copy / "checkpoint.pt")
    (code,), output = forked("language_main", "--resume", tmp_path / "latest.pt")
    assert code == 0, output
    assert_same_run(copy, reference("language_main"))


def test_a_finished_run_resumed_is_left_as_it_is(run, reference, tmp_path):
    folder = Path(shutil.copytree(reference("language_main"), tmp_path / "run"))
    code, output = run("language_main", folder, "--resume")
    assert code == 0, output
    assert_same_run(folder, reference("language_main"))


def test_flags_that_change_the_result_are_refused(forked, run, copy):
    line = refused(forked, copy, "--resume", copy, "--lr", "0.5", "--dropout", "0.3")
    assert "--lr 0.5 (the run has 0.0006)" in line
    assert "--dropout 0.3 (the run has 0.2)" in line
    # --resume alone means the same command: what is not given has its default.
    line = refused(forked, copy, "--resume", "--output_dir", copy, *LANGUAGE[4:], *LANGUAGE[:2])
    assert "--tokenizer gpt2 (the run has bytes)" in line


def test_flags_that_change_the_arithmetic_are_noted(run, copy):
    code, output = run("language_main", copy, "--resume", "--use_amp")
    assert code == 0, output
    assert "results agree to tolerance only, not bit for bit: --use_amp True" in output


def test_other_data_and_other_programs_are_refused(forked, copy, text_folder, tmp_path):
    other = Path(shutil.copytree(text_folder, tmp_path / "text"))
    with open(other / "train.txt", "a") as file:
        file.write("more\n")
    line = refused(forked, copy, "--resume", copy, "--data_path", other)
    assert "the data or the network have changed: data_digests was" in line
    shutil.copytree(text_folder, other, dirs_exist_ok=True)
    text = (other / "train.txt").read_text()
    (other / "train.txt").write_text(text.replace("train 7", "train 8"))  # as long as it was
    assert "data_digests was" in refused(forked, copy, "--resume", copy, "--data_path", other)
    line = refused(forked, copy, "--resume", copy, module="vision_main")
    assert "not of a vision model" in line


def test_a_run_is_not_started_over_results(run, forked, copy):
    """Without its checkpoint a run cannot go on, and what it found is kept."""
    (copy / "checkpoint.pt").unlink()
    flags = (*LANGUAGE, "--output_dir", copy)
    assert "no checkpoint.pt to go on from" in refused(forked, copy, *flags, "--resume")
    assert "holds a run already" in refused(forked, copy, *flags)
    assert "leave out one of them" in refused(forked, copy, *flags, "--resume", "--overwrite")


def test_a_signal_before_the_old_run_is_replaced_leaves_it(run, reference, tmp_path):
    folder = Path(shutil.copytree(reference("language_main"), tmp_path / "run"))
    before = content(folder)
    code, output = run("language_main", folder, "--overwrite", fault=("start_up", TERM, 0))
    assert code == TRY_AGAIN
    assert "before anything was done" in output
    assert content(folder) == before


def test_a_damaged_checkpoint_is_refused_and_kept(forked, copy):
    path = copy / "checkpoint.pt"
    whole = path.read_bytes()
    place = len(whole) // 2
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert f"error: {path}: " in refused(forked, copy, "--resume", copy)
    path.write_bytes(whole[:place])
    assert f"error: {path}: " in refused(forked, copy, "--resume", copy)
    codes, output = forked("language_main", "--resume", copy, processes=2)
    assert codes == [2, 2], output
    assert "Traceback" not in output
    assert path.read_bytes() == whole[:place]


def test_a_checkpoint_of_another_network_is_refused(forked, copy):
    """Its settings say one, its weights are of another."""
    path = copy / "checkpoint.pt"
    saved = load_checkpoint(path)
    saved["model"] = {f"other.{name}": value for name, value in saved["model"].items()}
    save_checkpoint(path, saved)
    assert "its weights do not fit" in refused(forked, copy, "--resume", copy)


# --- after a failure, torchrun starts the same command again ---


def test_what_torchruns_restart_does(tmp_path, monkeypatch):
    """It goes on with the run that it has started itself, unless a signal has stopped that."""
    ours = args_text(VisionConfig(), {}, {"torchrun": "mine"})
    for name, value in (("RESTART_COUNT", "1"), ("RUN_ID", "mine")):
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)

    def restarted(text, **flags):
        command = Command(VisionConfig().replaced(**flags), frozenset(flags))
        folder = RunFolder(tmp_path)
        folder.describe(text, "")
        run = session.restarted(command, folder).config.run
        return run.resume, run.overwrite

    assert restarted(ours) == ("auto", False)
    assert restarted(ours, overwrite=True) == ("auto", False)
    assert restarted(ours, resume="a/path") == ("a/path", False)
    foreign = ours.replace("mine", "theirs")
    assert restarted(foreign) == (None, False)
    assert restarted(foreign, overwrite=True) == (None, True)
    (tmp_path / "CONTINUE").write_text("theirs")
    assert restarted(ours) == ("auto", False)
    (tmp_path / "CONTINUE").write_text("mine")
    with pytest.raises(Interrupted):
        restarted(ours)


def test_a_jobs_own_file_is_written_while_the_folder_is_locked(tmp_path, monkeypatch):
    """It is a pipe here, whose writer stands still until somebody reads."""
    pipe, folder, seen = tmp_path / "pipe", tmp_path / "run", []
    os.mkfifo(pipe)
    monkeypatch.setenv("ZILU_CONTINUE", str(pipe))

    def read():
        with open(pipe):
            seen.extend(path.name for path in folder.iterdir())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    command = Command(VisionConfig().replaced(output_dir=str(folder)), frozenset())
    with pytest.raises(SystemExit) as end, session.open_session(command) as opened:
        raise opened.signals.interruption()
    reader.join(10)
    assert end.value.code == TRY_AGAIN
    assert {"lock", "CONTINUE"} <= set(seen)
    assert {path.name for path in folder.iterdir()} == {"CONTINUE"}


def test_a_process_that_torchrun_ends_in_start_up_asks_for_no_requeue(monkeypatch):
    """The failure of another process is not this one's interruption."""
    term, usr1 = Interrupted("SIGTERM"), Interrupted("SIGUSR1")
    assert not session._is_cleaning_up(term)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert session._is_cleaning_up(term)
    assert not session._is_cleaning_up(usr1)
    assert not session._is_cleaning_up(Interrupted("SIGTERM", saved=True))


# --- one writer ---


def test_of_eight_processes_on_one_folder_one_runs(reference, tmp_path, forked, text_folder):
    flags = (*LANGUAGE, "--data_path", text_folder, "--output_dir", tmp_path / "run")
    codes, output = forked("language_main", *flags, "--resume", processes=8, joined=False)
    assert sorted(codes) == [0] + [2] * 7, output
    assert sum(line.startswith("error: ") for line in output.splitlines()) == 7
    assert_same_run(tmp_path / "run", reference("language_main"))


# --- where it cannot be written ---


def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(run, reference, copy, mounted):
    disk, _ = mounted
    folder = Path(shutil.copytree(copy, disk / "run"))
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(free))
    code, output = run("language_main", folder, "--resume")
    assert code == 2, output
    assert "Traceback" not in output
    assert "No space left on device" in output.splitlines()[-1]
    assert load_checkpoint(folder / "checkpoint.pt")["step"] == 4
    (disk / "filler").unlink()
    code, output = run("language_main", folder, "--resume")
    assert code == 0, output
    assert_same_run(folder, reference("language_main"))


def test_a_read_only_folder_is_one_line(forked, mounted, text_folder):
    disk, mount = mounted
    mount("remount,ro")
    flags = (*LANGUAGE, "--data_path", text_folder, "--output_dir", disk / "run")
    line = refused(forked, disk, *flags, "--resume")
    assert "Read-only file system" in line


# --- signals ---


def test_a_second_interrupt_stops_at_once(forked, tmp_path, text_folder):
    """The first one waits for the step; a step that never ends is left by the second."""
    flags = (*LANGUAGE, "--data_path", text_folder, "--output_dir", tmp_path / "run")
    codes, output = forked("language_main", *flags, faults={0: ("interrupt_twice", INT, 2)})
    assert codes == [130], output
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == 2
    assert not (tmp_path / "run" / "lock").exists()
