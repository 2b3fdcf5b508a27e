"""Functions of one array have the same paths, in whatever way they are written."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import pathsgd_optax as pathsgd
from tests.phi import check, over_mean, trace, weights


D = 3

sigmoid, relu, softplus = jax.nn.sigmoid, jax.nn.relu, jax.nn.softplus
LOG2 = np.log(2.0)

GELU = {
    "exact": lambda x: jax.nn.gelu(x, approximate=False),
    "by tanh": jax.nn.gelu,
    "by hand": lambda x: 0.5 * x * (1 + jnp.tanh(0.8 * (x + 0.0447 * x**3))),
    "as a sum": lambda x: 0.5 * x + 0.5 * x * lax.erf(x / 2**0.5),
    "less what isn't": lambda x: x - x * 0.5 * (1 - lax.erf(x / 2**0.5)),
    "quick": lambda x: x * sigmoid(1.702 * x),
}
SILU = {
    "silu": jax.nn.silu,
    "less the rest": lambda x: x - x * sigmoid(-x),
    "one less": lambda x: x * (1 - sigmoid(-x)),
    "by tanh": lambda x: 0.5 * x + 0.5 * x * jnp.tanh(x / 2),
    "by exp": lambda x: x * jnp.exp(x) / (1 + jnp.exp(x)),
}
OTHERS = {
    "mish": lambda x: x * jnp.tanh(jnp.log1p(jnp.exp(x))),
    "hard swish": lambda x: x * jnp.clip(x / 6 + 0.5, 0, 1),
    "celu": jax.nn.celu,
    "elu": lambda x: relu(x) + jnp.expm1(jnp.minimum(x, 0)),
    "elu, chosen": lambda x: jnp.where(x > 0, x, jnp.expm1(x)),
    "elu by exp": lambda x: jnp.where(x > 0, x, jnp.exp(jnp.minimum(x, 0)) - 1),
    "hard tanh": lambda x: jnp.where(x > 1, 1.0, jnp.where(x < -1, -1.0, x)),
    "tanh": lambda x: 2 * sigmoid(2 * x) - 1,
    "what tanh cuts off": lambda x: x - jnp.tanh(x),
    "softplus from 0": lambda x: softplus(x) - LOG2,
    "a log": lambda x: jnp.log(relu(x) + 1),
}
SOFTPLUS = {
    "softplus": softplus,
    "by log1p": lambda x: jnp.log1p(jnp.exp(x)),
    "by log": lambda x: jnp.log(1 + jnp.exp(x)),
    "stable": lambda x: relu(x) + jnp.log1p(jnp.exp(-jnp.abs(x))),
    "of the other sign": lambda x: x + softplus(-x),
    "log sigmoid": jax.nn.log_sigmoid,
}
SIGMOID = {
    "sigmoid": sigmoid,
    "one less": lambda x: 1 - sigmoid(-x),
    "by tanh": lambda x: 0.5 * (1 + jnp.tanh(x / 2)),
    "by exp": lambda x: 1 / (1 + jnp.exp(-x)),
    "a quotient": lambda x: jnp.exp(x) / (1 + jnp.exp(x)),
    "exp of a log": lambda x: jnp.exp(jax.nn.log_sigmoid(x)),
}
UNITS = {
    "of slope 1": (GELU | SILU | OTHERS, 1.0, 0.0),
    "softplus": (SOFTPLUS, 1.0, LOG2),
    "squareplus": ({"squareplus": jax.nn.squareplus}, 1.0, 1.0),
    "sigmoid": (SIGMOID, 0.25, 0.5),
    "selu": (
        {
            "selu": lambda x: 2.0 * jax.nn.elu(x, 1.5),
            "as a sum": lambda x: 2 * (relu(x) + 1.5 * jnp.expm1(jnp.minimum(x, 0))),
        },
        3.0,
        0.0,
    ),
}


def test_units_are_their_value_at_0_and_a_multiple_of_their_argument(p=2.0):
    forms = {
        (kind, name): (function, *rest)
        for kind, (functions, *rest) in UNITS.items()
        for name, function in functions.items()
    }
    drawn = weights(w=(len(forms), 4, D), out=(len(forms), D))
    params = {form: [drawn[n][k] for n in drawn] for k, form in enumerate(forms)}

    def apply_fn(params, x):
        return sum(
            forms[form][0](x @ w) @ out[:, None] for form, (w, out) in params.items()
        )

    def phi(q):
        return sum(
            jnp.sum((w.sum(0) * forms[form][1] ** p + forms[form][2] ** p) * out)
            for form, (w, out) in q.items()
        )

    check(apply_fn, phi, params, jnp.ones((2, 4)), p)


NORMALISED = {
    "less zeros": lambda x: x - jnp.zeros((1, 1)),
    "of the other sign": lambda x: -x,
    "doubled": lambda x: 2.0 * x,
}


@pytest.mark.parametrize("function", [jax.nn.gelu, softplus])
def test_activations_are_normalised(function):
    params = {name: weights(w=(4, D), out=(D, 2)) for name in NORMALISED}

    def apply_fn(params, x):
        found = 0.0
        for name, q in params.items():
            h = function(x @ q["w"])
            root = jnp.sqrt((h * h).mean(-1, keepdims=True))
            found = found + NORMALISED[name](h) / root @ q["out"]
        return found

    def phi(q):
        edge = LOG2**2 if function is softplus else 0.0
        return sum(
            over_mean(z["w"].sum(0) + edge, -1)
            + jnp.sum(z["out"]) * (4 if name == "doubled" else 1)
            for name, z in q.items()
        )

    check(apply_fn, phi, params, jnp.ones((2, 4)))


def test_a_sum_of_relus_stays_what_it_is_without_gates():
    params = weights(w=(4, D), out=(D, 2))

    def apply_fn(params, x):
        x = x @ params["w"]
        return (relu(x - 1.0) - relu(-x - 1.0)) @ params["out"]

    def phi(q):
        return jnp.sum((2 * q["w"].sum(0) + 2) @ q["out"])

    check(apply_fn, phi, params, jnp.ones((2, 4)), 1.0)


GATES = {name: (function, 1.0) for name, function in SIGMOID.items()} | {
    "doubled": (lambda x: 2 * sigmoid(x), 1.0),
    "tanh": (jnp.tanh, 2.0),
    "of both signs": (lambda x: 2 * sigmoid(x) - 1, 1.0),
    "hard sigmoid": (jax.nn.hard_sigmoid, 2 / 3),
    "in parts": (lambda x: jnp.stack(list(sigmoid(x).T), -1), 1.0),
}


def test_what_steers_counts_as_for_a_sigmoid_of_the_same_steepness(p=2.0):
    drawn = weights(w=(len(GATES), 4, D), steer=(len(GATES), 4, D))
    params = {name: [drawn[n][k] for n in drawn] for k, name in enumerate(GATES)}

    def apply_fn(params, x):
        return jnp.concatenate(
            [GATES[n][0](x @ steer) * (x @ w) for n, (w, steer) in params.items()], -1
        )

    def phi(q):
        return sum(
            jnp.sum(w) * (2.0**p if name == "doubled" else 1.0)
            + jnp.sum(steer) * GATES[name][1] ** p
            for name, (w, steer) in q.items()
        )

    check(apply_fn, phi, params, jnp.ones((2, 4)), p)


HIGHWAYS = {
    "a mean": lambda z, h, c: z * h + (1 - z) * c,
    "from c": lambda z, h, c: c + z * (h - c),
    "from h": lambda z, h, c: h - (1 - z) * (h - c),
    "the other gate": lambda z, h, c: h + (1 - z) * (c - h),
    "expanded": lambda z, h, c: c + z * h - z * c,
    "from zero": lambda z, h, c: c + z * (jnp.tanh(h) - c),
}
SUMS = {
    "of gates": lambda z, h, c: h * (z + sigmoid(c)),
    "of what is gated": lambda z, h, c: h * z + h * sigmoid(c),
}


def recurrent(step):
    """Some steps of a cell, whose candidates are all arrays of their own."""
    return lambda z, h, c: functools.reduce(
        functools.partial(step, z), [c, h[:, ::-1], c[:, ::-1]], h
    )


STEPS = {
    "a mean": recurrent(lambda z, h, n: z * n + (1 - z) * h),
    "from h": recurrent(lambda z, h, n: h + z * (n - h)),
    "from n": recurrent(lambda z, h, n: n + (1 - z) * (h - n)),
}
SKIPS = {
    "one more": lambda z, h, c: h * (1 + z) + 0 * c,
    "a skip": lambda z, h, c: h + h * z + 0 * c,
}


@pytest.mark.parametrize("forms", [HIGHWAYS, SUMS, STEPS, SKIPS])
def test_an_array_counts_by_the_size_of_all_its_multiples(forms):
    drawn = jax.tree.map(jnp.float32, weights(z=(4, D), h=(4, D), c=(4, D), out=(D, 2)))
    params = dict.fromkeys(forms, drawn)

    def apply_fn(params, x):
        return sum(
            forms[name](sigmoid(x @ q["z"]), x @ q["h"], x @ q["c"]) @ q["out"]
            for name, q in params.items()
        )

    network = trace(apply_fn, params, jnp.ones((2, 4)))
    first, *others = pathsgd.path_scaling(network, params).values()
    for other in others:
        chex.assert_trees_all_close(first, other, rtol=1e-5)
