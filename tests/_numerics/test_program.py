"""What is said to XLA changes a program's layout, and none of its numbers."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pathsgd_optax as pathsgd
from pathsgd_optax._numerics import program as _program
from tests import networks, programs


def _temporary_megabytes(optimizer, params):
    def loss(params, x):
        *hidden, last = params.values()
        for layer in hidden:
            x = jax.nn.relu(x @ layer["kernel"] + layer["bias"][None])
        return jnp.sum(jnp.square(x @ last["kernel"] + last["bias"][None]))

    def step(params, state, x):
        updates, state = optimizer.update(jax.grad(loss)(params, x), state, params)
        return optax.apply_updates(params, updates), state

    x = jnp.ones((8, params["Dense_0"]["kernel"].shape[0]))
    jitted = programs.as_users_do(step, donate_argnums=(0, 1))
    compiled = jitted.lower(params, optimizer.init(params), x).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 1e6


def test_a_step_takes_the_temporary_memory_of_one_of_sgd(monkeypatch):
    params = networks.dense_tree((512, 1024, 1024, 10))
    most = 1.05 * _temporary_megabytes(optax.sgd(0.1), params)
    assert _temporary_megabytes(pathsgd.path_sgd(0.1), params) < most
    monkeypatch.setattr(_program, "called", functools.partial)
    jax.clear_caches()
    assert _temporary_megabytes(pathsgd.path_sgd(0.1), params) > most


@pytest.mark.optax
def test_path_adam_writes_its_moments_and_the_weights_and_nothing_else_of_their_size():
    params = networks.dense_tree((6, 96, 80, 3))
    optimizer = pathsgd.path_adam(0.1)

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    jitted = programs.as_users_do(step, donate_argnums=(0, 1))
    state = optimizer.init(params)
    entry = jitted.lower(params, state, params).compile().as_text().partition("ENTRY")
    assert len(re.findall(r"= f32\[96,80\]\S* (?:fusion|copy)\(", entry[2])) == 3


def test_what_is_called_stays_one_instruction():
    called = _program.called(lambda x, factor: jnp.sin(x) * factor, factor=3.0)
    x = jnp.arange(5.0)
    compiled = jax.jit(lambda x: 1 + called(x)).lower(x).compile()
    assert compiled.as_text().count(" call(") == 1
    np.testing.assert_allclose(compiled(x), 1 + 3 * np.sin(np.arange(5.0)), rtol=1e-6)


def test_what_is_computed_once_has_its_value_and_slope():
    x = jnp.arange(6.0).reshape(2, 3)
    value, pull = jax.vjp(_program.once, x)
    np.testing.assert_array_equal(value, x)
    np.testing.assert_array_equal(pull(x + 1)[0], x + 1)
    np.testing.assert_array_equal(jax.vmap(_program.once)(x), x)


@pytest.mark.parametrize("other", [1.0, np.nan, np.inf])
def test_what_comes_after_other_arrays_is_the_same(other):
    factors = (jnp.float32([1.5, jnp.inf]), jnp.bfloat16(3))
    others = [jnp.float32([other, 2.0])]
    waiting = jax.jit(_program.after)(factors, others)
    for x, y in zip(factors, waiting, strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def _hasty(params):
    assert params["w"][0] > 0
    return params


READERS = {
    "adam": (optax.scale_by_adam().init, False),
    "nothing": (optax.identity().init, False),
    "weights": (lambda params: (0, params), True),
    "roots": (lambda params: jax.tree.map(jnp.sqrt, params), True),
    "within jit": (jax.jit(lambda params: {"v": params["w"] + 1}), True),
    "what can't be traced": (_hasty, True),
    "a function": (lambda params: optax.linear_schedule(1.0, 0.1, 2), True),
}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_of_values_is_known(name):
    function, reads = READERS[name]
    assert _program.reads_values(function, {"w": jnp.ones(3)}) == reads
