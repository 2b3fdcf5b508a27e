"""The two passes: scanned, stacked on the fly and unrolled give the same numbers."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pathsgd_optax as pathsgd
from tests import networks, oracles


@functools.partial(jax.jit, static_argnums=(0, 2))
def _measure(network, params, p):
    """Gamma and log phi, compiled together."""
    return (
        pathsgd.path_scaling(network, params, p),
        pathsgd.log_path_norm(network, params, p),
    )


@pytest.mark.parametrize(
    "body, bias, p",
    [
        ((4,), False, 2),
        ((4,), True, 2),
        ((3, 4), True, 2),
        ((3, 4), True, 3.5),
        ((3, 4), False, jnp.inf),
    ],
    ids=str,
)
def test_scanned_and_unrolled_networks_agree(body, bias, p):
    model = networks.ScanMLP(3, body, use_bias=bias)
    scanned = networks.linen_tree(model, 5, seed=1)
    unrolled = networks.unrolled(scanned)
    numbers = {}
    for name, params in (("scanned", scanned), ("unrolled", unrolled)):
        network = pathsgd.layered_network(params, scanned=name == "scanned")
        gamma, log_phi = _measure(network, params, p)
        gamma = networks.unrolled(gamma) if name == "scanned" else gamma
        numbers[name] = gamma, log_phi
    chex.assert_trees_all_close(
        numbers["scanned"], numbers["unrolled"], rtol=1e-5, atol=1e-5
    )
    log_gamma, log_phi = oracles.log_path_scaling(networks.layers(unrolled), p)
    expected = networks.tree_like(unrolled, jax.tree.map(np.exp, log_gamma))
    chex.assert_trees_all_close(numbers["scanned"][0], expected, rtol=1e-5, atol=0)
    np.testing.assert_allclose(
        np.exp(numbers["scanned"][1]), np.exp(log_phi), rtol=1e-5
    )


@pytest.mark.parametrize("count", [3, 4, 5])
def test_any_run_of_equal_layers_agrees_with_all_its_paths(count):
    params = networks.dense_tree((3, *(2,) * (count + 1), 1), seed=2)
    network = pathsgd.layered_network(params)
    layers = networks.layers(params)
    expected = networks.tree_like(params, oracles.path_scaling(layers, 2))
    gamma, log_phi = _measure(network, params, 2)
    chex.assert_trees_all_close(gamma, expected, rtol=1e-5, atol=0)
    phi = oracles.path_norm(layers, 2)
    np.testing.assert_allclose(np.exp(log_phi), phi, rtol=1e-5)


def test_runs_of_equal_layers_may_follow_each_other():
    params = networks.dense_tree((3, *(2,) * 6, *(4,) * 6, 2), bias=False, seed=3)
    for k in range(6, 11):
        params[f"Dense_{k}"]["bias"] = jnp.full(4, 0.1 * k, jnp.float32)
    network = pathsgd.layered_network(params)
    log_gamma, log_phi = oracles.log_path_scaling(networks.layers(params), 2)
    expected = networks.tree_like(params, jax.tree.map(np.exp, log_gamma))
    gamma, measured = _measure(network, params, 2)
    chex.assert_trees_all_close(gamma, expected, rtol=1e-5, atol=0)
    np.testing.assert_allclose(np.exp(measured), np.exp(log_phi), rtol=1e-5)


@pytest.mark.x64
def test_the_gradient_runs_through_a_scan():
    model = networks.ScanMLP(3, (2,), outputs=1)
    scanned = networks.linen_tree(model, 3, seed=4, dtype=np.float64)
    unrolled = networks.unrolled(scanned)
    network = pathsgd.layered_network(scanned, scanned=True)
    gradient = jax.grad(lambda w: pathsgd.log_path_norm(network, w))(scanned)
    expected = oracles.path_norm_gradient(networks.layers(unrolled), 2)
    expected = networks.tree_like(unrolled, expected)
    chex.assert_trees_all_close(networks.unrolled(gradient), expected, rtol=1e-9)


def test_mixed_dtypes_in_a_run_are_measured_as_they_are():
    params = networks.dense_tree((2,) * 7, seed=5)
    params["Dense_2"] = jax.tree.map(
        lambda leaf: leaf.astype(jnp.bfloat16), params["Dense_2"]
    )
    network = pathsgd.layered_network(params)
    gamma = pathsgd.path_scaling(network, params)
    expected = oracles.path_scaling(networks.layers(params), 2)
    expected = networks.tree_like(params, expected)
    chex.assert_trees_all_close(gamma, expected, rtol=1e-5, atol=0)


def test_a_depth_of_one_has_unit_scaling():
    params = networks.dense_tree((3, 2))
    network = pathsgd.layered_network(params)
    ones = jax.tree.map(jnp.ones_like, params)
    chex.assert_trees_all_equal(pathsgd.path_scaling(network, params), ones)
