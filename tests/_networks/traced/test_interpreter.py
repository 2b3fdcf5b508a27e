"""Control flow in traced networks: what is known when they are traced decides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

import pathsgd_optax as pathsgd
from tests import networks, paths


NO, YES = jnp.array(False), jnp.array(True)
MASK = np.array([True, False])
LARGE = np.zeros(9000)
BRANCHES = [lambda x: x, lambda x: 3 * x, lambda x: x[:, ::-1] - x]


def phi(function, *constants):
    """The sum over the paths of units with the masses 1, 2, 3 and 4."""
    params = jnp.float32([[1, -2, 3, -4]])
    network = pathsgd.trace_network(
        lambda w, x, *constants: function(x @ w, *constants),
        params,
        networks.spec(1, 1),
        *constants,
    )
    return pathsgd.path_norm(network, params, 1, *constants)


def doubled_if(flag, x):
    return lax.cond(flag, lambda x: 2 * x, lambda x: x, x)


@pytest.mark.parametrize(
    "function, wanted",
    [
        (lambda x: doubled_if(True, x), 20),
        (lambda x: doubled_if(NO, x), 10),
        (lambda x: doubled_if(jnp.any(MASK) & YES, x), 20),
        (lambda x: jax.jit(doubled_if)(YES, x), 20),
        (lambda x: jax.vmap(doubled_if, (None, 0))(NO, x), 10),
        (lambda x: jax.checkpoint(doubled_if)(YES, x), 20),
        (lambda x: doubled_if(x.shape[0] > 1, x), 10),
        (lambda x: doubled_if(LARGE.sum() > 0, x[:, :1]), 1),
        (lambda x: lax.switch(1, BRANCHES, x), 30),
        (lambda x: lax.switch(jnp.argmin(MASK) + 7, BRANCHES, x), 20),
        (lambda x: lax.switch(jnp.int32(-7), BRANCHES, x), 10),
        (
            lambda x: lax.scan(lambda x, _: (doubled_if(YES, x), None), x, None, 3)[0],
            80,
        ),
        (lambda x: lax.fori_loop(0, jnp.array(3), lambda _, x: 2 * x, x), 80),
        (lambda x: lax.fori_loop(3, 3 * YES, lambda _, x: 2 * x, x), 10),
        (
            lambda x: lax.while_loop(
                lambda carry: carry[0] < 5,
                lambda carry: (carry[0] * 2, doubled_if(carry[0] > 2, carry[1])),
                (1, x),
            )[1],
            20,
        ),
    ],
)
def test_the_branch_that_is_taken_has_the_paths(function, wanted):
    with jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(phi(function), wanted, rtol=1e-6)


@pytest.mark.parametrize(
    "function, constants",
    [
        (lambda x: doubled_if(x[0, 0] > 0, x), ()),
        (lambda x, go: lax.while_loop(lambda _: go, lambda x: 2 * x, x), (YES,)),
        (lambda x: lax.while_loop(lambda x: True, lambda x: 2 * x, x), ()),
        (lambda x, flag: doubled_if(flag, x), (YES,)),
        (lambda x: lax.map(lambda flag: doubled_if(flag, x), MASK)[0], ()),
    ],
)
def test_what_is_not_known_decides_on_no_paths(function, constants):
    with pytest.raises(
        ValueError, match=r"at test_interpreter.py:\d+ has .*Close over"
    ):
        phi(function, *constants)


def test_a_known_branch_in_a_scan_has_slopes():
    def scanned(flag, x):
        return lax.scan(lambda x, _: (doubled_if(flag, x), None), x, None, 3)[0]

    found = paths.of_units(lambda x: scanned(YES, x))
    np.testing.assert_allclose(found, paths.of_units(lambda x: 8 * x), rtol=1e-6)


class Dropping(nn.Module):
    """A residual branch, dropped for some examples where ``train`` says so."""

    @nn.compact
    def __call__(self, x, train):
        """Without lax.cond if ``train`` is None."""

        def drop(h):
            kept = jax.random.bernoulli(jax.random.key(7), 0.8, (len(h), 1))
            return jnp.where(kept, h / 0.8, 0.0)

        h = nn.Dense(4)(nn.relu(nn.Dense(4)(x)))
        return x + (h if train is None else lax.cond(train, drop, lambda h: h, h))


@pytest.mark.parametrize("as_flag", [bool, jnp.array])
def test_a_flag_that_is_traced_switches_dropout(as_flag):
    x = jnp.ones((3, 4))
    variables = Dropping().init(jax.random.key(1), x, None)

    def traced(train):
        return pathsgd.trace_linen(Dropping(), variables, x, train)

    found, wanted = (
        pathsgd.path_scaling(traced(train), variables["params"])
        for train in (as_flag(False), None)
    )
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    with pytest.raises(ValueError, match=r"in Dropping .*dropout is active"):
        traced(as_flag(True))


def test_effects_are_of_no_account():
    def function(x):
        jax.debug.print("{x}", x=x)
        jax.debug.callback(lambda x: None, x)
        return lax.scan(lambda x, _: (jax.debug.print("") or 2 * x, None), x, None, 2)[
            0
        ]

    assert phi(function) == 40
