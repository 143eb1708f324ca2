"""Tell the conditions of the runs: the arguments that groups differ in, or that a group shares."""

import pandas

from analysis.document import Document, plain
from analysis.findings import GroupFindings
from analysis.grouping import Group
from analysis.section import Section
from analysis.wording import value_text

# Norms, gain, shortcuts and blocks that are not worth a mention.
USUAL = ("auto", "torch", "conv", "plain", "learned")
SHOWN = (
    "norm", "mlp", "mlp_width", "positions", "qk_norm", "no_bias", "shortcut", "init_gain",
    "num_epochs", "max_steps", "batch_size", "grad_accum_steps", "optimizer", "optimizer_args",
    "lr", "weight_decay", "scheduler", "warmup",
    "label_smoothing", "imb_factor", "class_balanced", "augment", "random_resized_crop",
    "auto_augment", "rotate", "color_jitter", "noise", "random_erasing", "mixup", "cutmix",
    "dropout", "max_seq_length", "tokenizer", "val_fraction", "split_seed",
    "samples", "amp_dtype", "compile_mode",
)  # fmt: skip


class Conditions(Section):
    def write_opening(self, document: Document) -> None:
        groups = self.findings.groups
        if len(groups) < 2:
            return
        document.heading(2, "What differed")
        document.paragraph(
            "Runs that differ in more than activation, σ and seed are not pooled. These groups "
            "differ:"
        )
        rows = [{"group": group.title} for group in groups]
        for name, values in self.findings.grouping.differences:
            for row, value in zip(rows, values, strict=True):
                row[name] = value_text(value)
        document.table("differences", pandas.DataFrame(rows))

    def write_group(self, document: Document, group: GroupFindings) -> None:
        document.paragraph(_shared_conditions(group.group))


def _shared_conditions(group: Group) -> str:
    facts = [
        f"{name} {value_text(group.facts[name])}"
        for name in SHOWN
        if group.facts.get(name) not in (None, False, *USUAL)
    ]
    text = plain("; ".join(facts)) + "." if facts else ""
    devices = sorted({run.environment["device"] for run in group.all_runs() if run.is_ours})
    if devices:
        text += f" Made on {', '.join(devices)}."
    longer = [f"`{run.path}`: {text}" for run in group.all_runs() for text in run.earlier_lengths]
    if longer:
        text += f" **Made longer after their first results were there:** {'; '.join(longer)}."
    if group.notes:
        notes = plain("; ".join(group.notes))
        text += f" **The runs are pooled although they differ in** {notes}."
    return text
