"""What is read off the values of a function."""

import math

import numpy as np
import pytest

from pathsgd_optax._networks.traced.bounds import UNBOUNDED
from pathsgd_optax._networks.traced.curves import GRID, shape_of


def logistic(x):
    return 1 / (1 + np.exp(-x))


inf = math.inf

SHAPES = {
    "silu": (lambda x: x * logistic(x), 0, (0.5, 1), (0, 0.5), (-0.278464, inf)),
    "overflowing": (
        lambda x: x * np.exp(x) / (1 + np.exp(x)),
        *(0, (0.5, 1), (0, 0.5), (-0.278464, inf)),
    ),
    "sigmoid": (logistic, 0.5, (0, 0.25), (0, 0.25), (0, 1)),
    "leaky": (lambda x: np.where(x > 0, x, 0.1 * x), 0, (1, 1), (0.1, 0.1), UNBOUNDED),
    "soft sign": (lambda x: x / (1 + abs(x)), 0, (0, 1), (0, 1), (-1, 1)),
    "sine": (lambda x: np.sin(3 * x), 0, (-0.65168, 3), (-0.65168, 3), (-1, 1)),
    "steep": (lambda x: np.tanh(100 * x), 0, (0, 100), (0, 100), (-1, 1)),
    "flat": (lambda x: np.maximum(0.01 * x, 0), 0, (0.01, 0.01), (0, 0), (0, inf)),
    "a third": (lambda x: np.clip(x / 3, -2, 2), 0, (0, 1 / 3), (0, 1 / 3), (-2, 2)),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.filterwarnings("ignore:(overflow|invalid):RuntimeWarning")
def test_shapes(name):
    function, *wanted = SHAPES[name]
    shape = shape_of(function(GRID), UNBOUNDED)
    for found, number in zip(shape, wanted, strict=False):
        np.testing.assert_allclose(found, number, rtol=3e-4, atol=1e-12)


@pytest.mark.filterwarnings("ignore:(overflow|invalid|divide):RuntimeWarning")
@pytest.mark.parametrize(
    "function",
    [
        np.square,
        np.exp,
        np.sign,
        lambda x: np.sqrt(np.maximum(x, 0)),
        lambda x: np.where(x > 1, x, 0),
        lambda x: x * np.log(1 + abs(x)),
        np.log,
    ],
)
def test_what_grows_too_fast_or_jumps_has_none(function):
    assert shape_of(function(GRID), UNBOUNDED) is None


def test_what_is_never_positive_is_known_below_only():
    shape = shape_of(np.expm1(np.minimum(GRID, 1.0)), (-inf, 0.0))
    assert shape.below == (0.0, 1.0)
    assert shape.range == (-1.0, 0.0)
