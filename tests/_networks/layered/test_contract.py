"""Sums over large arrays, which are split into parts on a CPU, against NumPy."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pathsgd_optax._networks.layered import contract as _contract


SHAPES = [(1024, 1100), (1031, 1033), (30, 40)]


def _random(*shape):
    return np.random.default_rng(8).normal(size=shape).astype(np.float32)


def _norm(kernel, x, p, axis):
    edges = np.abs(np.float64(kernel)) * np.float64(np.expand_dims(x, 1 - axis))
    return np.linalg.norm(edges, p, axis)


@pytest.mark.parametrize("p", [1, 2, 3.5, np.inf])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_directions_of_a_contraction_are_norms(shape, p):
    kernel = _random(*shape)
    sources, targets = np.abs(_random(shape[0])), np.abs(_random(shape[1]))
    forward, backward = _contract.contract_both(
        jnp.asarray(kernel), jnp.asarray(sources), jnp.asarray(targets), float(p)
    )
    np.testing.assert_allclose(forward, _norm(kernel, sources, p, 0), rtol=1e-5)
    np.testing.assert_allclose(backward, _norm(kernel, targets, p, 1), rtol=1e-5)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_norm_out_of_the_range_of_its_power_is_found_all_the_same(p, axis):
    kernel = np.float32(1e33) * _random(1024, 1100)
    x = np.abs(_random(kernel.shape[axis]))
    norms = _contract.contract(jnp.asarray(kernel), jnp.asarray(x), float(p), axis)
    np.testing.assert_allclose(norms, _norm(kernel, x, p, axis), rtol=1e-5)


@pytest.mark.parametrize("p", [1, 2])
def test_accelerators_find_the_same_norms_without_a_condition(p, monkeypatch):
    kernel, x = jnp.asarray(_random(1024, 1100)), jnp.abs(_random(1024))

    def norms(kernel, x):
        ones = jnp.ones(kernel.shape[1])
        one = _contract.contract(kernel, x, float(p), 0)
        return one, _contract.contract_both(kernel, x, ones, float(p))

    def general(special, general, **options):
        return functools.partial(general, **options)

    expected = norms(kernel, x)
    assert "cond[" in str(jax.make_jaxpr(lambda *args: norms(*args))(kernel, x))
    monkeypatch.setattr(_contract, "on_cpu", general)
    assert "cond[" not in str(jax.make_jaxpr(lambda *args: norms(*args))(kernel, x))
    chex.assert_trees_all_close(norms(kernel, x), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "shape", [(1024, 1100), (3, 3, 320, 384), (2**20,), (5, 7)], ids=str
)
def test_a_sum_of_squares_is_that_of_all_entries(shape):
    x = _random(*shape)
    found = _contract.sum_of_squares(jnp.asarray(x))
    np.testing.assert_allclose(found, np.sum(np.float64(x) ** 2), rtol=1e-5)
