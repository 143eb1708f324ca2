"""From run folders to statistics, figures and a report."""
