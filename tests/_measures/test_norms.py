"""The measures against brute force, and under JAX's transformations."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import pathsgd_optax as pathsgd
from tests import networks, oracles


ORDERS = [1, 1.5, 2, 3.5, 4, jnp.inf]
WIDTHS = (3, 4, 3, 2)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _measure(network, params, p):
    """phi, log phi and gamma, compiled together."""
    return (
        pathsgd.path_norm(network, params, p),
        pathsgd.log_path_norm(network, params, p),
        pathsgd.path_scaling(network, params, p),
    )


def _assert_close(actual, expected, rtol):
    chex.assert_trees_all_close(actual, expected, rtol=rtol, atol=0)


@pytest.mark.parametrize(
    "bias, dtype, rtol",
    [
        pytest.param(True, np.float32, 1e-5, id="float32"),
        pytest.param(True, np.float64, 1e-12, id="float64", marks=pytest.mark.x64),
        pytest.param(False, np.float64, 1e-12, id="unbiased", marks=pytest.mark.x64),
    ],
)
@pytest.mark.parametrize("p", ORDERS)
def test_path_norm_and_scaling_are_those_of_all_paths(p, bias, dtype, rtol):
    dense = networks.dense_tree(WIDTHS, bias, seed=1, dtype=dtype)
    network = pathsgd.layered_network(dense)
    for params in (dense, _with_zeros(dense)):
        layers = networks.layers(params)
        phi, log_phi, gamma = _measure(network, params, p)
        assert phi.dtype == log_phi.dtype == dtype
        chex.assert_trees_all_equal_shapes_and_dtypes(gamma, params)
        expected = oracles.path_norm(layers, p)
        _assert_close((phi, jnp.exp(log_phi)), (expected, expected), rtol)
        expected = networks.tree_like(params, oracles.path_scaling(layers, p))
        _assert_close(gamma, expected, rtol)
    assert not np.all(gamma["Dense_1"]["kernel"])


@pytest.mark.x64
@given(
    widths=st.lists(st.integers(1, 3), min_size=2, max_size=5).filter(
        lambda widths: not networks.reads_backwards(widths)
    ),
    p=st.floats(1, 8) | st.just(jnp.inf),
    biased=st.lists(st.booleans(), min_size=4, max_size=4),
    seed=st.integers(0, 99),
)
@settings(max_examples=5)
def test_any_network_agrees_with_all_its_paths(widths, p, biased, seed):
    params = networks.dense_tree(widths, seed=seed, dtype=np.float64)
    for module, keep in zip(networks.in_order(params), biased, strict=False):
        if not keep:
            del module["bias"]
    network = pathsgd.layered_network(params)
    layers = networks.layers(params)
    expected = networks.tree_like(params, oracles.path_scaling(layers, p))
    phi, _, gamma = _measure(network, params, p)
    _assert_close(gamma, expected, 1e-12)
    _assert_close(phi, oracles.path_norm(layers, p), 1e-12)


@pytest.mark.x64
@pytest.mark.parametrize("p", [1, 2, 3.5, jnp.inf])
def test_gradient_of_log_path_norm_is_analytic(p):
    dense = networks.dense_tree(WIDTHS, seed=4, dtype=np.float64)
    network = pathsgd.layered_network(dense)
    slope = jax.jit(jax.grad(lambda w: pathsgd.log_path_norm(network, w, p)))
    for params in (dense, _with_zeros(dense)):
        gradient = slope(params)
        expected = oracles.path_norm_gradient(networks.layers(params), p)
        expected = networks.tree_like(params, expected)
        chex.assert_tree_all_finite(gradient)
        chex.assert_trees_all_close(gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.x64
@pytest.mark.parametrize("p", [1.5, 2, jnp.inf])
def test_gradient_of_path_norm_is_a_finite_difference(p):
    params = networks.dense_tree((3, 4, 2), seed=5, dtype=np.float64)
    network = pathsgd.layered_network(params)
    direction = networks.random_like(params, seed=6, dtype=np.float64)

    @jax.jit
    def along(t):
        moved = jax.tree.map(lambda w, d: w + t * d, params, direction)
        return pathsgd.path_norm(network, moved, p)

    difference = (along(1e-6) - along(-1e-6)) / 2e-6
    slope = jax.jit(lambda t: jax.jvp(along, (t,), (1.0,))[1])(0.0)
    assert abs(difference) > 1e-3
    _assert_close(slope, difference, 1e-6)


@pytest.mark.parametrize("measure", [pathsgd.path_norm, pathsgd.log_path_norm])
@pytest.mark.parametrize("p", [1, 3.5])
def test_measures_are_differentiable_where_units_are_dead(measure, p):
    params = _with_zeros(networks.dense_tree(WIDTHS, seed=7))
    network = pathsgd.layered_network(params)
    gradient = jax.grad(lambda w: measure(network, w, p))(params)
    chex.assert_tree_all_finite(gradient)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("p", [1, 2, jnp.inf])
def test_path_norm_of_no_path_is_zero(p):
    params = jax.tree.map(jnp.zeros_like, networks.dense_tree(WIDTHS))
    network = pathsgd.layered_network(params)
    assert pathsgd.path_norm(network, params, p) == 0
    assert pathsgd.log_path_norm(network, params, p) == -jnp.inf
    gradient = jax.grad(lambda w: pathsgd.path_norm(network, w, p))(params)
    chex.assert_tree_all_finite(gradient)


@pytest.mark.parametrize("p, q", [(1, 1), (2, 2), (1.5, 3), (2, jnp.inf), (jnp.inf, 2)])
def test_group_norm_is_that_of_the_units(p, q):
    params = networks.dense_tree(WIDTHS, seed=8)
    network = pathsgd.layered_network(params)
    incoming = [np.vstack(pair) for pair in networks.layers(params)]
    units = np.concatenate([np.linalg.norm(w, p, axis=0) for w in incoming])
    measured = pathsgd.group_norm(network, params, p, q)
    _assert_close(measured, np.linalg.norm(units, q), 1e-5)


@pytest.mark.parametrize("p", [1, 2, 3.5, jnp.inf])
def test_max_norm_is_the_group_norm_of_infinite_order(p):
    params = networks.dense_tree(WIDTHS, bias=False, seed=9)
    network = pathsgd.layered_network(params)
    units = [np.linalg.norm(w, p, axis=0) for w, _ in networks.layers(params)]
    measured = pathsgd.max_norm(network, params, p)
    _assert_close(measured, max(norms.max() for norms in units), 1e-5)
    assert measured == pathsgd.group_norm(network, params, p, jnp.inf)


def _path_norm(network, params):
    return pathsgd.path_norm(network, params, 2)


def _group_norm(network, params):
    return pathsgd.group_norm(network, params, 2, 3)


@pytest.mark.parametrize(
    "measure",
    [
        _path_norm,
        pathsgd.log_path_norm,
        pathsgd.path_scaling,
        _group_norm,
        pathsgd.max_norm,
    ],
)
def test_measures_work_under_jit_and_vmap(measure):
    trees = [networks.dense_tree(WIDTHS, seed=seed) for seed in range(3)]
    network = pathsgd.layered_network(trees[0])
    one_by_one = [measure(network, params) for params in trees]
    jitted = jax.jit(measure, static_argnums=0)(network, trees[1])
    _assert_close(jitted, one_by_one[1], 1e-6)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    mapped = jax.vmap(lambda params: measure(network, params))(stacked)
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one)
    _assert_close(mapped, expected, 1e-6)


@pytest.mark.parametrize("measure", [_group_norm, pathsgd.max_norm])
def test_gradient_of_a_group_norm_is_a_finite_difference(measure):
    with jax.enable_x64(True):
        params = networks.dense_tree(WIDTHS, seed=10, dtype=np.float64)
        network = pathsgd.layered_network(params)

        def along(t):
            return measure(network, jax.tree.map(lambda w: w * (1 + t), params))

        slope = jax.jvp(along, (0.0,), (1.0,))[1]
        _assert_close(slope, measure(network, params), 1e-9)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(
    "wide", [False, pytest.param(True, marks=pytest.mark.x64)], ids=["x32", "x64"]
)
def test_narrow_parameters_are_measured_in_float32(dtype, wide):
    params = networks.dense_tree(WIDTHS, seed=11)
    narrow = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), narrow)
    network = pathsgd.layered_network(narrow)
    measured = _measure(network, narrow, 2)
    same = pathsgd.layered_network(rounded)
    assert {leaf.dtype for leaf in jax.tree.leaves(measured)} == {np.dtype("float32")}
    _assert_close(measured, _measure(same, rounded, 2), 1e-6)
    assert pathsgd.max_norm(network, narrow).dtype == jnp.float32
    assert jax.config.jax_enable_x64 == wide


def test_one_wide_parameter_makes_the_measures_wide():
    with jax.enable_x64(True):
        params = networks.dense_tree(WIDTHS, seed=12)
        params["Dense_1"]["bias"] = params["Dense_1"]["bias"].astype(jnp.float64)
        network = pathsgd.layered_network(params)
        gamma = pathsgd.path_scaling(network, params)
        assert {leaf.dtype for leaf in jax.tree.leaves(gamma)} == {np.dtype("float64")}
        expected = oracles.path_scaling(networks.layers(params), 2)
        _assert_close(gamma, networks.tree_like(params, expected), 1e-12)


@pytest.mark.x64
@pytest.mark.parametrize("p", [2, 3.5, jnp.inf])
def test_float32_parameters_give_the_same_bits_under_x64(p):
    params = networks.dense_tree(WIDTHS, seed=13)
    network = pathsgd.layered_network(params)
    wide = _measure(network, params, p)
    with jax.enable_x64(False):
        narrow = _measure(network, params, p)
    chex.assert_trees_all_equal_dtypes(wide, narrow)
    chex.assert_trees_all_equal(wide, narrow)


@pytest.mark.parametrize(
    "measure",
    [pathsgd.path_norm, pathsgd.log_path_norm, pathsgd.path_scaling, pathsgd.max_norm],
)
def test_measures_refuse_the_parameters_of_another_network(measure):
    network = pathsgd.layered_network(networks.dense_tree((3, 4, 2)))
    wider = networks.dense_tree((3, 5, 2))
    with pytest.raises(ValueError, match=r"Dense_0.*\(5,\).*\(4,\)\. Make a network"):
        measure(network, wider)
    unbiased = networks.dense_tree((3, 4, 2), bias=False)
    with pytest.raises(ValueError, match=r"missing .*bias.* Make a network"):
        measure(network, unbiased)


def _with_zeros(params):
    """Kills a unit, one of its sources and single weights."""
    params = jax.tree.map(np.array, params)
    first, second = params["Dense_0"], params["Dense_1"]
    first["kernel"][:, 1] = first["kernel"][0, 0] = 0
    second["kernel"][2] = second["kernel"][0, 1] = 0
    if "bias" in first:
        first["bias"][1] = 0
    return jax.tree.map(jnp.asarray, params)
