"""Pooling, sorting and reductions, against the sums that they are of masses."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests import paths


ORDER = np.array([2, 0, 3, 1])
KEYS = np.float32([[0.4, -1.0, 7.0, 0.0]])


def total(x):
    return x.sum(1, keepdims=True)


def windows(x, reduce, start):
    return lax.reduce_window(x, start, reduce, (1, 2), (1, 1), "VALID")


def first_key(x):
    return lax.sort((x, x[:, ::-1]), num_keys=1)[1]


EQUAL = {
    "sort": (jnp.sort, lambda x: jnp.repeat(total(x), 4, 1)),
    "largest of sorted": (lambda x: jnp.sort(x)[:, -1:], total),
    "sort along": (
        lambda x: jnp.sort(x.reshape(1, 2, 2), 2)[..., 0],
        lambda x: x[:, ::2] + x[:, 1::2],
    ),
    "sort by data": (first_key, lambda x: jnp.repeat(total(x), 4, 1)),
    "sort by constants": (
        lambda x: lax.sort((KEYS, x), num_keys=1)[1] * KEYS,
        lambda x: x[:, np.argsort(KEYS[0])] * KEYS,
    ),
    "argsort of constants": (
        lambda x: x[:, jnp.argsort(ORDER)] * KEYS,
        lambda x: x[:, np.argsort(ORDER)] * KEYS,
    ),
    "top_k": (lambda x: lax.top_k(x, 2)[0], lambda x: jnp.repeat(total(x), 2, 1)),
    "top_k along": (
        lambda x: lax.top_k(x.reshape(1, 2, 2), 1, axis=1)[0][:, 0],
        lambda x: x[:, :2] + x[:, 2:],
    ),
    "approx_max_k": (
        lambda x: lax.approx_max_k(x, 2)[0],
        lambda x: jnp.repeat(total(x), 2, 1),
    ),
    "reduce by a sum": (
        lambda x: lax.reduce(x, 0.0, lambda a, b: a + b, (1,))[:, None],
        total,
    ),
    "reduce by a maximum": (
        lambda x: lax.reduce(x, 0.0, lambda a, b: jnp.maximum(b, a), (1,))[:, None],
        total,
    ),
    "reduce by a minimum": (
        lambda x: lax.reduce(x, jnp.inf, lambda a, b: lax.min(a, b), (1,))[:, None],
        total,
    ),
    "windows by a sum": (
        lambda x: windows(x, lambda a, b: b + a, 0.0),
        lambda x: x[:, 1:] + x[:, :-1],
    ),
    "windows by a maximum": (
        lambda x: windows(x, lambda a, b: jnp.maximum(a, b), -jnp.inf),
        lambda x: x[:, 1:] + x[:, :-1],
    ),
    "associative scan": (
        lambda x: lax.associative_scan(jnp.add, x, axis=1),
        lambda x: jnp.cumsum(x, 1),
    ),
}


@pytest.mark.parametrize("name", EQUAL)
def test_what_is_pooled_has_the_paths_of_a_sum(name):
    function, other = EQUAL[name]
    found, wanted = paths.of_units(function), paths.of_units(other)
    chex.assert_trees_all_close(found, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda x: x[:, jnp.argsort(x[0])], "uses the order .*jnp.sort and lax.top_k"),
        (lambda x: jnp.argmax(x, 1)[:, None].astype(x.dtype), "uses the order"),
        (lambda x: lax.top_k(x, 2)[1].astype(x.dtype), "uses the order"),
        (lambda x: lax.reduce(x, 0.0, lambda a, b: a * a + b, (1,)), "no path rule"),
        (lambda x: lax.reduce(x, 1.0, lambda a, b: a * b, (1,)), "multiplies"),
        (lambda x: lax.reduce(x, 1.0, lambda a, b: lax.max(a, b), (1,)), "clips"),
        (lambda x: lax.reduce(x, 1.0, lambda a, b: a + b, (1,)), "no path rule"),
    ],
)
def test_what_is_no_pooling_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        paths.of_units(function)


@pytest.mark.parametrize("function", [jnp.sort, lambda w: lax.top_k(w, 4)[0]])
def test_weights_are_not_pooled(function):
    with pytest.raises(ValueError, match="a parameter enters it"):
        paths.of_weight(function)


def test_sums_by_a_function_make_weights():
    def summed(w):
        return lax.reduce(w, 0.0, lambda a, b: a + b, (1,))[:, None]

    chex.assert_trees_all_close(*map(paths.of_weight, (summed, total)))
