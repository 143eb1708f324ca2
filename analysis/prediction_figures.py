"""The figures of the predictions: accuracy by class, and reliability."""

import numpy as np
import pandas
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import add_legend, labels_of, new_figure, plain_log, short, styles
from analysis.predictions import BINS, Images, pooled_bins
from analysis.settings import Group, Setting

FEW_IMAGES = 10  # a bin's accuracy of fewer, over all seeds, is noise


def class_accuracies(group: Group, table: pandas.DataFrame, settings: list[Setting]) -> Figure:
    """Accuracy by class, means over seeds; the classes in the order of the first setting's."""
    figure = new_figure(3.2, labels_of(settings))
    axes = figure.subplots()
    look = styles(group.settings)
    accuracies = {s: table[table["setting"] == s.label]["accuracy"].to_numpy() for s in settings}
    order = np.argsort(accuracies[settings[0]])  # a class without images, NaN, comes last
    for setting, values in accuracies.items():
        style = look[setting].line if setting == settings[0] else look[setting].point
        quiet = {} if setting == settings[0] else {"linestyle": "none", "markersize": 3}
        places = np.arange(1, len(order) + 1)
        axes.plot(places, values[order], label=short(setting.label), **style, **quiet)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"classes, in the order of their accuracy with {short(settings[0].label)}")
    axes.set_ylabel("accuracy in the class (%)")
    add_legend(figure, axes)
    return figure


def reliability(group: Group, images: dict[Setting, list[Images]]) -> Figure:
    """Accuracy against confidence, in bins over all seeds, above the images in each bin."""
    figure = new_figure(4.6, labels_of(list(images)))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
    look = styles(group.settings)
    above.plot([0, 100], [0, 100], color="black", linewidth=0.8)
    edges = np.linspace(0, 100, BINS + 1)
    for setting, runs in images.items():
        count, confidence, accuracy = pooled_bins(runs).T
        drawn = count >= FEW_IMAGES
        above.plot(
            100 * confidence[drawn],
            100 * accuracy[drawn],
            label=short(setting.label),
            marker=look[setting].marker,
            markersize=4,
            **look[setting].line,
        )
        below.stairs(count / len(runs), edges, **look[setting].line)
    above.set(ylabel="accuracy (%)", ylim=(0, 101))
    below.set(xlabel="confidence (%)", ylabel="images per run", yscale="log", xlim=(0, 101))
    plain_log(below)
    add_legend(figure, above)
    return figure
