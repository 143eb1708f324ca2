"""Records of evaluations, as lines of train_eval_results.txt."""


def moment(record: dict) -> str:
    """When a record was made: `epoch 001`, or inside an epoch `step 000500`."""
    return f"step {record['step']:06d}" if "partial" in record else f"epoch {record['epoch']:03d}"


def result_line(task, record: dict) -> str:
    """A line of results; time and training metrics count from the epoch's start."""
    parts = [f"[{moment(record).capitalize()}] Time: {record['seconds']:.4f}s"]
    return " | ".join([*parts, *split_results(task, record, ("train", "val", "test"))])


def split_results(task, record: dict, splits: tuple[str, ...]) -> list[str]:
    return [f"[{s.title()}] {task.describe(record[s])}" for s in splits if s in record]


def summary(task, records: list[dict], test_each_epoch: bool) -> list[str]:
    """The headline: the final epoch; then the best ones, labelled with how they were chosen."""

    def best(split: str) -> dict:
        return max(records, key=lambda record: task.score(record[split]))

    def line(label: str, record: dict) -> str:
        results = split_results(task, record, ("val", "test"))
        return " | ".join([f"[Summary] {label}: {moment(record)}", *results])

    lines = [line("Final", records[-1])]
    if "val" in records[-1]:
        lines.append(line("Best validation", best("val")))
    if test_each_epoch:
        lines.append(line("Best test (chosen on the test set)", best("test")))
    return lines
