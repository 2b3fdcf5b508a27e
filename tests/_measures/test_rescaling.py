"""Rescaling: rho, unbalanced weights, and the balanced ones of Lemma 4.1."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import pathsgd_optax as pathsgd
from tests import networks, oracles


WIDTHS = (3, 4, 5, 2)


def _outputs(params):
    """The outputs on 20 random inputs, in float64."""
    x = np.random.default_rng(0).normal(size=(20, len(networks.layers(params)[0][0])))
    *hidden, last = [(w, 0 if b is None else b) for w, b in networks.layers(params)]
    for kernel, bias in hidden:
        x = np.maximum(x @ kernel + bias, 0)
    return x @ last[0] + last[1]


def _rescale_all(network, params, factors):
    for layer, c in enumerate(factors):
        units = jnp.arange(len(c))
        params = pathsgd.rescale(network, params, layer, units, jnp.asarray(c))
    return params


def _rescaled_by(params, factors):
    """The flat tree with each hidden unit rescaled by its factor, in numpy."""
    layers = networks.layers(params)
    inputs, outputs = np.ones(len(layers[0][0])), np.ones(layers[-1][0].shape[1])
    ends = itertools.pairwise([inputs, *factors, outputs])
    weights = [
        (kernel * target / source[:, None], None if bias is None else bias * target)
        for (kernel, bias), (source, target) in zip(layers, ends, strict=True)
    ]
    return networks.tree_like(params, weights)


def _random_factors(widths, seed, spread=2.0):
    rng = np.random.default_rng(seed)
    return [np.exp(rng.normal(0, spread, width)) for width in widths[1:-1]]


def _unit_norms(params, p):
    """The norms of the units of each layer."""
    incoming = [
        kernel if bias is None else np.vstack([kernel, bias])
        for kernel, bias in networks.layers(params)
    ]
    return [np.linalg.norm(w, p, axis=0) for w in incoming]


# rho.


@pytest.mark.x64
def test_rescale_multiplies_incoming_and_divides_outgoing_weights():
    params = networks.dense_tree(WIDTHS, dtype=np.float64)
    network = pathsgd.layered_network(params)
    rescaled = pathsgd.rescale(network, params, layer=1, unit=2, c=3.0)
    expected = jax.tree.map(np.array, params)
    expected["Dense_1"]["kernel"][:, 2] *= 3
    expected["Dense_1"]["bias"][2] *= 3
    expected["Dense_2"]["kernel"][2] /= 3
    chex.assert_trees_all_close(rescaled, expected, rtol=1e-15, atol=0)


def test_rescale_takes_arrays_and_multiplies_repeated_units():
    params = networks.dense_tree(WIDTHS)
    network = pathsgd.layered_network(params)
    one_by_one = params
    for unit, c in ((1, 2.0), (3, 0.25), (1, 8.0)):
        one_by_one = pathsgd.rescale(network, one_by_one, 0, unit, c)
    at_once = pathsgd.rescale(
        network, params, 0, jnp.array([1, 3, 1]), jnp.array([2.0, 0.25, 8.0])
    )
    chex.assert_trees_all_equal(at_once, one_by_one)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_rescale_by_a_power_of_two_changes_no_other_bit(dtype):
    params = networks.dense_tree(WIDTHS, dtype=dtype)
    network = pathsgd.layered_network(params)
    there = pathsgd.rescale(network, params, 0, jnp.arange(4), 4.0)
    chex.assert_trees_all_equal_dtypes(there, params)
    chex.assert_trees_all_equal(
        there["Dense_0"]["kernel"], 4 * params["Dense_0"]["kernel"]
    )
    back = pathsgd.rescale(network, there, 0, jnp.arange(4), 0.25)
    chex.assert_trees_all_equal(back, params)
    np.testing.assert_array_equal(_outputs(there), _outputs(params))


def test_rescale_works_under_jit():
    params = networks.dense_tree(WIDTHS)
    network = pathsgd.layered_network(params)
    traced = jax.jit(lambda unit, c: pathsgd.rescale(network, params, 0, unit, c))
    expected = pathsgd.rescale(network, params, 0, 1, 4.0)
    chex.assert_trees_all_equal(traced(1, 4.0), expected)


@pytest.mark.parametrize(
    "layer, unit, c, message",
    [
        (2, 0, 1.0, r"layer must be one of the 2 hidden layers.*got 2"),
        (-1, 0, 1.0, r"layer must be one of the 2 hidden layers.*got -1"),
        (0, 4, 1.0, r"unit must be in \[0, 4\).*hidden layer 0.*got 4"),
        (0, -1, 1.0, r"unit must be in \[0, 4\).*got -1"),
        (1, jnp.array([0, 5]), 1.0, r"unit must be in \[0, 5\).*got \[0 5\]"),
        (0, 0, 0.0, r"c must be positive.*got 0\.0"),
        (0, 0, -2.0, r"c must be positive.*got -2\.0"),
        (0, 0, float("nan"), r"c must be positive.*got nan"),
        (0, jnp.arange(2), jnp.array([1.0, -1.0]), r"c must be positive.*-1"),
    ],
)
def test_rescale_refuses_what_is_no_rescaling(layer, unit, c, message):
    params = networks.dense_tree(WIDTHS)
    with pytest.raises(ValueError, match=message):
        pathsgd.rescale(pathsgd.layered_network(params), params, layer, unit, c)


def test_rescale_knows_no_layers_in_a_network_without_hidden_units():
    params = networks.dense_tree((3, 2))
    with pytest.raises(ValueError, match="layer must be one of the 0 hidden layers"):
        pathsgd.rescale(pathsgd.layered_network(params), params, 0, 0, 1.0)


def test_rescale_works_on_scanned_layers():
    scanned = networks.linen_tree(networks.ScanMLP(3, (4,)), 5)
    network = pathsgd.layered_network(scanned, scanned=True)
    flat = networks.unrolled(scanned)
    rescaled = pathsgd.rescale(network, scanned, 2, 1, 8.0)
    chex.assert_trees_all_equal_shapes_and_dtypes(rescaled, scanned)
    expected = pathsgd.rescale(pathsgd.layered_network(flat), flat, 2, 1, 8.0)
    chex.assert_trees_all_equal(networks.unrolled(rescaled), expected)


@pytest.mark.x64
@pytest.mark.parametrize(
    "p, bias", [(1, False), (2, True), (3.5, True), (jnp.inf, True)]
)
def test_path_norms_are_invariant_to_any_rescaling_and_group_norms_are_not(p, bias):
    params = networks.dense_tree(WIDTHS, bias, dtype=np.float64)
    network = pathsgd.layered_network(params)
    phi = pathsgd.path_norm(network, params, p)
    mu = pathsgd.group_norm(network, params, p)

    @given(st.integers(0, 2**31), st.floats(0.1, 3))
    def check(seed, spread):
        factors = _random_factors(WIDTHS, seed, spread)
        rescaled = _rescaled_by(params, factors)
        np.testing.assert_allclose(_outputs(rescaled), _outputs(params), rtol=1e-9)
        np.testing.assert_allclose(pathsgd.path_norm(network, rescaled, p), phi, 1e-12)
        assert abs(pathsgd.group_norm(network, rescaled, p) / mu - 1) > 1e-6

    check()


@pytest.mark.x64
@pytest.mark.parametrize("p", [1, 2, 3.5, jnp.inf])
def test_gamma_is_divided_by_the_square_of_the_rescaling(p):
    params = networks.dense_tree(WIDTHS, dtype=np.float64)
    network = pathsgd.layered_network(params)
    rescaled = pathsgd.rescale(network, params, layer=0, unit=1, c=3.0)
    gamma = jax.tree.map(np.array, pathsgd.path_scaling(network, params, p))
    gamma["Dense_0"]["kernel"][:, 1] /= 9
    gamma["Dense_0"]["bias"][1] /= 9
    gamma["Dense_1"]["kernel"][1] *= 9
    chex.assert_trees_all_close(
        pathsgd.path_scaling(network, rescaled, p), gamma, rtol=1e-12, atol=0
    )


# Unbalanced weights.


@pytest.mark.x64
def test_unbalanced_weights_compute_the_same_function():
    params = networks.dense_tree(WIDTHS, dtype=np.float64)
    network = pathsgd.layered_network(params)
    unbalanced = pathsgd.unbalance(network, params, jax.random.key(0), count=8)
    np.testing.assert_allclose(_outputs(unbalanced), _outputs(params), rtol=1e-10)
    chex.assert_trees_all_equal_shapes_and_dtypes(unbalanced, params)
    assert pathsgd.max_norm(network, unbalanced) > 10 * pathsgd.max_norm(
        network, params
    )


def test_unbalance_picks_count_units_with_replacement():
    params = networks.dense_tree((2, 50, 40, 1))
    network = pathsgd.layered_network(params)
    unbalanced = pathsgd.unbalance(
        network, params, jax.random.key(1), count=200, scale=2.0, sigma=0.0
    )
    ratios = [
        unbalanced[name]["bias"] / params[name]["bias"]
        for name in ("Dense_0", "Dense_1")
    ]
    picks = np.log2(np.concatenate(ratios))
    np.testing.assert_array_equal(picks, np.round(picks))
    assert picks.sum() == 200
    assert picks.max() > 4
    chex.assert_trees_all_equal(
        unbalanced["Dense_2"]["bias"], params["Dense_2"]["bias"]
    )


def test_unbalance_draws_log_normal_factors():
    params = networks.dense_tree((2, 4000, 1))
    network = pathsgd.layered_network(params)
    unbalanced = pathsgd.unbalance(network, params, jax.random.key(2), count=2000)
    ratio = np.array(
        unbalanced["Dense_0"]["bias"] / params["Dense_0"]["bias"], np.float64
    )
    logs = np.log(ratio[ratio != 1])
    once = np.exp(-0.5) * 4000
    assert 4000 - once - 150 < len(logs) < 4000 - once + 150
    assert logs.sum() / 2000 == pytest.approx(np.log(10), abs=0.1)
    assert (logs < np.log(10)).mean() > 0.3


def test_unbalance_is_decided_by_its_key():
    params = networks.dense_tree(WIDTHS)
    network = pathsgd.layered_network(params)
    first, again, other = (
        pathsgd.unbalance(network, params, jax.random.key(k), count=3)
        for k in (0, 0, 1)
    )
    chex.assert_trees_all_equal(first, again)
    assert np.any(first["Dense_1"]["kernel"] != other["Dense_1"]["kernel"])


def test_unbalance_of_no_unit_changes_nothing():
    params = networks.dense_tree(WIDTHS)
    network = pathsgd.layered_network(params)
    same = pathsgd.unbalance(network, params, jax.random.key(0), count=0)
    chex.assert_trees_all_equal(same, params)


@pytest.mark.parametrize(
    "arguments",
    [{"count": -1}, {"scale": 0.0}, {"scale": -1.0}, {"sigma": -1.0}],
    ids=str,
)
def test_unbalance_refuses_what_is_out_of_range(arguments):
    params = networks.dense_tree(WIDTHS)
    network = pathsgd.layered_network(params)
    (name,) = arguments
    with pytest.raises(ValueError, match=rf"count must be .*{name}=-?\d"):
        pathsgd.unbalance(network, params, jax.random.key(0), **arguments)


def test_unbalance_needs_hidden_units():
    params = networks.dense_tree((3, 2))
    network = pathsgd.layered_network(params)
    with pytest.raises(ValueError, match="no hidden units"):
        pathsgd.unbalance(network, params, jax.random.key(0))


# Balanced weights.


@pytest.mark.x64
@pytest.mark.parametrize(
    "widths, p",
    [
        ((3, 4, 1), 2),
        ((3, 4, 5, 1), 1),
        ((3, 4, 5, 1), 2),
        ((3, 4, 5, 1), 3.5),
        ((3, 4, 5, 1), jnp.inf),
    ],
    ids=str,
)
def test_balance_attains_the_path_norm_on_one_output(widths, p):
    params = networks.dense_tree(widths, bias=False, seed=1, dtype=np.float64)
    network = pathsgd.layered_network(params)
    start = _rescale_all(network, params, _random_factors(widths, 1))
    balanced = pathsgd.balance(network, start, p)
    mu = pathsgd.max_norm(network, balanced, p)
    phi = oracles.path_norm(networks.layers(params), p)
    np.testing.assert_allclose(mu ** (len(widths) - 1), phi, rtol=1e-10)
    np.testing.assert_allclose(_outputs(balanced), _outputs(params), rtol=1e-10)
    assert pathsgd.max_norm(network, start, p) > 1.01 * mu


@pytest.mark.x64
@pytest.mark.parametrize(
    "widths, p",
    [((3, 4, 1), 2), (WIDTHS, 1), (WIDTHS, 2), (WIDTHS, 3.5), (WIDTHS, jnp.inf)],
    ids=str,
)
def test_balance_gives_every_hidden_unit_and_the_largest_output_the_same_norm(
    widths, p
):
    params = networks.dense_tree(widths, seed=2, dtype=np.float64)
    network = pathsgd.layered_network(params)
    balanced = pathsgd.balance(network, params, p)
    *hidden, outputs = _unit_norms(balanced, p)
    mu = pathsgd.max_norm(network, balanced, p)
    np.testing.assert_allclose(np.concatenate(hidden), mu, rtol=1e-10)
    np.testing.assert_allclose(outputs.max(), mu, rtol=1e-10)
    np.testing.assert_allclose(_outputs(balanced), _outputs(params), rtol=1e-10)
    unbalanced = _unit_norms(params, p)
    assert np.ptp(np.concatenate(unbalanced[:-1])) > 0.1


@pytest.mark.x64
@pytest.mark.parametrize(
    "bias, outputs, p",
    [(False, 1, 2), (False, 2, 2), (True, 1, 2), (True, 2, 1), (True, 2, jnp.inf)],
)
def test_no_random_rescaling_goes_below_the_balanced_norm(bias, outputs, p):
    widths = (3, 4, 3, outputs)
    params = networks.dense_tree(widths, bias, seed=3, dtype=np.float64)
    network = pathsgd.layered_network(params)
    balanced = pathsgd.balance(network, params, p)
    mu = float(pathsgd.max_norm(network, balanced, p))

    @given(st.integers(0, 2**31), st.floats(1e-3, 3))
    def check(seed, spread):
        factors = _random_factors(widths, seed, spread)
        rescaled = _rescaled_by(balanced, factors)
        largest = max(norms.max() for norms in _unit_norms(rescaled, p))
        assert largest >= mu * (1 - 1e-12)

    settings(max_examples=100)(check)()


@pytest.mark.parametrize("bias", [False, True])
def test_balance_of_50_layers_in_float32(bias):
    widths = (8,) * 50 + (1,)
    params = networks.dense_tree(widths, bias, seed=4)
    network = pathsgd.layered_network(params)
    start = _rescaled_by(params, _random_factors(widths, 5))
    start = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), start)
    balanced = pathsgd.balance(network, start)
    norms = np.concatenate(_unit_norms(balanced, 2))
    np.testing.assert_allclose(norms, norms.max(), rtol=1e-5)
    np.testing.assert_allclose(_outputs(balanced), _outputs(params), rtol=1e-3)
    if not bias:
        log_phi = oracles.log_path_scaling(networks.layers(params), 2)[1]
        np.testing.assert_allclose(norms, np.exp(log_phi / 50), rtol=1e-5)


@pytest.mark.x64
def test_balance_of_balanced_weights_changes_nothing():
    params = networks.dense_tree(WIDTHS, dtype=np.float64)
    network = pathsgd.layered_network(params)
    balanced = pathsgd.balance(network, params)
    again = pathsgd.balance(network, balanced)
    chex.assert_trees_all_close(again, balanced, rtol=1e-12, atol=0)


@pytest.mark.x64
def test_balance_forgets_the_scale_it_started_from():
    params = networks.dense_tree(WIDTHS, dtype=np.float64)
    network = pathsgd.layered_network(params)
    rescaled = _rescale_all(network, params, _random_factors(WIDTHS, 5))
    chex.assert_trees_all_close(
        pathsgd.balance(network, rescaled), pathsgd.balance(network, params), rtol=1e-10
    )


def test_balance_leaves_a_network_without_paths_as_it_is():
    params = networks.dense_tree(WIDTHS, bias=False)
    params["Dense_1"]["kernel"] = jnp.zeros_like(params["Dense_1"]["kernel"])
    network = pathsgd.layered_network(params)
    chex.assert_trees_all_equal(pathsgd.balance(network, params), params)


@pytest.mark.parametrize("bias", [False, True])
def test_balance_keeps_a_function_with_dead_units(bias):
    params = networks.dense_tree(WIDTHS, bias)
    params["Dense_0"] = jax.tree.map(
        lambda leaf: leaf.at[..., 1].set(0), params["Dense_0"]
    )
    params["Dense_1"]["kernel"] = params["Dense_1"]["kernel"].at[2].set(0)
    network = pathsgd.layered_network(params)
    balanced = pathsgd.balance(network, params)
    chex.assert_tree_all_finite(balanced)
    np.testing.assert_allclose(
        _outputs(balanced), _outputs(params), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16])
def test_balanced_and_unbalanced_weights_keep_their_dtype(dtype):
    params = networks.dense_tree(WIDTHS, dtype=dtype)
    network = pathsgd.layered_network(params)
    balanced = pathsgd.balance(network, params)
    chex.assert_trees_all_equal_dtypes(balanced, params)
    np.testing.assert_allclose(
        _outputs(balanced), _outputs(params), rtol=0.2, atol=0.05
    )
    unbalanced = pathsgd.unbalance(network, params, jax.random.key(0), count=2)
    chex.assert_trees_all_equal_dtypes(unbalanced, params)


def test_balance_of_path_norms_beyond_float32():
    scales = (1e25, 1e25, 1e-25, 1e-25)
    params = {f"Dense_{k}": {"kernel": c * jnp.eye(2)} for k, c in enumerate(scales)}
    balanced = pathsgd.balance(pathsgd.layered_network(params), params)
    expected = {name: {"kernel": jnp.eye(2)} for name in params}
    chex.assert_trees_all_close(balanced, expected, rtol=1e-5)


def test_unbalance_refuses_factors_beyond_the_range():
    params = networks.dense_tree((4, 32, 2))
    network = pathsgd.layered_network(params)
    with pytest.raises(ValueError, match=r"count=2000 picks of 32 .*Pick fewer"):
        pathsgd.unbalance(network, params, jax.random.key(0))


@pytest.mark.parametrize(
    "unit, c, message",
    [
        (1.0, 2.0, r"unit must be an integer.*float32\(\)"),
        ([0, 1], [2.0, 2.0, 2.0], r"one for each unit, but got int32\(2,\).*\(3,\)"),
        (0, jnp.inf, "c must be positive and finite, but got inf"),
    ],
)
def test_rescale_refuses_what_is_no_unit_or_factor(unit, c, message):
    params = networks.dense_tree((4, 3, 2))
    with pytest.raises(ValueError, match=message):
        pathsgd.rescale(pathsgd.layered_network(params), params, 0, unit, c)
