"""Branches that start at zero train from the first step on.

What is zero moves in the first step, and what is before it, whose gradient was zero, in
the second, which damping keeps from being a leap.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pathsgd_optax as pathsgd
from tests import gated
from tests.networks import random_like, spec


pytestmark = pytest.mark.optax

STEPS = 20


def _regression(apply, **shapes):
    """A network to classify random points."""
    rng = np.random.default_rng(0)
    params = random_like({name: spec(*shape) for name, shape in shapes.items()})
    x = jnp.asarray(rng.normal(size=(32, 6)), jnp.float32)
    return gated.Problem(apply, params, x, rng.integers(0, 3, 32))


def low_rank():
    """LoRA, beside its layer."""

    def apply(params, x):
        x = x @ params["w"] + x @ params["a"] @ params["b"]
        return jax.nn.relu(x) @ params["head"]

    return _regression(apply, w=(6, 8), a=(6, 2), b=(2, 8), head=(8, 3))


def low_rank_of_weights():
    """LoRA, as an update of the kernel."""

    def apply(params, x):
        w = params["w"] + params["a"] @ params["b"]
        return jax.nn.relu(x @ w) @ params["head"]

    return low_rank()._replace(apply=apply)


def residual():
    """A ReLU network with a residual branch, without normalisation."""

    def apply(params, x):
        x = x @ params["w"]
        x = x + jax.nn.relu(x @ params["inner"]) @ params["outer"]
        return jax.nn.relu(x) @ params["head"]

    return _regression(apply, w=(6, 8), inner=(8, 8), outer=(8, 8), head=(8, 3))


CASES = {
    "the last scale": (gated.resnet, ["last_scale", "last_shift"]),
    "projections": (gated.decoder, ["attention.o", "rope.o", "out", "down"]),
    "low rank": (low_rank, ["b"]),
    "low rank, of weights": (low_rank_of_weights, ["b"]),
    "residual": (residual, ["outer"]),
}


def _named(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@functools.cache
def _start(name):
    make, zeros = CASES[name]
    problem = make()
    names = jax.tree.unflatten(
        jax.tree.structure(problem.params), _named(problem.params)
    )
    params = jax.tree.map(
        lambda name, leaf: leaf * (name not in zeros), names, problem.params
    )
    problem = problem._replace(params=params)
    return problem, problem.network()


@functools.cache
def _trained(name, make=pathsgd.path_sgd, rate=0.1, damping=0.0):
    """The weights and updates of every step, by name, and the losses."""
    problem, network = _start(name)
    optimizer = make(rate, network, damping=damping)

    def step(carry, _):
        params, state = carry
        value, gradients = jax.value_and_grad(problem.loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), (params, updates, value)

    @jax.jit
    def train(params):
        return jax.lax.scan(step, (params, optimizer.init(params)), None, STEPS)[1]

    params, updates, losses = train(problem.params)
    return _named(params), _named(updates), losses


def _moved(updates, step):
    return {name for name, update in updates.items() if (update[step] != 0).any()}


@pytest.mark.parametrize("name", CASES)
def test_zeros_move_at_once(name):
    _, updates, losses = _trained(name)
    assert all(np.isfinite(update).all() for update in updates.values())
    assert _moved(updates, 0) >= {*CASES[name][1]}
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    "name, damping", [("the last scale", 0.0), *((name, 0.1) for name in CASES)]
)
def test_what_is_before_them_moves_next(name, damping):
    _, updates, losses = _trained(name, damping=damping)
    assert all(np.isfinite(update).all() for update in updates.values())
    assert {*updates} > _moved(updates, 0)
    assert {*updates} == _moved(updates, 1)
    assert np.all(np.diff(losses) < 0)


@pytest.mark.parametrize("name", [name for name in CASES if name != "projections"])
def test_path_adam_trains_it(name):
    _, updates, losses = _trained(name, pathsgd.path_adam, 0.01, damping=0.1)
    assert {*updates} == _moved(updates, 1)
    assert losses[-1] < 0.9 * losses[0]


def test_damping_keeps_what_is_before_zeros_from_a_leap():
    def leap(damping):
        params, updates, _ = _trained("projections", damping=damping)
        sizes = (jnp.linalg.norm(x["attention.v"][1]) for x in (updates, params))
        return np.divide(*sizes)

    assert leap(0.1) < 0.2
    assert leap(0.0) > 0.5
