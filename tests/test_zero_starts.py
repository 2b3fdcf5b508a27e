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


# Eight layers, six of them in residual branches, where damping alone is too little.

BLOCKS, WIDTH = 3, 32


def _he(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape) * (2 / shape[-2]) ** 0.5


def _stream():
    def block(x, layers):
        return x + jax.nn.relu(x @ layers["inner"]) @ layers["outer"], None

    def apply(params, x):
        x, _ = jax.lax.scan(block, x @ params["first"], params["blocks"])
        return jax.nn.relu(x) @ params["last"]

    square = BLOCKS, WIDTH, WIDTH
    blocks = {"inner": _he(1, *square), "outer": _he(2, *square)}
    params = {"first": _he(0, 16, WIDTH), "blocks": blocks, "last": _he(3, WIDTH, 3)}
    x = jax.random.normal(jax.random.key(4), (64, 16))
    labels = jax.random.randint(jax.random.key(5), (64,), 0, 3)
    return gated.Problem(apply, params, x, labels)


def _with(params, last=1.0, inner=1.0, outer=1.0):
    inner, outer = params["blocks"]["inner"] * inner, params["blocks"]["outer"] * outer
    blocks = {"inner": inner, "outer": outer}
    return {**params, "last": last * params["last"], "blocks": blocks}


def _starts(params):
    """Small and zero ones, and at the end two that are rescalings of one another."""
    powers = np.random.default_rng(0).integers(-6, 7, (BLOCKS, WIDTH))
    c = 2.0 ** jnp.asarray(powers, jnp.float32)
    return [
        params,
        _with(params, outer=0.0),
        _with(params, last=1e-3),
        _with(params, last=0.0),
        _with(params, last=0.0, inner=c[:, None], outer=1 / c[:, :, None]),
    ]


def _losses_from_starts(most):
    """Of every step from every start, where no unit changes by more than ``most``."""
    problem = _stream()
    network = pathsgd.trace_network(problem.apply, problem.params, problem.x)

    def losses(params, most):
        bounded = optax.chain(optax.scale(-0.3), optax.adaptive_grad_clip(most, 0.3))
        optimizer = pathsgd.precondition_by_path_norm(bounded, network, damping=0.1)

        def step(carry, _):
            params, state = carry
            value, gradients = jax.value_and_grad(problem.loss)(params)
            updates, state = optimizer.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, optimizer.init(params)), None, 60)[1]

    starts = jax.tree.map(lambda *x: jnp.stack(x), *_starts(problem.params))
    each = jax.vmap(jax.vmap(losses, (0, None)), (None, 0))
    with jax.numpy_rank_promotion("allow"):  # in optax.adaptive_grad_clip
        return np.asarray(jax.jit(each)(starts, most))


def test_bounded_steps_train_deep_networks_from_zeros():
    bounded, unbounded = _losses_from_starts(jnp.array([0.03, jnp.inf]))
    first = bounded[:, 0]
    assert np.all(bounded.max(1) < 4 * first)
    assert np.all(bounded[:, -1] < 0.1 * first)
    np.testing.assert_array_equal(bounded[-1], bounded[-2])
    assert np.any(unbounded.max(1) > 100 * first)
