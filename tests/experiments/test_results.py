"""Test what a trial of a tuning counts."""

import math
from types import SimpleNamespace

import pytest

from experiments import results
from experiments.results import trial_result
from run_folder.status import FINISHED


@pytest.mark.parametrize(
    ("metric", "score"),
    [(None, 90.0), ("top1", 90.0), ("loss", -0.5), ("perplexity", 90.0)],
)
def test_a_trial_is_scored_by_the_metric_that_the_sweep_declares(
    metric, score, tmp_path, monkeypatch
):
    """More is better; a metric that validation lacks leaves the usual score."""
    records = [{"val": {"loss": 0.1, "top1": 99.0}}, {"val": {"loss": 0.5, "top1": 90.0}}]
    monkeypatch.setattr(results, "status_of", lambda folder: SimpleNamespace(kind=FINISHED))
    monkeypatch.setattr(results, "read_records", lambda folder: records)
    assert trial_result(tmp_path, metric) == score


def test_an_infinite_metric_is_the_worst(tmp_path, monkeypatch):
    """It is read as NaN; the loss beside it is of another unit, and may look better than others."""
    records = [{"val": {"loss": 200.0, "word_perplexity": math.nan}}]
    monkeypatch.setattr(results, "status_of", lambda folder: SimpleNamespace(kind=FINISHED))
    monkeypatch.setattr(results, "read_records", lambda folder: records)
    assert trial_result(tmp_path, "word_perplexity") == -math.inf
