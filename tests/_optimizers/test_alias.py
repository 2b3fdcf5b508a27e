"""The optimizers: Algorithm 1, the toy updates of figure 2, options and callers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training import train_state

import pathsgd_optax as pathsgd
from tests import networks, oracles
from tests.programs import as_users_do


# Algorithm 1.


@pytest.mark.x64
@pytest.mark.parametrize("p", [1, 1.5, 2, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_one_step_is_that_of_algorithm_1(p, bias):
    params = networks.dense_tree((5, 4, 3, 2), bias, seed=4, dtype=np.float64)
    gradients = networks.random_like(params, seed=5, dtype=np.float64)
    optimizer = pathsgd.path_sgd(0.3, p=p)

    @as_users_do
    def step(params):
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    expected = oracles.algorithm_1(
        networks.layers(params), networks.layers(gradients), 0.3, p
    )
    expected = networks.tree_like(params, expected)
    chex.assert_trees_all_close(step(params), expected, rtol=1e-10, atol=0)


# Figure 2: one step of stepsize 1, from a gradient of -1 with respect to each output.


def _toy_step(optimizer, first, second):
    """The weights after a step, and the outputs, on inputs of ones."""
    params = {"Dense_0": {"kernel": jnp.array(first)}}
    params["Dense_1"] = {"kernel": jnp.array(second)}
    x = jnp.ones((1, len(first)), params["Dense_0"]["kernel"].dtype)
    gradients = jax.grad(lambda w: -networks.apply(w, x).sum())(params)
    updates, _ = jax.jit(optimizer.update)(gradients, optimizer.init(params), params)
    params = optax.apply_updates(params, updates)
    kernels = [np.asarray(module["kernel"]) for module in networks.in_order(params)]
    return *kernels, np.asarray(networks.apply(params, x)[0])


@pytest.mark.x64
@pytest.mark.parametrize(
    "optimizer, first, second, stepped",
    [
        # Gradients (-w2, -w1) = (-1, -1): weights 1 + 1, output 2 * 2.
        (optax.sgd(1.0), 1.0, 1.0, (2.0, 2.0, 4.0)),
        # Gradients (-0.01, -100): 100 + 0.01 and 0.01 + 100, output 100.01**2.
        (optax.sgd(1.0), 100.0, 0.01, (100.01, 100.01, 10002.0001)),
        # gamma = (w2**2, w1**2) = (1, 1), so as SGD.
        (pathsgd.path_sgd(1.0), 1.0, 1.0, (2.0, 2.0, 4.0)),
        # gamma = (1e-4, 1e4): 100 + 0.01 / 1e-4 and 0.01 + 100 / 1e4.
        (pathsgd.path_sgd(1.0), 100.0, 0.01, (200.0, 0.02, 4.0)),
    ],
    ids=[
        "sgd, balanced",
        "sgd, unbalanced",
        "path-sgd, balanced",
        "path-sgd, unbalanced",
    ],
)
def test_figure_2b_small_weights_blow_up_under_sgd_only(
    optimizer, first, second, stepped
):
    step = _toy_step(optimizer, [[first]], [[second]])
    np.testing.assert_allclose(np.concatenate(step, axis=None), stepped, rtol=1e-12)


@pytest.mark.x64
@pytest.mark.parametrize(
    "optimizer, first, second, stepped_first, stepped_second, output",
    [
        # Each unit is 2, each gradient -2: weights 1 + 2, units 6, outputs 6 * 3 * 2.
        (optax.sgd(1.0), [1.0, 1.0], [1.0, 1.0], [3.0, 3.0], [3.0, 3.0], 36.0),
        # Units (200, 2): first 100 + 0.02 and 1 + 2, second 0.01 + 200 and 1 + 2,
        # outputs 200.04 * 200.01 + 6 * 3 = 40010.0004 + 18: another function.
        (
            optax.sgd(1.0),
            [100.0, 1.0],
            [0.01, 1.0],
            [100.02, 3.0],
            [200.01, 3.0],
            40028.0004,
        ),
        # gamma = 1**2 + 1**2 = 2: weights 1 + 2 / 2, units 4, outputs 4 * 2 * 2.
        (pathsgd.path_sgd(1.0), [1.0, 1.0], [1.0, 1.0], [2.0, 2.0], [2.0, 2.0], 16.0),
        # gamma = 2 * 0.01**2 and 2, then 2 * 100**2 and 2: 100 + 0.02 / 2e-4 and 1 + 1,
        # 0.01 + 200 / 2e4 and 1 + 1, outputs 400 * 0.02 + 4 * 2.
        (
            pathsgd.path_sgd(1.0),
            [100.0, 1.0],
            [0.01, 1.0],
            [200.0, 2.0],
            [0.02, 2.0],
            16.0,
        ),
    ],
    ids=[
        "sgd, balanced",
        "sgd, unbalanced",
        "path-sgd, balanced",
        "path-sgd, unbalanced",
    ],
)
def test_figure_2c_equivalent_networks_part_under_sgd_only(
    optimizer, first, second, stepped_first, stepped_second, output
):
    incoming, outgoing = [first, first], [[w, w] for w in second]
    step = _toy_step(optimizer, incoming, outgoing)
    wanted = [stepped_first] * 2, [[w, w] for w in stepped_second], [output] * 2
    chex.assert_trees_all_close(step, tuple(map(np.array, wanted)), rtol=1e-12, atol=0)


# The options and the callers of the alias.


def _constant_steps(optimizer, params, gradients, count=3):
    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(count):
        params, state = step(params, state)
    return params


def _problem():
    params = networks.dense_tree((3, 4, 2), seed=6)
    return params, networks.random_like(params, seed=7)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_the_trace_of_scaled_gradients(nesterov):
    params, gradients = _problem()
    optimizer = pathsgd.path_sgd(0.01, p=1, momentum=0.9, nesterov=nesterov)
    weights, slopes = networks.layers(params), networks.layers(gradients)
    trace = [tuple(map(np.zeros_like, pair)) for pair in weights]
    for _ in range(3):
        scaled = [
            tuple(map(np.divide, *pairs))
            for pairs in zip(slopes, oracles.path_scaling(weights, 1), strict=True)
        ]
        trace = jax.tree.map(lambda m, u: 0.9 * m + u, trace, scaled)
        moves = jax.tree.map(lambda m, u: 0.9 * m + u if nesterov else m, trace, scaled)
        weights = jax.tree.map(lambda w, m: w - 0.01 * m, weights, moves)
    chex.assert_trees_all_close(
        _constant_steps(optimizer, params, gradients),
        networks.tree_like(params, weights),
        rtol=1e-4,
        atol=1e-6,
    )


def test_a_schedule_is_a_learning_rate():
    params, gradients = _problem()

    def schedule(count):
        return jnp.where(count < 2, 0.01, 0.0)

    scheduled = _constant_steps(pathsgd.path_sgd(schedule), params, gradients, count=4)
    fixed = _constant_steps(pathsgd.path_sgd(0.01), params, gradients, count=2)
    chex.assert_trees_all_close(scheduled, fixed, rtol=1e-6)


def test_hyperparameters_can_be_injected():
    params, gradients = _problem()
    static = ("network", "p", "momentum", "nesterov")
    make = optax.inject_hyperparams(pathsgd.path_sgd, static_args=static)
    optimizer = make(0.01, network=pathsgd.layered_network(params), p=1.5, momentum=0.5)
    assert set(optimizer.init(params).hyperparams) == {
        "learning_rate",
        "damping",
    }
    plain = pathsgd.path_sgd(0.01, p=1.5, momentum=0.5)
    chex.assert_trees_all_close(
        _constant_steps(optimizer, params, gradients),
        _constant_steps(plain, params, gradients),
        rtol=1e-5,
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_parameters_keep_their_dtype(dtype):
    params, gradients = jax.tree.map(lambda leaf: leaf.astype(dtype), _problem())
    optimizer = pathsgd.path_sgd(0.01, momentum=0.9)
    updates, _ = jax.jit(optimizer.update)(gradients, optimizer.init(params), params)
    chex.assert_trees_all_equal_dtypes(updates, params)


def test_a_linen_train_state_trains():
    model = networks.MLP((4, 2))
    params = networks.linen_tree(model, 3)
    state = train_state.TrainState.create(
        apply_fn=model.apply, params=params, tx=pathsgd.path_sgd(0.01)
    )
    gradients = networks.random_like(params, seed=8)
    state = state.apply_gradients(grads=gradients)
    expected = oracles.algorithm_1(
        networks.layers(params), networks.layers(gradients), 0.01, 2
    )
    expected = networks.tree_like(params, expected)
    chex.assert_trees_all_close(state.params, expected, rtol=1e-4, atol=1e-6)


def test_an_nnx_optimizer_trains_a_model():
    model = networks.NnxMLP((3, 4, 2), nnx.Rngs(0))
    optimizer = nnx.Optimizer(
        model, pathsgd.path_sgd(0.01, momentum=0.9), wrt=nnx.Param
    )
    x = jnp.asarray(np.random.default_rng(9).normal(size=(6, 3)), jnp.float32)

    def loss(model):
        return jnp.mean((model(x) - 1) ** 2)

    @nnx.jit
    def step(model, optimizer):
        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    weights = _flat(nnx.state(model, nnx.Param))
    gradients = _flat(nnx.grad(loss)(model))
    losses = [step(model, optimizer)]
    expected = oracles.algorithm_1(
        networks.layers(weights), networks.layers(gradients), 0.01, 2
    )
    expected = networks.tree_like(weights, expected)
    after = _flat(nnx.state(model, nnx.Param))
    chex.assert_trees_all_close(after, expected, rtol=1e-4, atol=1e-6)
    losses += [step(model, optimizer) for _ in range(3)]
    assert losses[-1] < losses[0]


def _flat(state):
    state = nnx.to_pure_dict(state)
    return {f"Dense_{k}": module for k, module in state["layers"].items()}
