"""Open the part on predictions, and name the files that its sections cannot use."""

from analysis.document import Document, plain
from analysis.findings import GroupFindings
from analysis.section import Section


class Predictions(Section):
    def write_group(self, document: Document, group: GroupFindings) -> None:
        found = group.predictions
        paired_blocks = any(found.paired_blocks(each) for each in group.comparisons)
        if found.images or paired_blocks or found.problems:
            document.heading(3, "Predictions")
            document.items([plain(text) for text in found.problems])
