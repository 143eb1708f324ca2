"""The one table of metrics: what a result line says is found by name."""

import math

from run_folder.metrics import METRICS, metrics_in
from run_folder.result_lines import record_of

LINES = {
    "[Test] Loss: 2 Accuracy: Top1: 33%, Top5: 83.5%, Balanced: 29.07%": {
        "loss": 2, "top1": 33, "top5": 83.5, "balanced": 29.07,
    },
    "[Test] Loss: 1.5e-1 Perplexity: 4.4817 (per word 12.5, 1.1000 bits per byte)": {
        "loss": 0.15, "perplexity": 4.4817, "word_perplexity": 12.5, "bits_per_byte": 1.1,
    },
    "[Test] Loss: 0.00041943 PSNR: 39.7940 dB": {"loss": 0.00041943, "psnr": 39.794},
}  # fmt: skip


def test_a_line_gives_its_metrics_by_name():
    for line, wanted in LINES.items():
        assert metrics_in(line) == wanted
        assert record_of(f"[Epoch 001] {line}")["test"] == wanted
    assert {name for wanted in LINES.values() for name in wanted} == set(METRICS)
    assert metrics_in("nothing here") == {}


def test_numbers_as_they_are_written():
    top1 = METRICS["top1"]
    assert (top1.number(-1.005), top1.signed(0.5), top1.number(float("nan"))) == (
        "−1.00",
        "+0.50",
        "–",
    )
    assert top1.difference(-0.3) == "−0.30 points"
    assert top1.difference(0.3, signed=False) == "0.30 points"
    assert top1.axis("test") == "test top-1 accuracy (%)"
    assert METRICS["perplexity"].axis() == "perplexity per token"


def test_large_numbers_have_a_power_of_ten():
    loss = METRICS["loss"]
    assert (loss.number(9999999.0), loss.number(9.486e19)) == ("9999999.0000", "9.49e+19")
    assert (loss.signed(-9.486e19), loss.difference(math.inf)) == ("−9.49e+19", "+inf nats")
