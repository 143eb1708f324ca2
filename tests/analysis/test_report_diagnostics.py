"""Test what reports show of stats.jsonl: means over seeds by depth and time, and the figures."""

import itertools
import re

import matplotlib
import numpy as np
import pytest
from helpers.made_runs import (
    add_stats,
    diverge,
    report_on,
    table,
    text,
    vision_run,
    without_figures,
)

from analysis import drawing
from analysis.grouping import group_runs
from analysis.run_folders import find_runs
from analysis.sections.layers import (
    QUANTITIES,
    LayerStatistics,
    heat_maps,
    layer_statistics,
    read_layers,
    trained_lines,
)
from analysis.written_files import earlier_files

SITES = ["stem.act", "layer1.0.act1", "layer1.0.act2", "head.act"]  # not in the alphabet's order
STEPS = [100, 200, 300]


# The beginnings of the names of this section's figures.
FIGURES = (*[each.name for each in QUANTITIES], "sigma")


pytestmark = pytest.mark.usefixtures("quick_figures")


def site(value, **changes):
    """Return what a line tells of a site: numbers that all follow from one value."""
    known = {
        "mean": 0.0, "std": value, "tail_index": 3 * value, "gaussian_tail_index": 6.0,
        "flat_share": value / 10, "gradient_norm": value / 1000, "sigma": None,
    }  # fmt: skip
    return known | changes


def lines(value_of, sites=SITES, steps=STEPS, **changes):
    """Return a line for each step, with value_of(step, place of the site), and the channels."""
    found = [
        {
            "step": step,
            "sites": {s: site(value_of(step, i), **changes) for i, s in enumerate(sites)},
        }
        for step in steps
    ]
    channels = {s: {"dead": i, "total": 16} for i, s in enumerate(sites)}
    return [*found, {"step": steps[-1], "channels": channels}]


def made(folder, seeds=2, **more):
    for name in ("ReLU", "ZiLU"):
        for seed in range(seeds):
            run = vision_run(folder / f"{name}_{seed}", 90 + seed, activation=name, seed=seed)
            shift = seed + 10 * (name == "ZiLU")
            add_stats(run, lines(lambda step, i, shift=shift: step / 100 + i + shift, **more))
    return folder


def layers(folder) -> tuple[LayerStatistics, list]:
    (group,) = group_runs(find_runs([folder])).groups
    return layer_statistics(group), group.variants


# --- the numbers ---


def test_means_are_over_seeds_at_equal_steps(tmp_path):
    found, (relu, zilu) = layers(made(tmp_path))
    std = found.frames("std")
    assert std[relu].columns.tolist() == SITES
    assert std[relu].index.tolist() == STEPS
    wanted = np.array([[step / 100 + i + 0.5 for i in range(4)] for step in STEPS])
    assert std[relu].to_numpy() == pytest.approx(wanted)
    assert std[zilu].to_numpy() == pytest.approx(wanted + 10)
    assert found.frames("tail_ratio")[relu].to_numpy() == pytest.approx(wanted / 2)
    assert found.frames("dead_share")[relu].to_numpy() == pytest.approx(np.arange(4)[None] / 16)
    assert found.frames("sigma") == {}
    assert found.runs == {relu: 2, zilu: 2}


def test_null_and_missing_values_are_not_averaged(tmp_path):
    made(tmp_path)
    alone = lines(lambda step, i: 7.0, steps=[200, 250])
    alone[0]["sites"]["head.act"]["std"] = None
    add_stats(tmp_path / "ReLU_1", alone)
    found, (relu, _) = layers(tmp_path)
    std = found.frames("std")[relu]
    assert std.index.tolist() == [100, 200, 250, 300]
    assert std["stem.act"].tolist() == pytest.approx([1, (2 + 7) / 2, 7, 3])
    assert std["head.act"].tolist() == pytest.approx([4, 5, 7, 6])


def test_the_csv_has_every_value(tmp_path):
    report_on(made(tmp_path))
    rows = table(tmp_path, "layers").set_index(["setting", "step", "site"])
    assert len(rows) == 2 * 3 * 4
    row = rows.loc["ReLU", 300, "layer1.0.act2"]
    found = row[["depth", "std", "tail_index", "flat_share", "gradient_norm", "dead", "channels"]]
    assert found.tolist() == pytest.approx([3, 5.5, 16.5, 0.55, 0.0055, 2, 16])
    assert np.isnan(row["sigma"])


def test_the_table_is_of_the_last_step(tmp_path):
    report_on(made(tmp_path))
    line = next(x for x in text(tmp_path).splitlines() if x.startswith("| ReLU") and " of " in x)
    # Medians over the sites' 3.5, 4.5, 5.5 and 6.5; dead channels 0 + 1 + 2 + 3.
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells == ["ReLU", "2", "5", "2.50", "50.00", "0.005", "6.0 of 64"]


def test_a_map_of_zeros_is_a_sentence(tmp_path):
    folder = made(tmp_path)
    for path in folder.glob("*_?/stats.jsonl"):
        path.write_text(re.sub(r'"dead": \d+', '"dead": 0', path.read_text()))
    report_on(folder)
    assert (
        "Share of the channels that had no positive input in a whole evaluation pass. It is 0 "
        "everywhere, at all times."
    ) in text(folder)
    assert not (folder / "report/figures/dead_share-1.svg").exists()
    assert (folder / "report/figures/std-1.svg").exists()
    assert "dead" in table(folder, "layers")


def test_older_runs_have_no_such_section(tmp_path):
    vision_run(tmp_path / "a", 90, activation="ReLU", seed=0)
    report_on(tmp_path)
    assert "### Layers" not in text(tmp_path)
    assert not (tmp_path / "report/layers.csv").exists()


def test_a_diverged_runs_layers_are_in_no_mean(tmp_path):
    found, (relu, _) = layers(made(tmp_path, seeds=3))
    assert found.frames("std")[relu].iloc[0, 0] == pytest.approx(2)
    diverge(tmp_path / "ReLU_2")
    assert layers(tmp_path)[0].frames("std")[relu].iloc[0, 0] == pytest.approx(1.5)


# --- the files ---


def test_a_line_that_was_cut_is_not_read(tmp_path):
    path = made(tmp_path) / "ReLU_0/stats.jsonl"
    whole = path.read_text()
    last = whole.rindex("{", 0, whole.rindex('"step"')) + 1
    for length in range(last, len(whole) - 1, 23):
        path.write_text(whole[:length])
        assert read_layers(path)["std"].index.tolist() == STEPS
        assert read_layers(path)["dead"].empty


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 1 is damaged"),
        ("[1]", "line 1 is damaged"),
        ('{"sites": {}}', "line 1 is damaged"),
        ('{"step": "x", "sites": {}}', "line 1 is damaged"),
        ('{"step": 1, "sites": [1]}', "line 1 is damaged"),
        ('{"step": 1, "sites": {"a": 1}}', "line 1 is damaged"),
        ('{"step": 1, "sites": {"a": {"std": "x"}}}', "what is no number"),
        ('{"step": Infinity, "sites": {}}', "line 1 is damaged"),
        ('{"step": 1, "sites": ' + "[" * 100_000, "line 1 is damaged"),
        ('{"step": 1, "sites": {"a": {"std": 1' + "0" * 400 + "}}}", "what is no number"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, line, reason):
    (made(tmp_path) / "ReLU_0/stats.jsonl").write_text(line + "\n")
    report_on(tmp_path)
    (found,) = [x for x in text(tmp_path).splitlines() if "ReLU_0/stats.jsonl" in x]
    assert reason in found
    assert found.endswith("left out")
    (relu,) = set(table(tmp_path, "layers").query("setting == 'ReLU' and step == 100")["site"][:1])
    assert relu == "stem.act"


def test_a_folder_in_its_place_is_named(tmp_path):
    path = made(tmp_path) / "ReLU_0/stats.jsonl"
    path.unlink()
    path.mkdir()
    report_on(tmp_path)
    assert "ReLU_0/stats.jsonl: it cannot be read (Is a directory); left out" in text(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["", '{"step": 1, "sites": {}}\n', '{"step": 1, "sites": {"a": {"std": null}}}\n',
     '{"step": 1, "sites": {"a": {"std": 0, "flat_share": 0, "gradient_norm": 0}}}\n',
     '{"step": 0, "sites": {"a": {"std": 1, "gradient_norm": 1}}}\n',
     '{"step": 1, "sites": {"a": {"std": null, "tail_index": -1, "gaussian_tail_index": 0}}}\n',
     '{"step": 5, "channels": {"a": {"dead": 0, "total": 0}}}\n', '{"step": 1, "other": 2}\n'],
)  # fmt: skip
def test_files_with_next_to_nothing(tmp_path, monkeypatch, content):
    without_figures(monkeypatch, but=FIGURES)
    run = vision_run(tmp_path / "a", 90, activation="ReLU", seed=0)
    (run / "stats.jsonl").write_text(content)
    report_on(tmp_path)


# --- the figures ---


def drawn_maps(folder, name):
    found, settings = layers(folder)
    (quantity,) = [each for each in QUANTITIES if each.name == name]
    with matplotlib.rc_context(drawing.STYLE):
        figure = heat_maps(found, quantity, settings)
        figure.draw_without_rendering()
    return figure


def test_a_map_has_a_row_for_each_site_the_first_on_top(tmp_path):
    figure = drawn_maps(made(tmp_path), "flat_share")
    relu, zilu, bar = figure.axes
    found = relu.collections[0].get_array()
    assert np.asarray(found) == pytest.approx(
        np.array([[10 * (step / 100 + i + 0.5) for step in STEPS] for i in range(4)])
    )
    assert [label.get_text() for label in relu.get_yticklabels()] == SITES
    assert relu.get_ylim() == (4.5, 0.5)
    assert [axes.get_title() for axes in (relu, zilu)] == ["ReLU", "ZiLU (σ = 1)"]
    assert bar.get_ylabel() == "flat units (%)"
    # A step's cell ends at the step.
    assert relu.get_xlim() == (0, 300)


@pytest.mark.parametrize("quantity", [each.name for each in QUANTITIES])
def test_one_scale_for_all_settings(tmp_path, quantity):
    relu, zilu, _ = drawn_maps(made(tmp_path), quantity).axes
    assert relu.collections[0].norm is zilu.collections[0].norm
    norm = relu.collections[0].norm
    values = np.concatenate([np.ravel(axes.collections[0].get_array()) for axes in (relu, zilu)])
    inside = np.mean((norm.vmin <= values) & (values <= norm.vmax))
    assert inside > 0.9
    if quantity == "tail_ratio":
        assert norm(1.0) == 0.5  # a Gaussian's, the middle of two colours


def test_one_outlier_does_not_take_the_scale(tmp_path):
    many = lines(lambda step, i: 1.0 + i / 10, steps=range(100, 10_000, 100))
    many[0]["sites"]["stem.act"]["std"] = 1e6
    add_stats(vision_run(tmp_path / "a", 90, activation="ReLU", seed=0), many)
    axes, bar = drawn_maps(tmp_path, "std").axes
    assert axes.collections[0].norm.vmax < 2
    assert len(bar.get_yticks()) >= 2


@pytest.mark.parametrize(("sites", "named"), [(60, 60), (61, 31), (200, 50)])
def test_many_sites_are_not_all_named(tmp_path, sites, named):
    names = [f"block{i}.act" for i in range(sites)]
    run = vision_run(tmp_path / "a", 90, activation="ReLU", seed=0)
    add_stats(run, lines(lambda step, i: 1.0 + i, sites=names))
    figure = drawn_maps(tmp_path, "std")
    axes = figure.axes[0]
    labels = [label for label in axes.get_yticklabels() if label.get_text()]
    assert len(labels) == named
    # They do not run into each other.
    boxes = [label.get_window_extent() for label in labels]
    assert all(above.y0 >= below.y1 - 1.5 for above, below in itertools.pairwise(boxes))


def test_a_long_name_shows_its_end(tmp_path):
    names = [f"features.denseblock1.denselayer{i}.relu1" for i in (8, 16)]
    run = vision_run(tmp_path / "a", 90, activation="ReLU", seed=0)
    add_stats(run, lines(lambda step, i: 1.0 + i, sites=names))
    labels = drawn_maps(tmp_path, "std").axes[0].get_yticklabels()
    assert [x.get_text() for x in labels] == [f"…{name[-23:]}" for name in names]
    assert labels[1].get_text().endswith("denselayer16.relu1")


def test_learned_sigmas_have_a_line_for_each_site(tmp_path):
    for seed in range(2):
        run = vision_run(tmp_path / str(seed), 90, activation="ZiLU", learn_sigma=True, seed=seed)
        add_stats(run, lines(lambda step, i: 1.0, sigma=1.5 + seed))
    found, (setting,) = layers(tmp_path)
    figure = trained_lines(found, "sigma", [setting])
    axes, bar = figure.axes
    assert len(axes.get_lines()) == 4
    assert axes.get_lines()[0].get_ydata().tolist() == [2, 2, 2]
    assert len({tuple(line.get_color()) for line in axes.get_lines()}) == 4
    assert [label.get_text() for label in bar.get_yticklabels()] == SITES


def test_all_figures_of_a_report(tmp_path, monkeypatch):
    without_figures(monkeypatch, but=FIGURES)
    made(tmp_path)
    for seed in range(2):
        run = vision_run(tmp_path / f"l{seed}", 90, activation="ZiLU", learn_sigma=True, seed=seed)
        add_stats(run, lines(lambda step, i: 1.0 + i, sigma=1.0))
    report_on(tmp_path)
    names = {x.stem for x in (tmp_path / "report/figures").iterdir() if x.stat().st_size}
    assert {f"{each.name}-1" for each in QUANTITIES} | {"sigma-1"} <= names
    assert set((tmp_path / "report").glob("*/*")) <= set(earlier_files(tmp_path / "report"))
    # A sigma that is not learned has no line.
    assert text(tmp_path).count("sigma-1.png") == 1
    assert "A learned σ as it starts." in text(tmp_path)
