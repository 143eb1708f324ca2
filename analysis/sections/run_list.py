"""List the runs: each with its environment, its use, and the reason if it was left out."""

import math

import pandas

from analysis.document import Document, plain
from analysis.findings import Findings
from analysis.measures import final_value, selected_value, validation_value
from analysis.section import Section
from analysis.variants import variant_of
from utils import printable


class RunList(Section):
    def write_closing(self, document: Document) -> None:
        left_out = self.findings.grouping.left_out
        if left_out:
            document.heading(2, "Runs left out")
            document.items([f"`{run.path}`: {plain(reason)}" for run, reason in left_out])
        remarks = [(run, text) for run in self.findings.runs for text in run.remarks]
        if remarks:
            document.heading(2, "To be read with care")
            document.items([f"`{run.path}`: {plain(text)}" for run, text in remarks])

    def csv_tables(self) -> dict[str, pandas.DataFrame]:
        return {"runs": runs_table(self.findings)}


def runs_table(findings: Findings) -> pandas.DataFrame:
    """Return a row for every run: its use, its outcome, and a digest of its results."""
    group_of = {run.path: group for group in findings.groups for run in group.group.all_runs()}
    reasons = {run.path: reason for run, reason in findings.grouping.left_out}
    rows = []
    for run in findings.runs:
        group = group_of.get(run.path)
        seed, init_seed, data_seed = run.seeds
        rows.append(
            {
                "run": printable(str(run.path)),
                "outcome": run.kind,
                "used": group is not None,
                "left_out_because": reasons.get(run.path, ""),
                "group": group.title if group else "",
                "setting": variant_of(run).label if run.flags else "",
                "seed": seed,
                "init_seed": init_seed,
                "data_seed": data_seed,
                "metric": group.metric.name if group else "",
                "final": final_value(run, group.metric) if group else math.nan,
                "validation": validation_value(run, group.metric) if group else math.nan,
                "at_best_validation": selected_value(run, group.metric) if group else math.nan,
                "epochs": max((record.get("epoch", 0) for record in run.records), default=0),
                "longer_since": "; ".join(run.earlier_lengths),
                "remarks": "; ".join(run.remarks),
                "device": run.environment.get("device", ""),
                "torch": run.environment.get("torch", ""),
                "git_commit": run.environment.get("git_commit", ""),
                "results_sha256": run.digest(),
            }
        )
    return pandas.DataFrame(rows)
