"""Clipping by the path metric, and the penalty on the path norm."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pathsgd_optax as pathsgd
from tests import networks, oracles


MAKERS = {
    "clip": lambda network=None, p=2: pathsgd.clip_by_path_metric(1.0, network, p),
    "penalty": lambda network=None, p=2: pathsgd.add_path_norm_penalty(1.0, network, p),
}


def _problem(dtype=np.float32, widths=(3, 4, 2)):
    params = networks.dense_tree(widths, seed=1, dtype=dtype)
    return params, networks.random_like(params, seed=2, dtype=dtype)


def _update(transformation, gradients, params, **extra):
    def update(gradients, params):
        state = transformation.init(params)
        return transformation.update(gradients, state, params, **extra)[0]

    return jax.jit(update)(gradients, params)


def _metric(gradients, params, p=2):
    gamma = oracles.path_scaling(networks.layers(params), p)
    return oracles.path_metric(networks.layers(gradients), gamma)


# Clipping.


@pytest.mark.x64
@pytest.mark.parametrize("p", [1, 2, 3.5, jnp.inf])
@pytest.mark.parametrize("share, clipped", [(0.3, True), (1.5, False)])
def test_gradients_are_shortened_to_the_largest_metric(p, share, clipped):
    params, gradients = _problem(np.float64)
    metric = _metric(gradients, params, p)
    clip = pathsgd.clip_by_path_metric(share * metric, p=p)
    updates = _update(clip, gradients, params)
    factor = share if clipped else 1
    expected = jax.tree.map(lambda g: factor * g, gradients)
    chex.assert_trees_all_close(updates, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("size, bound", [(0, 0), (0, 1), (1, 0), (1, jnp.inf)])
def test_bounds_and_gradients_of_zero_are_those_of_the_formula(size, bound):
    params, gradients = _problem()
    gradients = jax.tree.map(lambda g: size * g, gradients)
    updates = _update(pathsgd.clip_by_path_metric(bound), gradients, params)
    expected = jax.tree.map(lambda g: g if bound else 0 * g, gradients)
    chex.assert_trees_all_equal(updates, expected)


@pytest.mark.x64
def test_the_damped_metric_is_that_of_the_damped_gamma():
    params, gradients = _problem(np.float64)
    gamma = oracles.path_scaling(networks.layers(params), 2, damping=0.3)
    metric = oracles.path_metric(gradients, networks.tree_like(params, gamma))
    clip = pathsgd.clip_by_path_metric(0.5 * metric, damping=0.3)
    expected = jax.tree.map(lambda g: g / 2, gradients)
    chex.assert_trees_all_close(
        _update(clip, gradients, params), expected, rtol=1e-12, atol=0
    )


def test_gradients_of_zero_are_not_clipped():
    params, gradients = _problem()
    gradients = jax.tree.map(jnp.zeros_like, gradients)
    updates = _update(pathsgd.clip_by_path_metric(1.0), gradients, params)
    chex.assert_trees_all_equal(updates, gradients)


def test_what_is_on_no_path_is_neither_counted_nor_clipped():
    params, gradients = _problem()
    network = pathsgd.trace_network(
        lambda params, x: networks.apply(params["on"], x),
        {"on": params, "off": jnp.ones(3)},
        jnp.ones((1, 3)),
    )
    clip = pathsgd.clip_by_path_metric(0.1, network)
    given = {"on": gradients, "off": jnp.array([1e6, 0.0, 1.0])}
    updates = _update(clip, given, {"on": params, "off": jnp.ones(3)})
    chex.assert_trees_all_equal(updates["off"], given["off"])
    expected = _update(pathsgd.clip_by_path_metric(0.1), gradients, params)
    chex.assert_trees_all_close(updates["on"], expected, rtol=1e-5)


# The penalty.


@pytest.mark.x64
@pytest.mark.parametrize("p", [1, 2, 3.5, jnp.inf])
def test_the_penalty_is_the_slope_of_the_squared_path_norm(p):
    params, gradients = _problem(np.float64)
    updates = _update(pathsgd.add_path_norm_penalty(0.3, p=p), gradients, params)

    def penalty(leaves):
        tree = jax.tree.unflatten(jax.tree.structure(params), leaves)
        return 0.3 * oracles.path_norm(networks.layers(tree), p) ** 2

    leaves = [np.array(leaf) for leaf in jax.tree.leaves(params)]
    slopes = _central_differences(penalty, leaves)
    expected = jax.tree.map(
        lambda g, s: g + s,
        gradients,
        jax.tree.unflatten(jax.tree.structure(params), slopes),
    )
    chex.assert_trees_all_close(updates, expected, rtol=1e-6, atol=1e-7)


def _central_differences(function, leaves, step=1e-6):
    slopes = []
    for leaf in leaves:
        slope = np.zeros_like(leaf)
        for place in np.ndindex(leaf.shape):
            kept = leaf[place]
            leaf[place] = kept + step
            above = function(leaves)
            leaf[place] = kept - step
            slope[place] = (above - function(leaves)) / (2 * step)
            leaf[place] = kept
        slopes.append(slope)
    return slopes


def _deep(scale):
    """The weights of 200 layers that nn.scan has stacked."""
    kernels = np.random.default_rng(0).normal(0, scale, (200, 64, 64))
    return {"Block_0": {"Dense_0": {"kernel": jnp.asarray(kernels, jnp.float32)}}}


@pytest.mark.parametrize("p, scale", [(1, 0.08), (2, 0.25)])
def test_the_penalty_is_right_in_float32_at_depth_200(p, scale):
    """The square of phi is beyond float32 there; the strength brings it back."""
    params = _deep(scale)
    network = pathsgd.layered_network(params, scanned=True)
    log_phi = float(pathsgd.log_path_norm(network, params, p))
    assert log_phi > 100
    updates = _penalties(params, p, math.exp(-2 * log_phi))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        exact = jax.tree.map(np.asarray, _penalties(wide, p, math.exp(-2 * log_phi)))
    chex.assert_trees_all_close(
        jax.tree.map(np.float64, updates), exact, rtol=1e-3, atol=1e-4
    )
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(exact)) > 0.01


def _penalties(params, p, strength):
    network = pathsgd.layered_network(params, scanned=True)
    penalty = pathsgd.add_path_norm_penalty(strength, network, p)
    return _update(penalty, jax.tree.map(jnp.zeros_like, params), params)


def test_a_network_without_paths_has_no_penalty():
    params, gradients = _problem()
    params = jax.tree.map(jnp.zeros_like, params)
    updates = _update(pathsgd.add_path_norm_penalty(1.0), gradients, params)
    chex.assert_trees_all_equal(updates, gradients)


def test_the_strength_may_be_traced():
    params, gradients = _problem()
    inject = optax.inject_hyperparams(pathsgd.add_path_norm_penalty, static_args="p")
    updates = _update(inject(0.25), gradients, params)
    expected = _update(pathsgd.add_path_norm_penalty(0.25), gradients, params)
    chex.assert_trees_all_close(updates, expected, rtol=1e-6)


# Both.


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_constants_of_the_network_are_passed_on(make):
    params, constants = {"w": jnp.ones((3, 2))}, {"after": jnp.eye(2)}
    network = pathsgd.trace_network(
        lambda params, x, constants: (x @ params["w"]) @ constants["after"],
        params,
        jnp.ones((1, 3)),
        constants,
    )
    one, two = (
        _update(make(network), params, params, constants={"after": size * jnp.eye(2)})
        for size in (1.0, 2.0)
    )
    assert not np.allclose(one["w"], two["w"])


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_updates_keep_the_dtype_of_the_gradients(make, dtype):
    params, gradients = jax.tree.map(lambda leaf: leaf.astype(dtype), _problem())
    updates = _update(make(), gradients, params)
    chex.assert_trees_all_equal_dtypes(updates, gradients)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (gradients, params))
    updates = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), updates)
    eps = 4 * float(jnp.finfo(dtype).eps)
    chex.assert_trees_all_close(updates, _update(make(), *wide), rtol=eps, atol=eps)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_bad_input_is_refused(make):
    params, gradients = _problem()
    transformation = make()
    with pytest.raises(ValueError, match=r"need the current parameters"):
        transformation.update(gradients, transformation.init(params))
    with pytest.raises(ValueError, match=r"Make a network for these params"):
        make(pathsgd.layered_network(params)).init(networks.dense_tree((3, 5, 2)))
    with pytest.raises(ValueError, match=r"p must be at least 1"):
        make(p=0.5)
    del gradients["Dense_1"]
    with pytest.raises(ValueError, match=r"Pass the gradient with respect"):
        transformation.update(gradients, transformation.init(params), params)


def test_a_negative_strength_is_refused():
    with pytest.raises(ValueError, match=r"strength must be finite and at least 0"):
        pathsgd.add_path_norm_penalty(-1.0)
