"""The figure, as matplotlib knows it."""

import math

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_hex

from benchmarks.figures import (
    CRITERION_STYLES,
    LOOKS,
    draw_learning_curves,
    draw_network_size,
    draw_unbalanced,
    learning_curves,
    network_size,
    unbalanced,
)
from benchmarks.optimizers import OPTIMIZERS
from benchmarks.results import Record, SizeRecord, ToyUpdate
from benchmarks.stopping import CRITERIA


def records(optimizers=("sgd", "path_sgd"), seeds=1, dataset="digits", loss=None):
    return [
        Record(
            dataset,
            optimizer,
            init,
            0.0,
            seed,
            0.1,
            epoch,
            (seed + 1) / epoch if loss is None else loss,
            0.1 * (seed + 1) / epoch,
            0.2 * (seed + 1) / epoch,
            0.01,
        )
        for optimizer in optimizers
        for init in ("balanced", "unbalanced")
        for seed in range(seeds)
        for epoch in (1, 2, 3)
    ]


def test_there_is_a_row_a_data_set_and_a_column_a_quantity():
    figure = learning_curves([*records(), *records(dataset="mnist")])
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "objective (cross-entropy)",
        "training error",
        "test error",
    ] * 2
    assert {axes.get_xlabel() for axes in figure.axes} == {"epoch"}
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["digits", "", "", "mnist", "", ""]


def test_the_scales_fit_what_is_drawn():
    wide = [
        r._replace(train_loss=0.1**r.epoch, test_error=0.1**r.epoch) for r in records()
    ]
    narrow = [
        r._replace(train_error=0.5 - 0.1 * r.epoch, test_error=0.6) for r in records()
    ]
    for drawn, scales in (
        (wide, ["log", "symlog", "symlog"]),
        (narrow, ["linear", "linear", "linear"]),
    ):
        axes = learning_curves(drawn).axes
        assert [panel.get_yscale() for panel in axes] == scales
        assert axes[1].yaxis.get_major_formatter()(0.2) == "20%"


def test_a_line_shows_the_median_over_the_seeds_on_their_range():
    axes = learning_curves(records(("sgd",), seeds=3)).axes[0]
    balanced, _ = axes.lines
    np.testing.assert_allclose(balanced.get_xydata(), [[1, 2], [2, 1], [3, 2 / 3]])
    band = axes.collections[0].get_paths()[0].vertices
    at_two = band[band[:, 0] == 2, 1]
    assert (at_two.min(), at_two.max()) == (0.5, 1.5)


def test_one_seed_has_no_band():
    assert not learning_curves(records()).axes[0].collections


def test_colours_name_the_optimizer_and_dashes_the_start():
    for axes in learning_curves(records()).axes:
        looks = [(to_hex(line.get_color()), line.is_dashed()) for line in axes.lines]
        sgd, path_sgd = (LOOKS[name].colour.lower() for name in ("sgd", "path_sgd"))
        assert looks == [
            (sgd, False),
            (sgd, True),
            (path_sgd, False),
            (path_sgd, True),
        ]


def test_curves_are_marked_by_optimizer():
    for axes in learning_curves(records()).axes:
        markers = [line.get_marker() for line in axes.lines]
        names = "sgd", "sgd", "path_sgd", "path_sgd"
        assert markers == [LOOKS[name].marker for name in names]


def test_a_row_says_what_its_curves_are_of():
    slow = [r._replace(learning_rate=0.01) for r in records(("sgd",), seeds=3)]
    rows = [
        *(r for r in slow if r.init == "unbalanced"),
        *(
            r
            for r in records(seeds=3)
            if (r.optimizer, r.init) != ("sgd", "unbalanced")
        ),
        *records(("adam",), dataset="mnist"),
    ]
    captions = [axes.texts[0].get_text() for axes in learning_curves(rows).axes[::3]]
    assert captions == [
        "Medians of 3 seeds, shaded from the least to the greatest. "
        "Step sizes: SGD 0.01 / 0.1, Path-SGD 0.1",
        "One seed. Step sizes: Adam 0.1",
    ]


def test_every_optimizer_has_a_colour_of_its_own():
    assert set(LOOKS) == set(OPTIMIZERS)
    for looks in zip(*LOOKS.values(), strict=True):
        assert len(set(looks)) in (len(LOOKS), 1)


def test_the_legend_names_what_is_drawn():
    (legend,) = learning_curves(records()).legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "SGD",
        "Path-SGD",
        "balanced start",
        "unbalanced start",
    ]


@pytest.mark.parametrize("count", [4, 6, 8])
def test_the_legend_is_whole_whatever_it_names(count):
    figure = learning_curves(records(tuple(OPTIMIZERS)[:count]))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    extent = legend.get_window_extent()
    assert 0 <= extent.x0 and extent.x1 <= figure.bbox.x1
    assert max(axes.get_window_extent().y1 for axes in figure.axes) < extent.y0


@pytest.mark.parametrize("loss", [math.nan, 0.0])
@pytest.mark.parametrize("seeds", [1, 2])
def test_losses_that_no_logarithm_has_leave_a_figure(tmp_path, loss, seeds):
    path = tmp_path / "figure.png"
    diverged = records(("adam",), seeds, loss=loss)
    draw_learning_curves([*records(seeds=seeds), *diverged], path)
    assert matplotlib.image.imread(path).std() > 0.05
    draw_learning_curves(diverged, path)


def test_a_loss_that_diverged_does_not_stretch_the_axes(tmp_path):
    plain = learning_curves(records(seeds=2)).axes[0]
    diverged = records(("adam",), seeds=2, loss=math.nan)
    stretched = learning_curves([*records(seeds=2), *diverged]).axes[0]
    assert plain.get_ylim() == stretched.get_ylim()


def updates(example, init, count):
    kernels = [[[2.0] * count] * count] * 2
    return [
        ToyUpdate(example, name, init, kernels, [1.0] * count, kernels, [3.0] * count)
        for name in ("sgd", "path_sgd")
    ]


def test_figure_2_has_a_row_for_each_start_of_each_small_network(tmp_path):
    toys = [*updates("b", "balanced", 1), *updates("c", "unbalanced", 2)]
    wide = [r._replace(train_loss=0.1**r.epoch) for r in records(seeds=2)]
    figure = unbalanced(wide, toys)
    objective, *panels = figure.axes
    assert objective.get_title(loc="left") == "(a) digits"
    assert objective.get_yscale() == "log" and len(objective.lines) == 4
    titles = [axes.get_title() or axes.get_title(loc="left") for axes in panels]
    steps = ["after SGD", "after Path-SGD"]
    assert titles == ["(b) balanced", *steps, "(c) unbalanced", *steps]
    assert [len(axes.lines) for axes in panels] == [2] * 3 + [8] * 3
    colours = [to_hex(axes.lines[0].get_color()) for axes in panels[1:3]]
    assert colours == [LOOKS[name].colour.lower() for name in ("sgd", "path_sgd")]
    path = tmp_path / "figure.png"
    draw_unbalanced(records(), toys, path)
    assert matplotlib.image.imread(path).std() > 0.05


def sizes(seeds=1, dataset="digits"):
    """Records of 4 and 8 units; only the larger ones end without training errors."""
    return [
        SizeRecord(dataset, size, seed, epoch, 0.5, train, 0.2, 0.1 * epoch, 0.01)
        for size in (4, 8)
        for seed in range(seeds)
        for epoch in (1, 2)
        for train in (0.0 if size == 8 else 0.3,)
    ]


def test_figure_1_shows_the_errors_of_each_criterion_by_size(tmp_path):
    (axes,) = network_size(sizes()).axes
    shown = {line.get_label(): line.get_ydata() for line in axes.lines[:4]}
    expected = {
        "training error (convergence)": [0.3, 0.0],
        "test error (convergence)": [0.2, 0.2],
        "test error (zero training error)": [math.nan, 0.1],
        "test error (early stopping)": [0.1, 0.1],
    }
    assert list(shown) == list(expected)
    for label, values in expected.items():
        np.testing.assert_allclose(shown[label], values)
    assert axes.get_xscale() == "log" and axes.get_yscale() == "symlog"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["4", "8"]
    path = tmp_path / "figure.png"
    draw_network_size(sizes(seeds=2), path)
    assert matplotlib.image.imread(path).std() > 0.05


def test_figure_1_marks_the_size_that_has_no_training_error():
    (axes,) = network_size(sizes()).axes
    assert axes.lines[4].get_xdata() == [8, 8]
    without = [record for record in sizes() if record.hidden_units == 4]
    assert len(network_size(without).axes[0].lines) == 4


def test_figure_1_says_how_many_seeds_it_is_of():
    few = [record for record in sizes(seeds=3) if record.hidden_units + record.seed < 9]
    assert network_size(few).get_supxlabel().startswith("Medians of 1 to 3 seeds")
    assert network_size(sizes()).get_supxlabel() == "One seed"


def test_figure_1_has_a_panel_a_data_set():
    figure = network_size([*sizes(), *sizes(dataset="mnist")])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["digits", "mnist"]


def test_every_criterion_has_a_colour_and_a_marker_of_its_own():
    assert set(CRITERION_STYLES) == set(CRITERIA)
    colours, markers, _ = zip(*CRITERION_STYLES.values(), strict=True)
    assert len(set(colours)) == len(set(markers)) == len(CRITERIA)
    assert not set(colours) & {look.colour for look in LOOKS.values()}
