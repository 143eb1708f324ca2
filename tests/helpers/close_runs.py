"""Compare runs of different numbers of processes, which agree to rounding."""

import json

import pytest
import torch

from run_folder.checkpoint import load_checkpoint


def losses(folder):
    records = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    return [r[split]["loss"] for r in records for split in ("train", "val", "test") if split in r]


def stats(folder):
    path = folder / "stats.jsonl"  # of a run with --stats
    return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []


def assert_close(folder, reference, tolerance):
    for mine, theirs in zip(stats(folder), stats(reference), strict=True):
        assert mine["step"] == theirs["step"]
        assert mine.get("channels") == theirs.get("channels")
        for path, numbers in mine.get("sites", {}).items():
            # Of a share, scaled to the step.
            wanted = theirs["sites"][path]
            assert numbers["gradient_norm"] == pytest.approx(wanted["gradient_norm"], rel=0.6)
            assert numbers["sigma"] == pytest.approx(wanted["sigma"], rel=1e-5)
    assert losses(folder) == pytest.approx(losses(reference), rel=tolerance)
    counts = [
        [(r["train"]["count"], r.get("test", {}).get("count")) for r in map(json.loads, lines)]
        for lines in ((f / "metrics.jsonl").open() for f in (folder, reference))
    ]
    assert counts[0] == counts[1]
    for name, value in load_checkpoint(folder / "checkpoint.pt")["model"].items():
        wanted = load_checkpoint(reference / "checkpoint.pt")["model"][name]
        torch.testing.assert_close(value, wanted, rtol=1e-2, atol=2e-4, msg=name)
