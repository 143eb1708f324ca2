"""--log through the command line: what TensorBoard, Weights & Biases and CSV get of a run."""

import importlib.util
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
from helpers.resumable import FLAGS, KILL, TERM, TRY_AGAIN, assert_same_result
from helpers.torch_process import TorchProcess

import vision_main
from cli.run import is_installed

ROOT = Path(__file__).parents[2]
HELPERS = ROOT / "tests/helpers"

# A program with a stand-in for wandb, which may be killed on its way.
PROGRAM = f"""
import json, os, sys
sys.path[:0] = [{str(ROOT)!r}, {str(HELPERS / "stand_ins")!r}, {str(HELPERS)!r}]
from fork_server import FAULTS, importlib
from cli.errors import one_line_errors
module, fault = json.loads(sys.argv.pop(1))
sys.argv[0] = module
if fault:
    FAULTS[fault[0]](*fault[1:])
with one_line_errors():
    sys.exit(importlib.import_module(module).main())
"""
TIMES = re.compile(r"seconds|.*_per_second|peak_memory_bytes|mfu|_step")


@pytest.fixture(scope="module")
def run(data_path, tmp_path_factory):
    """run("vision_main", folder, *more flags, fault=...) -> exit code, all that was printed"""
    server = tmp_path_factory.mktemp("server")

    def run(module, folder, *flags, fault=None, log="tensorboard,wandb,csv", **environment):
        where = ("--data_path", data_path[module], "--output_dir", folder, "--log", log)
        words = [json.dumps([module, fault]), *FLAGS[module], "--num_epochs", "2", *where, *flags]
        environment = {"WANDB_STAND_IN": str(server), "WANDB_MODE": "online", **environment}
        process = TorchProcess(PROGRAM, *words, cwd=ROOT, environment=environment)
        output = "".join(process.communicate())
        return process.returncode, output

    run.server = server
    return run


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    code, output = run("vision_main", folder)
    assert code == 0, output
    assert "warning" not in output
    return folder


@pytest.fixture(scope="module", params=["online", "offline"])
def killed(request, run, tmp_path_factory):
    """A run that was killed and stopped: between saves, in an evaluation, and in a line."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    faults = [("step", KILL, 5), ("evaluation", TERM, 1), ("result_line", KILL, 3)]
    for fault in faults if request.param == "online" else faults[:1]:
        code, output = run("vision_main", folder, "--resume", fault=fault, WANDB_MODE=request.param)
        assert code == (-KILL if fault[1] == KILL else TRY_AGAIN), output
    code, output = run("vision_main", folder, "--resume", WANDB_MODE=request.param)
    assert code == 0, output
    assert "warning" not in output
    return folder


# --- what is expected, by pandas ---


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def evaluations(folder):
    """The table of metrics.jsonl, whose columns are named by the path of keys."""
    return pandas.json_normalize(lines_of(folder / "metrics.jsonl"), sep="/")


def statistics(folder):
    """{(step, epoch, name): value} of stats.jsonl."""
    found = {}
    for record in lines_of(folder / "stats.jsonl"):
        for path, numbers in record.get("sites", {}).items():
            found |= {(record["step"], record["epoch"], f"stats/{name}/{path}"): value
                      for name, value in numbers.items()}  # fmt: skip
        for path, counts in record.get("channels", {}).items():
            for name in ("dead", "total"):
                key = record["step"], record["epoch"], f"stats/{name}_channels/{path}"
                found[key] = counts[name]
    return found


def curves(folder):
    """{name: {step: value}} of all numbers."""
    found = {}
    for row in evaluations(folder).to_dict("records"):
        for name, value in row.items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if name != "step" and is_number and not math.isnan(value):
                found.setdefault(name, {})[row["step"]] = value
    for (step, epoch, name), value in statistics(folder).items():
        if value is not None:
            found.setdefault(name, {})[step] = value
        found["epoch"][step] = epoch
    return found


def rows_sent(run, folder):
    """What Weights & Biases has of a run."""
    (name,) = (folder / "wandb_id.txt").read_text().split()
    offline = list(folder.glob("wandb/offline-run-*"))
    assert len(offline) <= 1  # none is left that would be sent beside the last one
    return lines_of([*offline, run.server / name][0] / "rows.jsonl")


# --- CSV ---


def assert_csv_is_whole(folder):
    table = pandas.read_csv(folder / "metrics.csv", float_precision="round_trip")
    pandas.testing.assert_frame_equal(
        table, evaluations(folder), check_exact=True, check_dtype=False, check_like=True
    )
    assert list(table.columns)[:2] == ["epoch", "step"]
    if (folder / "stats.jsonl").exists():
        table = pandas.read_csv(folder / "stats.csv", float_precision="round_trip")
        assert list(table.columns) == ["step", "epoch", "name", "value"]
        rows = [(*row[:3], None if math.isnan(row[3]) else row[3]) for row in table.to_numpy()]
        assert len({row[:3] for row in rows}) == len(rows)
        assert {row[:3]: row[3] for row in rows} == statistics(folder)


def test_csv(whole, killed):
    assert_csv_is_whole(whole)
    assert_csv_is_whole(killed)
    columns = set(pandas.read_csv(whole / "metrics.csv").columns)
    assert {"train/loss", "val/top1", "test/loss", "lr", "images_per_second"} < columns
    assert "sigma/layer1.0.act1" in columns


def test_csv_of_a_text_which_is_tested_at_the_end(run, tmp_path):
    """The columns of the test set come with the last row; the run is killed before and after."""
    folder = tmp_path / "run"
    code, output = run("language_main", folder, "--resume", fault=("step", TERM, 5), log="csv")
    assert code == TRY_AGAIN, output
    assert_csv_is_whole(folder)
    code, output = run("language_main", folder, "--resume", fault=("step", KILL, 2), log="csv")
    assert code == -KILL, output
    code, output = run("language_main", folder, "--resume", log="csv")
    assert code == 0, output
    assert_csv_is_whole(folder)
    assert pandas.read_csv(folder / "metrics.csv")["test/perplexity"].count() == 1


# --- Weights & Biases ---


def test_wandb_gets_each_record_once(run, whole, killed):
    for folder in (whole, killed):
        rows = rows_sent(run, folder)
        assert [row["_step"] for row in rows] == list(range(len(rows)))
        records = lines_of(folder / "metrics.jsonl") + lines_of(folder / "stats.jsonl")
        assert len(rows) == len(records)
        sent = {}
        for row in rows:
            for name, value in row.items():
                if not isinstance(value, bool) and name not in ("step", "_step"):
                    assert sent.setdefault(name, {}).setdefault(row["step"], value) == value
        expected = curves(folder)
        assert sent.keys() == expected.keys()
        for name in expected:
            # What is done again after a kill takes another time, and it was sent before.
            if folder == whole or not TIMES.fullmatch(name):
                assert sent[name] == expected[name], name
    first, second = (
        [{k: v for k, v in row.items() if not TIMES.fullmatch(k)} for row in rows_sent(run, each)]
        for each in (whole, killed)
    )
    assert first == second


def test_wandb_knows_the_run(run, whole):
    (name,) = (whole / "wandb_id.txt").read_text().split()
    mode, options = json.loads((run.server / name / "options.json").read_text())
    assert (mode, options["name"]) == ("online", "run")
    assert options["config"]["activation"] == "ZiLU"
    assert options["config"]["resolved"]["total_steps"] == 10
    assert (run.server / name / "exit_code").read_text() == "0"


def test_without_a_key_or_network_wandb_is_offline(run, whole, tmp_path):
    folder = tmp_path / "run"
    code, output = run("vision_main", folder, log="wandb", WANDB_REFUSES="online")
    assert code == 0, output
    (warning,) = [line for line in output.splitlines() if "warning" in line]
    assert "No API key configured.; the run is logged offline" in warning
    assert str(folder / "wandb") in warning
    assert len(rows_sent(run, folder)) == len(rows_sent(run, whole))
    # With a key, everything is sent that lies here, and none of it twice.
    code, output = run("vision_main", folder, "--resume", log="wandb")
    assert code == 0, output
    assert not list(folder.glob("wandb/offline-run-*"))
    assert len(rows_sent(run, folder)) == len(rows_sent(run, whole))


def test_a_sink_that_fails_is_left_out_and_changes_nothing(run, whole, tmp_path):
    folder = tmp_path / "run"
    code, output = run("vision_main", folder, WANDB_REFUSES="row 3")
    assert code == 0, output
    warnings = [line for line in output.splitlines() if "warning" in line]
    assert warnings == ["warning: --log wandb: no more rows; it gets no more, and the run goes on"]
    assert len(rows_sent(run, folder)) == 3
    assert_csv_is_whole(folder)
    assert_same_result(folder, whole)


def test_a_run_that_diverges_says_so(run, tmp_path):
    folder = tmp_path / "run"
    code, output = run("vision_main", folder, fault=("poisoned", 0, 7))
    assert code == 3, output
    message = lines_of(folder / "metrics.jsonl")[-1]["diverged"]
    assert rows_sent(run, folder)[-1]["diverged"] == message
    assert_csv_is_whole(folder)
    (name,) = (folder / "wandb_id.txt").read_text().split()
    assert (run.server / name / "exit_code").read_text() == "3"


@pytest.mark.skipif(not is_installed("wandb"), reason="needs wandb")
def test_the_real_wandb_offline(run_program, data_path, tmp_path):
    flags = ("--data_path", data_path["vision_main"], "--log", "wandb", "--max_steps", "2")
    flags = (*FLAGS["vision_main"], *flags, "--output_dir", tmp_path / "run")
    done = run_program("vision_main.py", *flags, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    (file,) = tmp_path.glob("run/wandb/offline-run-*/*.wandb")
    assert b"train/loss" in file.read_bytes()


# --- TensorBoard ---


def points(folder):
    """{name: [(step, value)]} of all event files, read as they stand: nothing is hidden."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    found, texts = {}, {}
    for path in sorted(folder.glob("tensorboard/**/events*")):
        for event in loader.LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
                else:
                    texts[value.tag] = value
    return found, texts


def test_tensorboard_shows_everything_once(whole, killed):
    for folder in (whole, killed):
        found, texts = points(folder)
        expected = curves(folder)
        assert found.keys() == expected.keys()
        for name, curve in expected.items():
            if name != "epoch":  # it comes with each record
                assert found[name] == [(s, np.float32(v)) for s, v in sorted(curve.items())], name
        assert b"activation: ZiLU" in texts["args.txt/text_summary"].tensor.string_val[0]
        assert "_hparams_/experiment" in texts


def test_the_tab_hparams_has_flags_and_metrics(whole):
    points(whole)  # skips
    from tensorboard.plugins.hparams import plugin_data_pb2

    _, texts = points(whole)
    content = plugin_data_pb2.HParamsPluginData()
    content.ParseFromString(texts["_hparams_/session_start_info"].metadata.plugin_data.content)
    flags = content.session_start_info.hparams
    assert flags["activation"].string_value == "ZiLU"
    assert flags["lr"].number_value == 3e-3
    content.ParseFromString(texts["_hparams_/experiment"].metadata.plugin_data.content)
    names = {each.name.tag for each in content.experiment.metric_infos}
    assert {"val/loss", "test/top1"} <= names


def test_the_short_flag_needs_no_stats(run_loaded, text_folder, tmp_path):
    pytest.importorskip("tensorboard")
    language = [flag for flag in FLAGS["language_main"] if flag != "--stats"][:-1]
    flags = ("--data_path", text_folder, "--output_dir", tmp_path, "--max_steps", "2")
    done = run_loaded("language_main.py", *language, *flags, "--tensorboard")
    assert done.returncode == 0, done.stderr
    found, _ = points(tmp_path)
    assert {"train/loss", "val/perplexity", "test/loss", "lr", "tokens_per_second"} <= found.keys()
    (record,) = lines_of(tmp_path / "metrics.jsonl")
    assert found["train/loss"] == [(2, np.float32(record["train"]["loss"]))]


# --- all ---


def test_a_killed_run_leaves_what_the_whole_one_does(whole, killed):
    names = {path.name for path in killed.iterdir()} - {"wandb"}
    assert names == {path.name for path in whole.iterdir()}
    assert_same_result(killed, whole)


def test_overwrite_begins_anew(run, tmp_path):
    folder = tmp_path / "run"
    ids = []
    for flags in ((), ("--overwrite",)):
        code, output = run("vision_main", folder, "--max_steps", "2", *flags)
        assert code == 0, output
        ids.append((folder / "wandb_id.txt").read_text())
    assert ids[0] != ids[1]
    assert_csv_is_whole(folder)


def test_the_flag_names_each_sink_once(mistake_in):
    from helpers.commands import values

    from cli.vision import VisionConfig

    assert values(VisionConfig, "--log", "csv, TensorBoard,csv").log == "tensorboard,csv"
    assert "did you mean wandb?" in mistake_in(vision_main, "--log", "csv,wandbb")
    assert "unknown value ''" in mistake_in(vision_main, "--log", "csv,")


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_one_line(name, mistake_in, monkeypatch, tmp_path):
    """A folder of its name, as wandb leaves one where it runs, is no package."""
    (tmp_path / name).mkdir()
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, name, raising=False)
    assert importlib.util.find_spec(name) is not None
    flags = ("--log", f"csv,{name}", "--data_path", "missing", "--output_dir", tmp_path / "run")
    line = mistake_in(vision_main, *flags)
    assert line.startswith(f"error: --log {name}: the package is not installed; pip install {name}")
    assert not (tmp_path / "run").exists()
