"""Test that a report removes the files that an earlier one wrote, and none of the user's."""

import pytest
from helpers.made_runs import report_on, vision_run

from analysis.written_files import LIST, earlier_files

pytestmark = pytest.mark.usefixtures("quick_figures")


def made(folder, **flags):
    for name in ("ReLU", "ZiLU"):
        vision_run(folder / name, 90, activation=name, seed=0, **flags)


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def two_groups(tmp_path):
    """Write a report on two groups, remove the second's runs, and add files of the user's."""
    for lr in (0.1, 0.2):
        made(tmp_path / f"lr{lr}", lr=lr)
    report_on(tmp_path)
    mine = ("notes.txt", "figures/mine-2.png", "figures/curves-2.txt", "tables/mine.tex")
    for name in mine:
        (tmp_path / "report" / name).write_text("mine")
    for name in ("ReLU", "ZiLU"):
        (tmp_path / f"lr0.2/{name}/args.txt").unlink()
    return tmp_path, set(mine)


def test_the_list_names_every_file(tmp_path):
    made(tmp_path)
    report_on(tmp_path)
    folder = tmp_path / "report"
    assert {path.relative_to(folder).as_posix() for path in earlier_files(folder)} == (
        files(folder) - {LIST}
    )


def test_what_the_list_names_goes_and_nothing_else(two_groups):
    runs, mine = two_groups
    folder = runs / "report"
    # The user's, under a name that a report could have had: no list names it.
    (folder / "tables/settings-7.tex").write_text("mine")
    (folder / "layers.csv").write_text("mine")
    mine |= {"tables/settings-7.tex", "layers.csv"}
    assert "tables/settings-2.tex" in files(folder)
    report_on(runs)
    left = files(folder)
    assert mine <= left
    assert not {name for name in left - mine if "-2." in name}
    assert "tables/differences.tex" not in left
    assert all((folder / name).read_text() == "mine" for name in mine)


def test_a_report_from_before_there_was_a_list(two_groups):
    runs, mine = two_groups
    folder = runs / "report"
    (folder / LIST).unlink()
    report_on(runs)
    left = files(folder)
    assert mine <= left
    assert not {name for name in left - mine if "-2." in name}


@pytest.mark.parametrize("text", ["", "my notes\nnotes.txt\nfigures/mine.png\n"])
def test_a_list_that_is_not_ours_counts_for_nothing(tmp_path, text):
    """Nor do the names of old reports in a folder that holds no report."""
    made(tmp_path)
    folder = tmp_path / "report"
    (folder / "figures").mkdir(parents=True)
    for name in ("notes.txt", "figures/mine.png", "figures/curves-9.png", "report.html"):
        (folder / name).write_text("mine")
    (folder / LIST).write_text(text)
    report_on(tmp_path)
    for name in ("notes.txt", "figures/mine.png", "figures/curves-9.png"):
        assert (folder / name).read_text() == "mine"


def test_a_list_leads_nowhere_else(tmp_path):
    made(tmp_path)
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    report_on(tmp_path)
    folder = tmp_path / "report"
    with open(folder / LIST, "a") as file:
        file.write(f"../outside.txt\n{outside}\nfigures\n\nfigures/../../outside.txt\nnone.csv\n")
    report_on(tmp_path)
    assert outside.read_text() == "mine"
    assert (folder / "figures").is_dir()


def test_of_a_report_that_was_cut_short_nothing_stays(two_groups, monkeypatch):
    """Its list is there before its files."""
    runs, mine = two_groups
    folder = runs / "report"
    made(runs / "lr0.2", lr=0.2)

    def fail(drawings, folder):
        assert "curves-2" in drawings
        (folder / "curves-2.png").write_bytes(b"half")
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr("analysis.drawing.save", fail)
        with pytest.raises(RuntimeError):
            report_on(runs)
    assert "figures/curves-2.png" in files(folder)
    for name in ("ReLU", "ZiLU"):
        (runs / f"lr0.2/{name}/args.txt").unlink()
    report_on(runs)
    assert not {name for name in files(folder) - mine if "-2." in name}
