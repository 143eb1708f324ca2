"""The tables of a report as pandas frames: numbers as they are for CSV, formatted for reading."""

import math
import statistics
from collections.abc import Callable

import pandas

from analysis.comparisons import Comparison
from analysis.metrics import final_value, selected_value
from analysis.run_folders import RunResult
from analysis.sentences import p_value, purpose
from analysis.settings import Group, Sorted, seeds_of, setting_of
from analysis.statistics import WILCOXON_PAIRS, estimate
from run_folder.metrics import Metric, minus


def settings_table(group: Group, metric: Metric) -> pandas.DataFrame:
    """A row for each setting: final and validation-selected test results, time and memory."""
    rows = []
    for setting in group.settings:
        runs = list(group.runs[setting].values())
        final = estimate([final_value(run, metric) for run in runs])
        selected = [x for run in runs if not math.isnan(x := selected_value(run, metric))]
        chosen = estimate(selected)
        rows.append(
            {
                "setting": setting.label,
                "n": final.n,
                "mean": final.mean,
                "sd": final.sd,
                "low": final.low,
                "high": final.high,
                "selected_n": chosen.n,
                "selected_mean": chosen.mean,
                "selected_sd": chosen.sd,
                "selected_low": chosen.low,
                "selected_high": chosen.high,
                "sigma_at_end": _mean([learned_sigma(run) for run in runs]),
                "step_ms": _mean([step_ms(run) for run in runs]),
                "epoch_seconds": _mean([epoch_seconds(run) for run in runs]),
                "memory_gib": max((memory_gib(run) for run in runs), default=math.nan),
            }
        )
    return pandas.DataFrame(rows)


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


def epoch_seconds(run: RunResult) -> float:
    """Of training and evaluation; the median over the epochs, the first of which may compile."""
    whole = [record for record in run.records if not record.get("partial")]
    times = [record["seconds"] for record in whole if record.get("seconds") is not None]
    return statistics.median(times[1:] or times) if times else math.nan


def step_ms(run: RunResult) -> float:
    """A training step's time: the median over the epochs; NaN for other code's runs."""
    rates = [
        value for record in run.records[1:] or run.records
        for name, value in record.items() if name.endswith("_per_second") and value
    ]  # fmt: skip
    if not rates or "batch_size" not in run.flags:
        return math.nan
    per_step = int(run.flags["batch_size"]) * int(run.flags.get("grad_accum_steps", 1))
    per_step *= int(run.flags.get("max_seq_length", 1))  # tokens
    return 1000 * per_step / statistics.median(rates)


def memory_gib(run: RunResult) -> float:
    peaks = [record["peak_memory_bytes"] for record in run.records if "peak_memory_bytes" in record]
    return max(peaks) / 2**30 if peaks else math.nan


def learned_sigma(run: RunResult) -> float:
    """The mean over the layers at the end; NaN where sigma is fixed."""
    sigmas = run.final.get("sigma") or {}
    return statistics.fmean(sigmas.values()) if sigmas else math.nan


def readable_settings(table: pandas.DataFrame, metric: Metric) -> pandas.DataFrame:
    number = metric.number

    def interval(row, prefix: str) -> str:
        low, high = row[f"{prefix}low"], row[f"{prefix}high"]
        return "–" if math.isnan(low) else f"{number(low)} to {number(high)}"

    columns = {
        "setting": table["setting"],
        "n": table["n"].astype(str),
        "final: mean": table["mean"].map(number),
        "sd": table["sd"].map(number),
        "95 % interval": [interval(row, "") for _, row in table.iterrows()],
    }
    if table["selected_n"].any():
        columns["at best validation: mean"] = table["selected_mean"].map(number)
        columns["sd "] = table["selected_sd"].map(number)
        columns["95 % interval "] = [interval(row, "selected_") for _, row in table.iterrows()]
        if (table["selected_n"] != table["n"]).any():
            columns["n "] = table["selected_n"].astype(str)
    for name, heading, digits in (
        ("sigma_at_end", "σ at the end", 3),
        ("step_ms", "step (ms)", 1),
        ("epoch_seconds", "epoch (s)", 1),
        ("memory_gib", "memory (GiB)", 2),
    ):
        if table[name].notna().any():
            columns[heading] = table[name].map(_fixed(digits))
    return pandas.DataFrame(columns)


def _fixed(digits: int) -> Callable[[float], str]:
    return lambda x: "–" if math.isnan(x) else minus(f"{x:.{digits}f}")


def comparisons_table(comparisons: list[Comparison]) -> pandas.DataFrame:
    """A row for each comparison, with everything that was computed."""
    rows = []
    for each in comparisons:
        paired, (unpaired, low, high, p) = each.paired, each.unpaired
        needed = each.needed or (math.nan,) * 3
        rows.append(
            {
                "group": each.group.title,
                "metric": each.metric.name,
                "setting": each.setting.label,
                "baseline": each.baseline.label,
                "purpose": purpose(each),
                "primary": each.primary,
                "pairs": paired.n,
                "difference": paired.mean,
                "sd": paired.sd,
                "low": paired.low,
                "high": paired.high,
                "p_paired_t": paired.p,
                "p_holm": each.p_holm,
                "p_wilcoxon": paired.wilcoxon_p,
                "correlation": paired.correlation,
                "effect_size_dz": paired.effect_size,
                "p_equivalence": each.equivalence,
                "n_setting": each.counts[0],
                "n_baseline": each.counts[1],
                "welch_difference": unpaired,
                "welch_low": low,
                "welch_high": high,
                "p_welch": p,
                "detectable_80": each.detectable,
                "seeds_needed": needed[0],
                "seeds_needed_low": needed[1],
                "seeds_needed_high": needed[2],
            }
        )
    return pandas.DataFrame(rows)


def readable_comparisons(comparisons: list[Comparison], margin: float | None) -> pandas.DataFrame:
    rows = []
    for each in comparisons:
        paired, number, signed = each.paired, each.metric.number, each.metric.signed
        low, high = each.interval
        wilcoxon = p_value(paired.wilcoxon_p)
        row = {
            "setting": each.setting.label + (" (primary)" if each.primary else ""),
            "against": each.baseline.label,
            "pairs": str(paired.n),
            "difference": signed(each.difference),
            "95 % interval": "–" if math.isnan(low) else f"{signed(low)} to {signed(high)}",
            "p": p_value(paired.p),
            "p, Holm": p_value(each.p_holm) if each.family > 1 else "(one test)",
            "p, Wilcoxon": f"{wilcoxon} (n < {WILCOXON_PAIRS})"
            if 0 < paired.n < WILCOXON_PAIRS
            else wilcoxon,
            "p, Welch": p_value(each.unpaired[3]),
            "r": _fixed(2)(paired.correlation),
            "effect d_z": _fixed(2)(paired.effect_size),
            "detectable": number(each.detectable),
        }
        if margin:
            row[f"p, outside ±{margin:g}"] = p_value(each.equivalence)
        rows.append(row)
    return pandas.DataFrame(rows)


def runs_table(
    runs: list[RunResult], result: Sorted, metrics: dict[str, Metric]
) -> pandas.DataFrame:
    """The manifest of the runs: every one that was found, what it was used for, and a digest of
    its results."""
    group_of = {run.path: group for group in result.groups for run in group.all_runs()}
    reasons = {run.path: reason for run, reason in result.left_out}
    rows = []
    for run in runs:
        group = group_of.get(run.path)
        seed, init_seed, data_seed = seeds_of(run)
        metric = metrics[group.title] if group else None
        rows.append(
            {
                "run": str(run.path),
                "outcome": run.kind,
                "used": group is not None,
                "left_out_because": reasons.get(run.path, ""),
                "group": group.title if group else "",
                "setting": setting_of(run).label if run.flags else "",
                "seed": seed,
                "init_seed": init_seed,
                "data_seed": data_seed,
                "metric": metric.name if metric else "",
                "final": final_value(run, metric) if metric else math.nan,
                "at_best_validation": selected_value(run, metric) if metric else math.nan,
                "epochs": max((record.get("epoch", 0) for record in run.records), default=0),
                "device": run.environment.get("device", ""),
                "torch": run.environment.get("torch", ""),
                "git_commit": run.environment.get("git_commit", ""),
                "results_sha256": run.digest(),
            }
        )
    return pandas.DataFrame(rows)
