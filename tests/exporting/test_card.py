"""What an export says of its run: digests of all that holds weights, and every result."""

import hashlib
import shutil

import pytest

from exporting import card
from exporting.loading import load
from run_folder import shards
from run_folder.checkpoint import load_checkpoint, save_checkpoint, save_rows
from run_folder.evaluations import add_evaluations
from run_folder.folder import RunFolder


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def facts_of(run):
    return card.facts(load(run / RunFolder.CHECKPOINT, False, None), "pt2")


def share(path):
    """Put the checkpoint's weights in the place that two processes of --shard write them to."""
    content = load_checkpoint(path)
    for rank in (0, 1):
        weights = {
            name: shards.Rows(value[shards.rows_of(len(value), rank, 2)], tuple(value.shape))
            if value.ndim
            else value
            for name, value in content["model"].items()
        }
        left, rows = shards.apart(content | {"model": weights})
        save_rows(path, "step2", rank, 2, rows)
    save_checkpoint(path, left | {shards.KEY: {"name": "step2", "files": 2}})


def test_digests_are_of_the_weights_too(copied):
    share(copied / RunFolder.CHECKPOINT)
    names = ["checkpoint.pt", "shards/step2/0.pt", "shards/step2/1.pt"]
    found = facts_of(copied)["checkpoint_sha256"]
    assert found == {
        name: hashlib.sha256((copied / name).read_bytes()).hexdigest() for name in names
    }


def test_every_result_is_there(copied):
    path = copied / RunFolder.RESULTS
    summaries = [x for x in path.read_text().splitlines() if x.startswith("[Summary]")]
    first, last = (f"[Also text/x] Loss: {loss}" for loss in (3, 2))
    path.write_text(f"{first}\n{last}\n{path.read_text()}")
    metric = {"value": 0.25, "stderr": 0.125, "higher_is_better": True}
    result = {"task": "t", "metrics": {"acc": metric}, "num_fewshot": 0, "documents": 8,
              "precision": "fp32", "lm_eval": "0.4"}  # fmt: skip
    add_evaluations(copied, {"t": {**result, "step": 2}, "old": {**result, "step": 1}})
    found = facts_of(copied)["results"]
    line = "[lm_eval t] acc: 0.25 ± 0.12 | 8 documents, 0-shot, step 2, fp32, lm_eval 0.4"
    assert found == [last, line, *summaries]
