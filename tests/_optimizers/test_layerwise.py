"""Steps relative to the weights: the formulas, zeros, and what they don't depend on."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pathsgd_optax as pathsgd
from tests import networks, oracles


pytestmark = pytest.mark.optax

WIDTHS = (3, 4, 2)

ALIASES = {"path_lars": pathsgd.path_lars, "path_lamb": pathsgd.path_lamb}

each = pytest.mark.parametrize("make", ALIASES.values(), ids=ALIASES)


def _problem(dtype=np.float32, bias=True):
    params = networks.dense_tree(WIDTHS, bias, seed=1, dtype=dtype)
    return params, networks.random_like(params, seed=2, dtype=dtype)


def _updates(optimizer, params, *gradients):
    state = optimizer.init(params)
    step = jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = step(gradient, state, params)
    return updates


def _as_long_as(weights, updates):
    """The oracle: each array of updates as long as its weights, or a short length."""
    weights = jax.tree.leaves(weights)
    updates, structure = jax.tree.flatten(updates)
    sizes = [np.sqrt(np.mean(w**2)) for w in weights]
    counts = [w.size for w in weights]
    shortest = 0.1 * np.average(sizes, weights=counts)
    factors = [
        max(size, shortest) / np.sqrt(np.mean(x**2))
        for size, x in zip(sizes, updates, strict=True)
    ]
    stretched = [f * x for f, x in zip(factors, updates, strict=True)]
    return jax.tree.unflatten(structure, stretched)


def _roots(params, p, damping=0.0):
    gamma = oracles.path_scaling(networks.layers(params), p, damping)
    return jax.tree.map(np.sqrt, networks.tree_like(params, gamma))


def _map(function, *trees):
    return jax.tree.map(lambda *x: function(*map(np.asarray, x)), *trees)


# The formulas.


@pytest.mark.x64
@pytest.mark.parametrize("zeros", [(), ("bias",)], ids=["no zeros", "biases of zeros"])
@pytest.mark.parametrize("p, damping", [(2, 0.0), (1, 0.3)])
def test_path_lars_moves_each_array_by_its_length(p, damping, zeros):
    params, gradients = _problem(np.float64)
    for name in zeros:
        params = {k: {**x, name: 0 * x[name]} for k, x in params.items()}
    updates = _updates(pathsgd.path_lars(0.03, p=p, damping=damping), params, gradients)
    roots = _roots(params, p, damping)
    weights, slopes = (
        _map(np.multiply, params, roots),
        _map(np.divide, gradients, roots),
    )
    expected = _map(np.divide, _as_long_as(weights, slopes), roots)
    expected = _map(lambda x: -0.03 * x, expected)
    chex.assert_trees_all_close(updates, expected, rtol=1e-12, atol=0)


@pytest.mark.x64
def test_path_lamb_moves_it_along_adams_update_and_the_weights():
    params, first = _problem(np.float64)
    second = networks.random_like(params, seed=3, dtype=np.float64)
    optimizer = pathsgd.path_lamb(0.01, b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.1)
    updates = _updates(optimizer, params, first, second)
    roots = _roots(params, 2)
    weights = _map(np.multiply, params, roots)

    def direction(first, second, root, weight):
        a, b = first / root, second / root
        mean = (0.8 * 0.2 * a + 0.2 * b) / (1 - 0.8**2)
        square = (0.9 * 0.1 * a**2 + 0.1 * b**2) / (1 - 0.9**2)
        return mean / (np.sqrt(square) + 1e-3) + 0.1 * weight

    adam = _map(direction, first, second, roots, weights)
    expected = _map(np.divide, _as_long_as(weights, adam), roots)
    expected = _map(lambda x: -0.01 * x, expected)
    chex.assert_trees_all_close(updates, expected, rtol=1e-12, atol=0)


# What the steps don't depend on.


@pytest.mark.parametrize("factor", [2.0**-20, 2.0**20], ids=["small", "large"])
@each
def test_the_size_of_the_loss_changes_nothing(make, factor):
    params, gradients = _problem()
    optimizer = make(0.1, **({"eps": 0.0} if make is pathsgd.path_lamb else {}))
    scaled = jax.tree.map(lambda g: np.float32(factor) * g, gradients)
    expected = _updates(optimizer, params, gradients)
    chex.assert_trees_all_equal(_updates(optimizer, params, scaled), expected)


def _shared(positions, params, x):
    """A network whose first kernel is used at several positions, added up."""
    x = jnp.broadcast_to(x[:, None], (len(x), positions, x.shape[1]))
    hidden = jax.nn.relu(x @ params["w"])
    return hidden.sum(1) @ params["v"]


@each
def test_the_number_of_positions_that_share_a_kernel_changes_nothing(make):
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(3, 4)), "v": rng.normal(size=(4, 2))}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    gradients = networks.random_like(params, seed=2)
    x = jnp.ones((1, 3))
    few, many = (
        pathsgd.trace_network(functools.partial(_shared, n), params, x) for n in (1, 64)
    )
    expected = _updates(make(0.1, few), params, gradients)
    updates = _updates(make(0.1, many), params, gradients)
    chex.assert_trees_all_close(updates, expected, rtol=1e-5)
    other = _updates(pathsgd.path_sgd(0.1, many), params, gradients)
    wanted = _updates(pathsgd.path_sgd(0.1, few), params, gradients)
    assert not np.allclose(other["w"], wanted["w"], rtol=0.5)


# Zeros, and parameters on no path.


@each
def test_a_network_of_zeros_starts(make):
    params = {"Dense_0": {"kernel": jnp.zeros((3, 2))}}
    gradients = {"Dense_0": {"kernel": jnp.arange(6.0).reshape(3, 2) - 2}}
    inner = {pathsgd.path_lars: optax.sgd, pathsgd.path_lamb: optax.adam}[make]
    expected = _updates(inner(0.1), params, gradients)
    chex.assert_trees_all_close(_updates(make(0.1), params, gradients), expected)


@pytest.mark.x64
def test_updates_have_derivatives_where_biases_are_zero():
    params, gradients = _problem(np.float64)
    params = {k: {**x, "bias": 0 * x["bias"]} for k, x in params.items()}
    optimizer = pathsgd.path_lars(0.1)

    @jax.jit
    def moved(shift):
        weights = jax.tree.map(lambda w: (1 + shift) * w, params)
        updates, _ = optimizer.update(gradients, optimizer.init(weights), weights)
        return optax.tree.norm(updates)

    slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
    chex.assert_trees_all_close(jax.grad(moved)(0.0), slope, rtol=1e-5)


@each
def test_what_is_on_no_path_is_left_to_the_fallback(make):
    params, gradients = _problem()
    params["temperature"], gradients["temperature"] = jnp.ones(2), 3 * jnp.ones(2)
    network = pathsgd.trace_network(
        lambda params, x: jax.nn.relu(x @ params["Dense_0"]["kernel"]),
        params,
        jnp.ones((1, 3)),
    )
    optimizer = make(0.1, network, fallback=optax.sgd(0.01))
    updates = _updates(optimizer, params, gradients)
    chex.assert_trees_all_close(updates["temperature"], -0.03 * jnp.ones(2))
    lengths = [jnp.linalg.norm(x["Dense_0"]["kernel"]) for x in (updates, params)]
    chex.assert_trees_all_close(lengths[0], 0.1 * lengths[1], rtol=1e-5)


def test_what_is_masked_takes_plain_steps():
    params, gradients = _problem()
    mask = {name: {"kernel": True, "bias": False} for name in params}
    updates = _updates(pathsgd.path_lars(0.1, mask=mask), params, gradients)
    for name, layer in updates.items():
        chex.assert_trees_all_close(layer["bias"], -0.1 * gradients[name]["bias"])
