"""The drawn networks, as matplotlib knows them."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from benchmarks.diagrams import draw_after, draw_before
from benchmarks.results import ToyUpdate


UPDATE = ToyUpdate(
    "c",
    "sgd",
    "balanced",
    [[[11.0, 12.0], [21.0, 22.0]], [[31.0], [41.0]]],
    [0.5],
    [[[1.5, 100.01000213], [2.5, 3.5]], [[4.5], [0.02]]],
    [40028.0004],
)


def drawn(draw):
    axes = Figure().subplots()
    draw(axes, UPDATE, "#0072B2")
    return axes


@pytest.mark.parametrize(
    ("draw", "numbers"),
    [
        (draw_before, ["11", "12", "21", "22", "31", "41", "1", "1", "0.5"]),
        (
            draw_after,
            ["1.5", "100.01", "2.5", "3.5", "4.5", "0.02", "1", "1", "40028"],
        ),
    ],
)
def test_every_weight_and_the_outputs_are_written(draw, numbers):
    texts = [text.get_text().strip() for text in drawn(draw).texts]
    assert sorted(filter(None, texts)) == sorted(numbers)


def test_a_weight_is_written_on_its_own_edge():
    axes = drawn(draw_before)
    assert {to_hex(line.get_color()) for line in axes.lines} == {"#0072b2"}
    for line, text in zip(axes.lines, axes.texts[:6], strict=True):
        tail, head = line.get_xydata()
        position = np.array(text.get_position()) - tail
        assert np.cross(np.append(head - tail, 0), np.append(position, 0))[2] == (
            pytest.approx(0)
        )
        assert 0 < position[0] < 0.5


def test_no_two_numbers_are_in_the_same_place():
    positions = [text.get_position() for text in drawn(draw_after).texts]
    distances = [
        np.hypot(a[0] - b[0], a[1] - b[1])
        for i, a in enumerate(positions)
        for b in positions[:i]
    ]
    assert min(distances) > 0.25
