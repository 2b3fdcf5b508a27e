"""Damping in traced networks: units are what contractions result in, biases included.

What it is in layered networks, by enumeration, is in `test_transform`.
"""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import pathsgd_optax as pathsgd
from tests import networks


def _updates(network, params, p=2, damping=0.0):
    """The inverse of gamma."""
    transformation = pathsgd.scale_by_path_norm(network, p, damping=damping)
    ones = jax.tree.map(jnp.ones_like, params)

    @jax.jit
    def update(params):
        return transformation.update(ones, transformation.init(params), params)[0]

    return update(params)


@functools.partial(jax.jit, static_argnames=("traced", "layered", "p"))
def _damped(params, damping, *, traced, layered, p):
    """Those of both networks, and of one that isn't damped."""
    both = [_updates(network, params, p, damping) for network in (traced, layered)]
    return *both, _updates(layered, params, p)


def _assert_damped_alike(params, traced, layered, p, damping):
    *both, undamped = _damped(params, damping, traced=traced, layered=layered, p=p)
    chex.assert_trees_all_close(*both, rtol=2e-5)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(both[0]["Dense_0"], undamped["Dense_0"], rtol=1e-2)


@pytest.mark.parametrize("p", [1, 3.5])
def test_a_layered_network_and_the_traced_one_are_damped_alike(p):
    params = networks.dense_tree((3, 4, 5, 2))
    traced = pathsgd.trace_network(networks.apply, params, networks.spec(7, 3))
    layered = pathsgd.layered_network(params)
    last = params["Dense_2"]["kernel"]
    for gain, damping in itertools.product((1e-3, 1.0), (0.5, 2.0)):
        params["Dense_2"]["kernel"] = gain * last
        _assert_damped_alike(params, traced, layered, p, jnp.float32(damping))


def test_so_are_the_layers_of_a_scan():
    model = networks.ScanMLP(3, (4,))
    params = networks.linen_tree(model, 5, seed=1)
    traced = pathsgd.trace_linen(model, {"params": params}, jnp.ones((1, 5)))
    layered = pathsgd.layered_network(params, scanned=True)
    _assert_damped_alike(params, traced, layered, 2, 0.5)


@pytest.mark.x64
@pytest.mark.parametrize("p", [1, 2, 4])
def test_the_units_of_a_residual_network_are_those_of_all_its_layers(p):
    rng = np.random.default_rng(0)
    shapes = {"first": (3, 4), "inner": (4, 5), "outer": (5, 4), "last": (4, 2)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}

    def apply(params, x):
        x = x @ params["first"]
        x = x + jax.nn.relu(x @ params["inner"]) @ params["outer"]
        return jax.nn.relu(x) @ params["last"]

    q = {name: abs(w) ** p for name, w in params.items()}
    first = q["first"].sum(0)
    inner = first @ q["inner"]
    outer = inner @ q["outer"]
    tau = 0.3**p
    end = q["last"].sum(1)
    of_outer = end + tau / outer
    of_inner = q["outer"] @ of_outer + tau / inner
    of_first = end + q["inner"] @ of_inner + tau / first
    slopes = {
        "first": np.outer(np.ones(3), of_first),
        "inner": np.outer(first, of_inner),
        "outer": np.outer(inner, of_outer),
        "last": np.outer(first + outer, np.ones(2)),
    }
    params = jax.tree.map(jnp.asarray, params)
    network = pathsgd.trace_network(apply, params, jnp.ones((1, 3)))
    expected = {name: slope ** (-2 / p) for name, slope in slopes.items()}
    updates = _updates(network, params, p, damping=0.3)
    chex.assert_trees_all_close(updates, expected, rtol=1e-12)


class ConvNet(nn.Module):
    """A convolution with a bias, a mean over positions, and scores."""

    @nn.compact
    def __call__(self, x):
        """The scores."""
        x = nn.relu(nn.Conv(2, (3,))(x))
        return nn.Dense(2)(x.mean(1))


def test_the_units_of_a_convolution_are_its_entries():
    model, x = ConvNet(), jnp.ones((1, 4, 1))
    params = model.init(jax.random.key(0), x)["params"]
    params["Conv_0"]["bias"] = jnp.array([0.1, -0.3])
    network = pathsgd.trace_linen(model, {"params": params}, x)
    kernel = np.asarray(params["Conv_0"]["kernel"])[:, 0] ** 2  # (3, 2)
    padded = [np.pad(np.ones(4), 1)[k : k + 4] for k in range(3)]
    masses = np.einsum("kt,kv->tv", padded, kernel) + np.array([0.1, 0.3]) ** 2
    leaving = (np.asarray(params["Dense_0"]["kernel"]) ** 2).sum(1) / 4**2
    slopes = leaving + 0.5**2 / masses
    expected = {
        "bias": 1 / slopes.sum(0),
        "kernel": 1 / np.einsum("kt,tv->kv", padded, slopes)[:, None],
    }
    updates = _updates(network, params, damping=0.5)
    chex.assert_trees_all_close(updates["Conv_0"], expected, rtol=1e-5)
    undamped = _updates(network, params)
    chex.assert_trees_all_close(updates["Dense_0"], undamped["Dense_0"], rtol=1e-6)


def test_outputs_are_no_units_whatever_comes_after_their_layer():
    params = {"w": jnp.array([[1.0, 2.0], [3.0, 0.5]]), "b": jnp.array([0.5, 0.1])}

    def apply(params, x):
        return jax.nn.relu(2 * (x @ params["w"]) + params["b"][None]).sum(
            1, keepdims=True
        )

    network = pathsgd.trace_network(apply, params, jnp.ones((1, 2)))
    chex.assert_trees_all_close(
        _updates(network, params, damping=3.0), _updates(network, params), rtol=1e-6
    )


def test_units_of_zeros_have_no_damping():
    params = networks.dense_tree((3, 4, 5, 2), bias=False)
    params["Dense_1"]["kernel"] = params["Dense_1"]["kernel"].at[:, 1].set(0)
    traced = pathsgd.trace_network(networks.apply, params, networks.spec(7, 3))
    _assert_damped_alike(params, traced, pathsgd.layered_network(params), 2, 0.5)
    assert np.all(_updates(traced, params, damping=0.5)["Dense_2"]["kernel"][1] == 0)


def test_powers_of_two_change_no_other_bit_of_damped_updates():
    params = networks.dense_tree((3, 8, 2), bias=True, seed=3)
    params["Dense_1"]["kernel"] = 1e-3 * params["Dense_1"]["kernel"]
    network = pathsgd.trace_network(networks.apply, params, networks.spec(7, 3))
    layered = pathsgd.layered_network(params)
    c = 2.0 ** jnp.arange(-8, 8, 2, dtype=jnp.float32)
    units = jnp.arange(8)
    rescaled = pathsgd.rescale(layered, params, 0, units, c)
    ones = jax.tree.map(jnp.ones_like, params)
    squares = pathsgd.rescale(layered, ones, 0, units, c**2)
    for damping in (0.1, 0.0):
        updates = _updates(network, params, damping=damping)
        expected = jax.tree.map(lambda u, f: u * f, updates, squares)
        chex.assert_trees_all_equal(
            _updates(network, rescaled, damping=damping), expected
        )
    gamma = jax.tree.map(lambda g: 1 / (g + 0.1), pathsgd.path_scaling(network, params))
    other = pathsgd.path_scaling(network, rescaled)
    other = jax.tree.map(lambda g: 1 / (g + 0.1), other)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(
            other, jax.tree.map(lambda u, f: u * f, gamma, squares), rtol=1e-2
        )
