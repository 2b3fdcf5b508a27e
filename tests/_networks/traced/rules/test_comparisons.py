"""ReLUs in all their forms have the path norm and the gammas of a ReLU."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import pathsgd_optax as pathsgd
from tests import networks


PARAMS = {
    "w": jnp.float32([[1, -2, 3, -4], [0.5, 1, -1, 2]]),
    "b": jnp.float32([0.3, -0.2, 0.1, 0.4]),
    "v": jnp.float32([[1], [2], [-1], [0.5]]),
}


@functools.cache
def scalings(p):
    """gamma of a layer, each of the functions, and another layer."""
    functions = RELUS | {name: function for name, (function, _) in SCALED.items()}

    def apply_fn(params, x):
        outputs = [
            functions[name](x @ w["w"] + w["b"]) @ w["v"] for name, w in params.items()
        ]
        return jnp.concatenate(outputs, -1)

    params = dict.fromkeys(functions, PARAMS)
    return pathsgd.path_scaling(trace(apply_fn, params), params, p)


def trace(apply_fn, params, **options):
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return pathsgd.trace_network(apply_fn, params, networks.spec(3, 2), **options)


def wanted(p, factor=1.0):
    """The same by hand, with a number in the function's place."""
    w, b, v = (np.abs(np.float64(PARAMS[k])) ** p for k in "wbv")
    units, factor = w.sum(0) + b, np.abs(factor) ** p
    out = np.broadcast_to(v[:, 0] * factor, units.shape)
    gammas = {"w": np.tile(out, (2, 1)), "b": out, "v": (factor * units)[:, None]}
    return {k: gamma ** (2 / p) for k, gamma in gammas.items()}


RELUS = {
    "relu": jax.nn.relu,
    "maximum": lambda x: jnp.maximum(x, 0),
    "of zeros": lambda x: lax.max(x, jnp.zeros_like(x)),
    "of zeros, computed": lambda x: lax.max(x, 0 * jnp.ones_like(x)),
    "of an array": lambda x: jnp.maximum(np.zeros(4, np.float32), x),
    "minus a minimum": lambda x: -jnp.minimum(-x, 0),
    "clip": lambda x: jnp.clip(x, 0, jnp.inf),
    "clip below": lambda x: jnp.clip(x, 0),
    "clamp": lambda x: lax.clamp(0.0, x, jnp.inf),
    "half of a sum": lambda x: (x + jnp.abs(x)) / 2,
    "half of a sum, halved": lambda x: 0.5 * (jnp.abs(x) + x),
    "halves": lambda x: 0.5 * x + 0.5 * jnp.abs(x),
    "minus its minimum": lambda x: x - jnp.minimum(x, 0),
    "where": lambda x: jnp.where(x > 0, x, 0),
    "where not": lambda x: jnp.where(x <= 0, 0, x),
    "where, turned": lambda x: jnp.where(0 < x, x, 0),
    "where not not": lambda x: jnp.where(~(x > 0), 0, x),
    "where its axes are others": lambda x: jnp.where(x[None] > 0, x[None], 0)[0],
    "times a mask": lambda x: x * (x > 0),
    "a mask times": lambda x: (x > 0).astype(x.dtype) * x,
    "times integers": lambda x: x * (x > 0).astype(jnp.int32),
    "times no mask": lambda x: x * (1 - (x <= 0)),
    "times heaviside": lambda x: x * jnp.heaviside(x, 0.5),
    "times its step": lambda x: x * (1 + jnp.sign(x)) / 2,
    "times where": lambda x: x * jnp.where(x >= 0, 1.0, 0.0),
    "times a broadcast mask": lambda x: (x[:, None] * (x > 0)[:, None])[:, 0],
    "twice": lambda x: jnp.maximum(jnp.where(x > 0, x, 0), 0),
    "its own maximum": lambda x: jnp.maximum(x, 0 * x),
    "abs": jnp.abs,
    "sign times": lambda x: jnp.sign(x) * x,
    "maximum of both": lambda x: jnp.maximum(x, -x),
    "sum of both": lambda x: jax.nn.relu(x) + jax.nn.relu(-x),
    "leaky": lambda x: jax.nn.leaky_relu(x, 0.1),
    "leaky maximum": lambda x: jnp.maximum(x, 0.1 * x),
    "leaky where": lambda x: jnp.where(x < 0, 0.1 * x, x),
    "leaky factor": lambda x: x * jnp.where(x > 0, 1, 0.1),
    "leaky sum": lambda x: jax.nn.relu(x) - 0.1 * jax.nn.relu(-x),
    "leaky of abs": lambda x: 0.55 * x + 0.45 * jnp.abs(x),
    "leaky sum of minimum": lambda x: jnp.maximum(x, 0) + 0.1 * jnp.minimum(x, 0),
    "leaky by an array": lambda x: jnp.where(x > 0, x, np.float32([0.1] * 4) * x),
    "linear": lambda x: 0.25 * x + 0.75 * x,
    "all above a mask": lambda x: jnp.where(x > -jnp.inf, x, 0),
    "no nan": lambda x: jnp.where(x != x, 0, x),
}


@pytest.mark.parametrize("p", [3.5])
@pytest.mark.parametrize("name", RELUS)
def test_every_relu_has_the_paths_of_a_relu(name, p):
    chex.assert_trees_all_close(scalings(p)[name], wanted(p), rtol=2e-5)


SCALED = {
    "a double": (lambda x: x + jnp.abs(x), 2),
    "three": (lambda x: jax.nn.relu(x) + 2 * jax.nn.relu(x), 3),
    "steep": (lambda x: jnp.maximum(x, 3 * x), 3),
    "steep below": (lambda x: jnp.minimum(x, 3 * x), 3),
    "leaky, turned": (lambda x: jax.nn.leaky_relu(-x, 0.1), 1),
    "leaky, negated": (lambda x: -jax.nn.leaky_relu(x, 0.1), 1),
    "leaky, turned where": (lambda x: jnp.where(-x > 0, -x, -0.1 * x), 1),
    "steep where": (lambda x: jnp.where(x > 0, 2 * x, 0.25 * x), 2),
    "below": (lambda x: x - jnp.abs(x), 2),
    "below, sided": (lambda x: jnp.where(-2 * x > 0, 0.25 * x, x), 1),
    "minus itself": (lambda x: x - jax.nn.relu(x) + jax.nn.relu(-x), 0),
    "nothing": (lambda x: jnp.maximum(jnp.minimum(x, 0), 0), 0),
    "a dead side": (lambda x: (x > 0) * jnp.minimum(x, 0), 0),
}


@pytest.mark.parametrize("p", [3.5])
@pytest.mark.parametrize("name", SCALED)
def test_the_steeper_slope_counts(name, p):
    _, factor = SCALED[name]
    chex.assert_trees_all_close(scalings(p)[name], wanted(p, factor), rtol=2e-5)


PRELUS = {
    "where": lambda a, x: jnp.where(x >= 0, x, a * x),
    "where not": lambda a, x: jnp.where(x < 0, a * x, x),
    "maximum": lambda a, x: jnp.maximum(x, a * x),
}


@pytest.mark.parametrize("name", PRELUS)
def test_multiples_by_parameters_are_leaky(name):
    params = {"a": jnp.float32([0.1] * 4), **PARAMS}

    def apply_fn(params, x):
        return PRELUS[name](params["a"], x @ params["w"] + params["b"]) @ params["v"]

    found = pathsgd.path_scaling(trace(apply_fn, params), params)
    del found["a"]
    chex.assert_trees_all_close(found, wanted(2), rtol=1e-5)


REFUSED = {
    "a step alone": lambda x: (x > 0).astype(x.dtype),
    "plus a step": lambda x: x + (x > 0),
    "another's step": lambda x: x * (x[:, ::-1] > 0),
    "another's sign": lambda x: jnp.sign(x[:, ::-1]) * x,
    "another's case": lambda x: jnp.where(x > 0, x, x[:, ::-1]),
    "a constant case": lambda x: jnp.where(x > 0, x, 1),
    "above 1": lambda x: jnp.where(x > 1, x, 0),
    "two steps": lambda x: x * ((x > 0) & (x[:, ::-1] > 0)),
    "a sum of steps": lambda x: x * jnp.sum(x > 0, -1, keepdims=True),
    "always above": lambda x: jnp.maximum(x, jnp.inf),
    "relu6": jax.nn.relu6,
    "an array's": lambda x: jnp.maximum(x, np.float32([0, 1, 0, 1])),
    "hard_tanh": jax.nn.hard_tanh,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "celu": jax.nn.celu,
    "selu": jax.nn.selu,
    "softplus": jax.nn.softplus,
    "mish": jax.nn.mish,
    "hard_silu": jax.nn.hard_silu,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_relu_is_refused(name):
    with pytest.raises(ValueError, match="has no path semantics") as error:
        trace(lambda w, x: REFUSED[name](x @ w["w"]) @ w["v"], PARAMS)
    place = str(error.value).partition(" has no")[0]
    assert "at test_comparisons.py:" in place
    if hasattr(jax.nn, name):
        assert f"of jax.nn.{name} " in place


CLIPPED = {
    "relu6": (jax.nn.relu6, 1),
    "a minimum": (lambda x: jnp.minimum(jax.nn.relu(x), 6), 1),
    "a clamp": (lambda x: lax.clamp(0.0, x, 6.0), 1),
    "a clip": (lambda x: jnp.clip(x, -1, 1), 1),
    "a maximum of -1": (lambda x: jnp.maximum(x, -1), 1),
    "hard_swish": (jax.nn.hard_swish, 1),
    "itself": (lambda x: x * jnp.clip(x, -1, 1), 1),
    "the larger bound": (lambda x: x * jnp.clip(x, -2, 1), 2),
    "a difference": (lambda x: x * (1 - jax.nn.hard_sigmoid(x)), 1),
    "a multiple": (lambda x: 3 * jax.nn.hard_sigmoid(x) * x, 3),
    "moved": (lambda x: x * (jax.nn.hard_sigmoid(x)[:, None])[:, 0], 1),
    "another's": (lambda x: x * jax.nn.hard_sigmoid(x[:, ::-1]), 1),
    "all others'": (lambda x: x * jax.nn.hard_sigmoid(x.mean(1, keepdims=True)), 1),
}


@pytest.mark.parametrize("name", CLIPPED)
def test_gates_have_the_paths_of_what_they_multiply(name):
    function, factor = CLIPPED[name]

    def apply_fn(params, x):
        return function(x @ params["w"] + params["b"]) @ params["v"]

    with pytest.raises(ValueError, match="trace with gates=True"):
        trace(apply_fn, PARAMS)
    network = trace(apply_fn, PARAMS, gates=True)
    found = pathsgd.path_scaling(network, PARAMS)
    chex.assert_trees_all_close(found, wanted(2, factor), rtol=1e-5)


REFUSED_WITH_GATES = {
    "by an array": lambda x: jnp.minimum(x, np.float32([1, 2, 3, 4])),
    "always above": lambda x: jnp.maximum(x, jnp.inf),
}


@pytest.mark.parametrize("name", REFUSED_WITH_GATES)
def test_gates_are_clipped_by_numbers(name):
    def apply_fn(params, x):
        return REFUSED_WITH_GATES[name](x @ params["w"]) @ params["v"]

    with pytest.raises(ValueError, match="has no path semantics: it clips"):
        trace(apply_fn, PARAMS, gates=True)


CLAMPED = {
    "below": lambda x, y: lax.clamp(y, x, jnp.full_like(x, jnp.inf)),
    "above": lambda x, y: lax.clamp(jnp.full_like(x, -jnp.inf), x, y),
}


@pytest.mark.parametrize("name", CLAMPED)
def test_bounds_that_are_data_have_paths(name):
    params = {"v": PARAMS["w"], "w": 2 * PARAMS["w"]}

    def apply_fn(params, x):
        return CLAMPED[name](x @ params["v"], x @ params["w"])

    network = trace(apply_fn, params)
    total = np.abs(PARAMS["w"]).sum()
    np.testing.assert_allclose(pathsgd.path_norm(network, params, 1), 3 * total)
