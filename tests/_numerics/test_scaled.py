"""Ranges and precision: deep networks, spread weights, dead units, large layers."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pathsgd_optax as pathsgd
from tests import networks, oracles
from tests.programs import as_users_do


DEPTH, WIDTH = 200, 64


def _gamma_and_phi(network, params, p):
    return (
        pathsgd.path_scaling(network, params, p),
        pathsgd.path_norm(network, params, p),
    )


_measure = as_users_do(_gamma_and_phi, static_argnums=(0, 2))
_measure_quickly = jax.jit(_gamma_and_phi, static_argnums=(0, 2))


def _deep(p, bias=False):
    """Kernels of a stack of layers, and biases, as `nn.scan` lays them out."""
    shapes = {"kernel": networks.spec(DEPTH, WIDTH, WIDTH)}
    if bias:
        shapes["bias"] = networks.spec(DEPTH, WIDTH)
    return {"Scan_0": {"Dense_0": networks.random_like(shapes, seed=p)}}


def _spread_units(rng):
    """What multiplies each kernel if each hidden unit is rescaled by 1e-10 to 1e10."""
    c = 10 ** rng.uniform(-10, 10, (DEPTH + 1, WIDTH))
    c[0] = c[-1] = 1
    return c[1:, None, :] / c[:-1, :, None]


def _spread_weights(rng):
    """What multiplies each kernel if each weight is scaled by 1e-10 to 1e10."""
    return 10 ** rng.uniform(-10, 10, (DEPTH, WIDTH, WIDTH))


def _layers(params):
    module = params["Scan_0"]["Dense_0"]
    kernels = np.asarray(module["kernel"], np.float64)
    biases = np.asarray(module.get("bias", [None] * DEPTH))
    return list(zip(kernels, biases, strict=True))


def _deep_steps(network, p):
    relative = pathsgd.scale_by_path_norm(network, p, relative_to_start=True)
    plain = pathsgd.scale_by_path_norm(network, p)

    @jax.jit
    def run(params, gradients):
        return (
            pathsgd.log_path_norm(network, params, p),
            relative.update(gradients, relative.init(params), params),
            plain.update(gradients, plain.init(params), params)[0],
        )

    return run


def _assert_deep_step(step, params, gradients, p):
    log_phi, (updates, state), plain = step
    log_gamma, expected = oracles.log_path_scaling(_layers(params), p)
    np.testing.assert_allclose(log_phi, expected, rtol=1e-4)
    unit = float(state.unit) * np.log(2)
    assert expected <= unit + 1e-2 <= expected + 1
    for kind, leaf in updates["Scan_0"]["Dense_0"].items():
        logs = np.stack([pair[kind == "bias"] for pair in log_gamma])
        gradient = np.asarray(gradients["Scan_0"]["Dense_0"][kind], np.float64)
        assert np.isfinite(leaf).all()
        wanted = gradient * np.exp(2 * unit - logs)
        np.testing.assert_allclose(leaf, wanted, rtol=1e-4)
        with np.errstate(over="ignore", under="ignore"):
            absolute = np.float32(gradient * np.exp(-logs))
        np.testing.assert_allclose(
            plain["Scan_0"]["Dense_0"][kind], absolute, rtol=1e-4, atol=1e-37
        )


@pytest.mark.parametrize("p", [1, 2])
def test_200_layers_are_within_1e_4_of_float64(p):
    params = _deep(p)
    gradients = networks.random_like(params, seed=3)
    run = _deep_steps(pathsgd.layered_network(params, scanned=True), p)
    rng = np.random.default_rng(4)
    weights, units = _spread_weights(rng), _spread_units(rng)
    for scale, slope in ((1.0, 1.0), (weights, 1.0), (units, 1 / units)):
        spread, slopes = (
            jax.tree.map(lambda leaf, c=c: leaf * jnp.asarray(c, jnp.float32), tree)
            for tree, c in ((params, scale), (gradients, slope))
        )
        _assert_deep_step(run(spread, slopes), spread, slopes, p)


def test_200_layers_with_biases_are_within_1e_4_of_float64():
    params = _deep(2, bias=True)
    gradients = networks.random_like(params, seed=3)
    run = _deep_steps(pathsgd.layered_network(params, scanned=True), 2)
    _assert_deep_step(run(params, gradients), params, gradients, 2)


@pytest.mark.parametrize("p", [1, 2])
def test_200_layers_of_their_own_are_those_of_a_stack(p):
    stacked = _deep(p)
    flat = {f"Dense_{k}": {"kernel": w} for k, (w, _) in enumerate(_layers(stacked))}
    flat = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), flat)
    log_phi = pathsgd.log_path_norm(pathsgd.layered_network(flat), flat, p)
    expected = oracles.log_path_scaling(_layers(stacked), p)[1]
    np.testing.assert_allclose(log_phi, expected, rtol=1e-4)


@pytest.mark.parametrize("p", [1, 2])
def test_the_norm_of_200_layers_is_beyond_float32(p):
    params = jax.tree.map(lambda w: 2 * w, _deep(p))
    network = pathsgd.layered_network(params, scanned=True)
    assert np.isinf(pathsgd.path_norm(network, params, p))
    assert np.isfinite(pathsgd.log_path_norm(network, params, p))
    gamma = jax.tree.leaves(pathsgd.path_scaling(network, params, p))
    assert all(np.isinf(leaf).all() for leaf in gamma)


@pytest.mark.parametrize("p", [1, 2])
def test_the_shares_of_200_layers_are_all_of_the_paths(p):
    params = _deep(p)
    flat = {f"Dense_{k}": {"kernel": w} for k, (w, _) in enumerate(_layers(params))}
    flat = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), flat)
    summary = pathsgd.layered_network(flat).summary(flat, p)
    shares = [line.split()[-1] for line in summary.splitlines()[1:]]
    assert shares == ["100.0%"] * DEPTH


def _kill_incoming(params):
    for kind in params["Dense_1"]:
        leaf = params["Dense_1"][kind]
        params["Dense_1"][kind] = leaf.at[..., 0].set(0)


def _kill_outgoing(params):
    kernel = params["Dense_1"]["kernel"]
    params["Dense_1"]["kernel"] = kernel.at[1].set(0)


def _kill_layer(params):
    params["Dense_1"] = jax.tree.map(jnp.zeros_like, params["Dense_1"])


def _kill_first_kernel(params):
    params["Dense_0"]["kernel"] = jnp.zeros_like(params["Dense_0"]["kernel"])


def _kill_everything(params):
    params |= jax.tree.map(jnp.zeros_like, params)


KILLS = [
    _kill_incoming,
    _kill_outgoing,
    _kill_layer,
    _kill_first_kernel,
    _kill_everything,
]


@pytest.mark.parametrize(
    "p, bias",
    [(1, False), (2, False), (1, True), (2, True), (3.5, True), (jnp.inf, True)],
)
def test_updates_are_exactly_zero_where_no_path_runs(p, bias):
    network = pathsgd.layered_network(networks.dense_tree((3, 4, 3, 2), bias))
    plain = pathsgd.scale_by_path_norm(network, p)
    damped = pathsgd.scale_by_path_norm(network, p, damping=0.3)

    @jax.jit
    def run(params):
        ones = jax.tree.map(jnp.ones_like, params)
        return (
            plain.update(ones, plain.init(params), params)[0],
            damped.update(ones, damped.init(params), params)[0],
        )

    for kill in KILLS:
        params = networks.dense_tree((3, 4, 3, 2), bias, seed=2)
        kill(params)
        layers = networks.layers(params)
        gammas = [oracles.path_scaling(layers, p, damping) for damping in (0, 0.3)]
        if kill is not _kill_first_kernel:
            assert any(np.any(leaf == 0) for leaf in jax.tree.leaves(gammas[0]))
        expected = tuple(_inverse(networks.tree_like(params, x)) for x in gammas)
        chex.assert_trees_all_close(run(params), expected, rtol=1e-5, atol=0)


def _inverse(gamma):
    return jax.tree.map(
        lambda g: np.divide(1, g, where=g != 0, out=np.zeros_like(g)), gamma
    )


@pytest.mark.parametrize("gain", [1e-3, 1.0, 1e3])
def test_dead_units_of_a_deep_network_stay_still(gain):
    kernel = np.random.default_rng(7).normal(0, gain, (60, 8, 8)).astype(np.float32)
    kernel[20, :, 3] = 0
    kernel[41, 5, :] = 0
    params = {"Scan_0": {"Dense_0": {"kernel": jnp.asarray(kernel)}}}
    gradients = jax.tree.map(jnp.ones_like, params)
    run = _deep_steps(pathsgd.layered_network(params, scanned=True), 2)
    _, (relative, _), plain = run(params, gradients)
    for updates in (relative, plain):
        updates = updates["Scan_0"]["Dense_0"]["kernel"]
        assert not np.isnan(updates).any()
        assert np.all(updates[21, 3] == 0)
        assert np.all(updates[40, :, 5] == 0)


@pytest.mark.parametrize("p", [1, 2, 3.5, 4, jnp.inf])
def test_large_layers_agree_with_float64(p):
    params = networks.dense_tree((3, 1024, 1100, 784, 1400, 2), seed=3)
    network = pathsgd.layered_network(params)
    log_gamma, log_phi = oracles.log_path_scaling(networks.layers(params), p)
    gamma = networks.tree_like(params, jax.tree.map(np.exp, log_gamma))
    measure = _measure if p == 2 else _measure_quickly
    measured, phi = measure(network, params, p)
    chex.assert_trees_all_close(measured, gamma, rtol=1e-5, atol=0)
    np.testing.assert_allclose(phi, np.exp(log_phi), rtol=1e-5)


@pytest.mark.parametrize("p", [1, 2])
def test_large_layers_with_dead_units_agree_with_float64(p):
    params = networks.dense_tree((3, 1024, 1100, 2), bias=False, seed=3)
    kernel = params["Dense_1"]["kernel"]
    params["Dense_1"]["kernel"] = kernel.at[:, 4].set(0).at[7].set(0)
    network = pathsgd.layered_network(params)
    with np.errstate(divide="ignore"):
        log_gamma, _ = oracles.log_path_scaling(networks.layers(params), p)
    gamma = networks.tree_like(params, jax.tree.map(np.exp, log_gamma))
    measured, _ = _measure(network, params, p)
    assert np.all(measured["Dense_0"]["kernel"][:, 7] == 0)
    chex.assert_trees_all_close(measured, gamma, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "widths, p, spread",
    [
        ((5, 6, 7, 3), 1, 9),
        ((5, 6, 7, 3), 2, 9),
        ((5, 6, 7, 3), 2, 26),
        ((5, 6, 7, 3), 3.5, 9),
        ((5, 6, 7, 3), jnp.inf, 26),
        ((3, 1024, 1100, 2), 1, 9),
        ((3, 1024, 1100, 2), 2, 9),
        ((3, 1024, 1100, 2), 3.5, 26),
    ],
    ids=str,
)
def test_powers_of_two_change_no_other_bit_of_gamma(widths, p, spread):
    params = networks.dense_tree(widths, seed=4)
    network = pathsgd.layered_network(params)
    rng = np.random.default_rng(5)
    c = [2.0 ** rng.integers(-spread, spread + 1, width) for width in widths[1:-1]]
    c = [np.ones(widths[0]), *c, np.ones(widths[-1])]
    factors = [
        (target / source[:, None], target) for source, target in itertools.pairwise(c)
    ]
    factors = jax.tree.map(lambda f: jnp.asarray(f, np.float32), factors)
    factors = networks.tree_like(params, factors)
    rescaled = jax.tree.map(jnp.multiply, params, factors)
    gamma, phi = _measure(network, params, p)
    expected = jax.tree.map(lambda g, f: g / f**2, gamma, factors)
    chex.assert_trees_all_equal(_measure(network, rescaled, p), (expected, phi))


@pytest.mark.parametrize("p", [1, 2, 3.5, jnp.inf])
def test_weights_at_the_ends_of_float32_neither_overflow_nor_vanish(p):
    ends = [1e30, 1e-30, 3e37, 2e-37]
    params = {
        f"Dense_{k}": {"kernel": jnp.full((2, 2), end, jnp.float32)}
        for k, end in enumerate(ends)
    }
    network = pathsgd.layered_network(params)
    log_gamma, log_phi = oracles.log_path_scaling(networks.layers(params), p)
    np.testing.assert_allclose(
        pathsgd.path_norm(network, params, p), np.exp(log_phi), 1e-5
    )
    gamma = pathsgd.path_scaling(network, params, p)
    for module, (log, _) in zip(networks.in_order(gamma), log_gamma, strict=True):
        if np.abs(log).max() < 80:
            np.testing.assert_allclose(module["kernel"], np.exp(log), 1e-5)
        else:
            assert np.all(module["kernel"] == (np.inf if log.max() > 0 else 0))
