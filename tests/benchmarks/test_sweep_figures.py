"""The figure of losses by step size, as matplotlib knows it."""

import math

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_hex

from benchmarks.language import OPTIMIZERS
from benchmarks.results import LanguageRecord
from benchmarks.sweep_figures import LOOKS, draw_sweeps, sweep_figure


def records(optimizers=("adam", "lamb"), seeds=3, losses=(3.0, 2.0, 2.5)):
    return [
        LanguageRecord(
            optimizer, init, rate, seed, loss + 0.1 * seed, 4.0, [4.0, loss], 1.0
        )
        for optimizer in optimizers
        for init in ("balanced", "unbalanced")
        for rate, loss in zip((0.01, 0.02, 0.04), losses, strict=True)
        for seed in range(seeds)
    ]


def test_lines_are_the_medians_by_step_size_and_by_step():
    by_rate, by_step = sweep_figure(records()).axes
    np.testing.assert_allclose(
        by_rate.lines[0].get_xydata(), [[0.01, 3.1], [0.02, 2.1], [0.04, 2.6]]
    )
    np.testing.assert_allclose(by_step.lines[0].get_xydata(), [[10, 4], [20, 2]])
    band = by_rate.collections[0].get_paths()[0].vertices
    at_two = band[band[:, 0] == 0.02, 1]
    np.testing.assert_allclose((at_two.min(), at_two.max()), (2.0, 2.2))
    assert by_rate.get_xscale() == "log"


def test_one_seed_has_no_band():
    assert not any(axes.collections for axes in sweep_figure(records(seeds=1)).axes)


def test_colours_name_the_optimizer_and_dashes_the_start():
    for axes in sweep_figure(records()).axes:
        looks = [(to_hex(line.get_color()), line.is_dashed()) for line in axes.lines]
        adam, lamb = (LOOKS[name].colour.lower() for name in ("adam", "lamb"))
        assert looks == [(adam, False), (adam, True), (lamb, False), (lamb, True)]


def test_every_optimizer_has_a_colour_of_its_own():
    assert set(LOOKS) == set(OPTIMIZERS)
    for looks in zip(*LOOKS.values(), strict=True):
        assert len(set(looks)) in (len(LOOKS), 1)


@pytest.mark.parametrize("count", [1, 4, len(OPTIMIZERS)])
def test_the_legend_is_whole_whatever_it_names(count):
    figure = sweep_figure(records(tuple(OPTIMIZERS)[:count]))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    extent = legend.get_window_extent()
    assert 0 <= extent.x0 and extent.x1 <= figure.bbox.x1
    assert max(axes.get_window_extent().y1 for axes in figure.axes) < extent.y0
    named = [text.get_text() for text in legend.get_texts()]
    starts = ["balanced start", "unbalanced start"]
    assert named == [x.label for x in OPTIMIZERS.values()][:count] + starts


@pytest.mark.parametrize("losses", [(3.0, 2.0, math.nan), (math.nan,) * 3])
def test_losses_that_diverged_leave_a_figure(tmp_path, losses):
    path = tmp_path / "figure.png"
    draw_sweeps(records(losses=losses), path)
    assert matplotlib.image.imread(path).std() > 0.05


def test_high_losses_do_not_stretch_the_axes():
    plain, stretched = (
        sweep_figure(records(losses=(3.0, 2.0, last))).axes for last in (2.5, 1e6)
    )
    assert [x.get_ylim() for x in plain] == [x.get_ylim() for x in stretched]
