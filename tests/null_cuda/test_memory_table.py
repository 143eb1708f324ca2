"""`benchmark.py --memory` on the null device, whose memory torch's own allocator counts."""

import csv

import pytest


@pytest.mark.slow
def test_the_largest_batch_is_tried(null_cuda, tmp_path):
    flags = [
        "--models",
        "resnet20",
        "--modes",
        "eager",
        "--precisions",
        "fp32",
        "--batch_size",
        "32",
    ]
    limit = ["--memory_gib", "0.25", "--device", "cuda", "--output_dir", tmp_path]
    ran = null_cuda("benchmark", "--memory", *flags, *limit, mib=1024)
    assert ran.codes == [0], ran.output
    with open(tmp_path / "memory.csv", encoding="utf-8", newline="") as file:
        rows = {row["arm"]: row for row in csv.DictReader(file)}
    of = {arm: int(row["peak_bytes"]) for arm, row in rows.items()}
    assert abs(of["ZiLU, from output"] - of["ReLU"]) < 2**20
    assert of["ZiLU"] > 1.2 * of["ReLU"]
    batches = {arm: int(row["largest_batch"]) for arm, row in rows.items()}
    assert batches["ZiLU, from output"] > 1.2 * batches["ZiLU"] > 32
