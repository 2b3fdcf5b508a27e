"""BatchNorm in any algebraic order is the same edges; so are sums of one value."""

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
    "w": np.array([[1.0, -2, 3], [0.5, 1, -1]]),
    "c": np.array([0.3, -0.2, 0.1]),
    "scale": np.array([0.8, -1.1, 1.3]),
    "bias": np.array([0.4, 0.2, -0.7]),
    "v": np.array([[1.0], [2], [-1]]),
}
MEAN, VARIANCE = np.array([0.7, -0.5, 1.2]), np.array([0.5, 2.0, 1.5])


def keras(x, g, b, mean, var):
    shape = (1, 3)
    inverse = lax.rsqrt(var.reshape(shape) + 0.1) * g.reshape(shape)
    return x * inverse + (-mean.reshape(shape) * inverse + b.reshape(shape))


def folded(x, g, b, mean, var):
    slope = g / jnp.sqrt(var + 0.1)

    @jax.jit
    def shift(slope, b):
        return b - slope * mean

    return shift(slope, b) + slope * x


FORMS = {
    "linen": lambda x, g, b, m, var: (x - m) * (g * lax.rsqrt(var + 0.1)) + b,
    "equinox": lambda x, g, b, m, var: (x - m) / jnp.sqrt(var + 0.1) * g + b,
    "keras": keras,
    "folded": folded,
    "left to right": lambda x, g, b, m, var: (
        x * _slope(g, var) - m * _slope(g, var) + b
    ),
    "bias first": lambda x, g, b, m, var: x * _slope(g, var) + b - m * _slope(g, var),
    "bias at the front": lambda x, g, b, m, var: (
        b + x * _slope(g, var) - _slope(g, var) * m
    ),
    "minus a difference": lambda x, g, b, m, var: (
        x * _slope(g, var) - (m * _slope(g, var) - b)
    ),
    "scaled at last": lambda x, g, b, m, var: (x * g - m * g) / jnp.sqrt(var + 0.1) + b,
    "scaled apart": lambda x, g, b, m, var: (
        g * (x * lax.rsqrt(var + 0.1) - m * lax.rsqrt(var + 0.1)) + b
    ),
    "mean negated": lambda x, g, b, m, var: (
        x * _slope(g, var) + (b + -m * _slope(g, var))
    ),
    "two factors": lambda x, g, b, m, var: (
        x * g * lax.rsqrt(var + 0.1) + (b - m * lax.rsqrt(var + 0.1) * g)
    ),
    "a difference of quotients": lambda x, g, b, m, var: (
        x * (g / jnp.sqrt(var + 0.1)) + (b - m * g / jnp.sqrt(var + 0.1))
    ),
    "transposed": lambda x, g, b, m, var: (
        (x.T * _slope(g, var)[:, None] + (b - m * _slope(g, var))[:, None]).T
    ),
    "vmap": jax.vmap(
        lambda x, g, b, m, var: x * _slope(g, var) + (b - m * _slope(g, var)),
        (0, None, None, None, None),
    ),
    "of images": lambda x, g, b, m, var: (
        x[:, None, None] * _slope(g, var) + (b - m * _slope(g, var))
    )[:, 0, 0],
}


def _slope(scale, variance):
    return scale * lax.rsqrt(variance + 0.1)


@functools.cache
def scalings(p):
    params = dict.fromkeys(FORMS, PARAMS)
    constants = MEAN, VARIANCE

    def apply_fn(params, x, constants):
        outputs = [
            jax.nn.relu(
                FORMS[name](x @ w["w"] + w["c"], w["scale"], w["bias"], *constants)
            )
            @ w["v"]
            for name, w in params.items()
        ]
        return jnp.concatenate(outputs, -1)

    with jax.numpy_rank_promotion("allow"):
        network = pathsgd.trace_network(
            apply_fn, params, networks.spec(2, 2, dtype=jnp.float64), constants
        )
    uses = {x.path: x.uses for x in network.parameters}
    return uses, pathsgd.path_scaling(network, params, p, constants)


def wanted(p):
    """By hand, in float64: one shift edge, which only the bias has a gamma of."""
    w, c, v = (np.abs(PARAMS[k]) ** p for k in "wcv")
    inverse = 1 / np.sqrt(VARIANCE + 0.1)
    slope = np.abs(PARAMS["scale"] * inverse) ** p
    shift = np.abs(PARAMS["bias"] - MEAN * PARAMS["scale"] * inverse) ** p
    units, out = w.sum(0) + c, v[:, 0]
    gammas = {
        "w": np.tile(slope * out, (2, 1)),
        "c": slope * out,
        "scale": units * inverse**p * out,
        "bias": out,
        "v": (units * slope + shift)[:, None],
    }
    return {name: gamma ** (2 / p) for name, gamma in gammas.items()}


@pytest.mark.x64
@pytest.mark.parametrize("p", [1, 3.5])
@pytest.mark.parametrize("name", FORMS)
def test_batch_norm_has_one_shift_in_every_order(name, p):
    uses, gammas = scalings(p)
    chex.assert_trees_all_close(gammas[name], wanted(p), rtol=1e-10)
    assert {uses[f"['{name}']['{leaf}']"] for leaf in PARAMS} == {1}


WITHOUT_BIAS = {
    "linen": lambda x, g, m: (x - m) * g,
    "keras": lambda x, g, m: x * g + -m * g,
    "difference": lambda x, g, m: x * g - g * m,
}


@pytest.mark.x64
def test_batch_norm_without_a_bias_has_a_fixed_shift():
    scales = {name: PARAMS["scale"] for name in WITHOUT_BIAS}
    params = {"one": np.ones(3), "scales": scales}

    def apply_fn(params, x):
        h = x * params["one"][None]
        parts = [
            function(h, params["scales"][name][None], MEAN[None])
            for name, function in WITHOUT_BIAS.items()
        ]
        return jnp.concatenate(parts, 1)

    network = pathsgd.trace_network(
        apply_fn, params, networks.spec(1, 3, dtype=jnp.float64)
    )
    gammas = pathsgd.path_scaling(network, params)["scales"]
    phi = np.sqrt(3 * np.sum(PARAMS["scale"] ** 2 * (1 + MEAN**2)))
    np.testing.assert_allclose(pathsgd.path_norm(network, params), phi)
    chex.assert_trees_all_close(gammas, dict.fromkeys(scales, np.ones(3)))


def half_of_sum(h, b):
    return (jnp.abs(h + b) + (h + b)) / 2


SEPARATE = {
    "two biases": (lambda x, w: x + (w["a"] + 0.5 * w["b"]), 1 + 9 + 1),
    "another's multiple": (
        lambda x, w: x * w["a"] + (w["a"] - 0.5 * w["b"]),
        9 + 9 + 1,
    ),
    "weights side by side": (lambda x, w: x * (w["a"] - 0.5 * w["b"]), 9 + 1),
    "a bias that scales": (lambda x, w: x * w["a"] + w["a"], 9 + 9),
    "a bias, added twice": (lambda x, w: half_of_sum(x * w["a"], w["b"]), 9 + 4),
    "after a relu": (lambda x, w: jnp.abs(x * w["a"]) - 2.0 * w["a"], 9 + 36),
}


@pytest.mark.x64
@pytest.mark.parametrize("name", SEPARATE)
def test_other_sums_of_weights_are_edges_of_their_own(name):
    function, mass = SEPARATE[name]
    params = {"a": np.array([[3.0]]), "b": np.array([[2.0]])}
    network = pathsgd.trace_network(
        lambda w, x: function(x, w), params, networks.spec(1, 1, dtype=jnp.float64)
    )
    np.testing.assert_allclose(pathsgd.path_norm(network, params), np.sqrt(mass))
