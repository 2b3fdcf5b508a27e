"""Writing into arrays, against the same written another way."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import paths


PAIR = np.array([0, 1, 1, 0])
FACTORS = np.float32([0, 2, -3])


def segments(function):
    return lambda x: function(x.T, PAIR, 3).T


def pairs(x):
    return jnp.stack([x[:, 0] + x[:, 3], x[:, 1] + x[:, 2]], 1)


def half(x):
    return x.astype(jnp.bfloat16)


EQUAL = {
    "zeroed": (
        lambda x: x.at[:, 0].multiply(0.0),
        lambda x: x * np.float32([[0, 1, 1, 1]]),
    ),
    "multiplied": (
        lambda x: x.at[:, 1:].multiply(FACTORS),
        lambda x: x * np.float32([[1, 0, 2, -3]]),
    ),
    "multiplied twice": (
        lambda x: x.at[:, np.array([0, 1, 1])].mul(FACTORS),
        lambda x: x * np.float32([[0, -6, 1, 1]]),
    ),
    "subtracted": (
        lambda x: x.at[:, 0].subtract(x[:, 3]),
        lambda x: jnp.concatenate([x[:, :1] - x[:, 3:], x[:, 1:]], 1),
    ),
    "subtracted twice": (
        lambda x: x.at[:, np.array([1, 1])].subtract(x[:, 2:]),
        lambda x: x.at[:, 1].add(x[:, 2] + x[:, 3]),
    ),
    "half precision": (
        lambda x: half(x).at[:, 0].add(half(x[:, 3])).astype(x.dtype),
        lambda x: x.at[:, 0].add(x[:, 3]),
    ),
    "maximum with 0": (lambda x: x.at[:, 0].max(0.0), lambda x: x),
    "maximum": (
        lambda x: x.at[:, 0].max(x[:, 3]),
        lambda x: x.at[:, 0].add(x[:, 3]),
    ),
    "minimum": (
        lambda x: x.at[:, :2].min(x[:, 2:]),
        lambda x: x.at[:, :2].add(x[:, 2:]),
    ),
    "segment_max": (segments(jax.ops.segment_max), pairs),
    "segment_min": (segments(jax.ops.segment_min), pairs),
    "segment_sum": (segments(jax.ops.segment_sum), pairs),
}


@pytest.mark.parametrize("name", EQUAL)
def test_what_is_written_into_has_the_paths_of(name):
    found, wanted = (paths.of_units(function) for function in EQUAL[name])
    chex.assert_trees_all_close(found, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    "function, other",
    [
        (
            lambda w: w.at[:, 0].multiply(0.5),
            lambda w: w * np.float32([[0.5, 1, 1, 1]]),
        ),
        (
            lambda w: jnp.ones((1, 4)).at[:, :2].multiply(w[:, :2]),
            lambda w: jnp.concatenate([w[:, :2], jnp.ones((1, 2))], 1),
        ),
        (lambda w: w.at[:, 0].subtract(w[:, 1]), lambda w: w.at[:, 0].add(-w[:, 1])),
        (lambda w: jnp.stack([w, 2 * w]).sum(0), lambda w: w + 2 * w),
        (lambda w: jnp.stack(jnp.unstack(w, axis=1)[::-1], 1), lambda w: w[:, ::-1]),
    ],
)
def test_weights_are_written_into(function, other):
    found, wanted = paths.of_weight(function), paths.of_weight(other)
    chex.assert_trees_all_close(found, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda x: x.at[:, 0].max(1.0), "scatter-max .*clips"),
        (lambda x: x.at[:, 0].mul(x[:, 1]), "scatter-mul .*multiplies two values"),
        (segments(jax.ops.segment_prod), "scatter-mul .*multiplies two values"),
    ],
)
def test_writing_without_paths_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        paths.of_units(function)


def test_parameters_multiply_where_places_are_unique():
    def scaled(**unique):
        return paths.of_weight(
            lambda w: jnp.ones((1, 4)).at[:, np.array([2, 0])].mul(w[:, :2], **unique)
        )

    with pytest.raises(ValueError, match=r"may coincide\. Pass unique_indices=True"):
        scaled()
    wanted = paths.of_weight(lambda w: w * np.float32([[1, 1, 0, 0]]))
    chex.assert_trees_all_close(scaled(unique_indices=True), wanted)
