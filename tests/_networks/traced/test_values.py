"""Constants that are added: edges, or masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

import pathsgd_optax as pathsgd
from tests import networks


W = jnp.float32([[1, -2, 3, -4], [0.5, 1, -1, 2]])
MASK = np.array([True, False, True, True])


def measures(functions, *constants):
    """phi of each function of ``x @ W``, and gamma of W in it."""
    weights = {"w": W, "v": jnp.float32(1)}  # gamma of v is phi squared
    params = dict.fromkeys(functions, weights)

    def apply_fn(params, x, *constants):
        outputs = [
            w["v"] * functions[name](x @ w["w"], *constants)
            for name, w in params.items()
        ]
        return jnp.concatenate(outputs, -1)

    x = networks.spec(2, 2)
    with jax.numpy_rank_promotion("allow"):
        network = pathsgd.trace_network(apply_fn, params, x, *constants)
    gammas = pathsgd.path_scaling(network, params, 2, *constants)
    return {name: (np.sqrt(gamma["v"]), gamma["w"]) for name, gamma in gammas.items()}


def check(found, masks, constant=0.0):
    phi, gamma = wanted(masks)
    np.testing.assert_allclose(found[0], np.hypot(phi, constant), rtol=1e-6)
    np.testing.assert_allclose(found[1], gamma, rtol=1e-6)


def wanted(masks):
    """phi and gamma of a sum of the entries of ``x @ W`` that are not masked, each."""
    uses = np.broadcast_to(np.sum(masks, 0, dtype=np.float64), W.shape)
    return np.sqrt(np.sum(uses * np.square(np.float64(W)))), uses


def padded(x, fill):
    return jnp.pad(x, ((0, 0), (1, 2)), constant_values=fill)


def windows(x, fill):
    return lax.reduce_window(x, fill, lax.max, (1, 4), (1, 4), "SAME")


def updated(x, fill):
    return lax.dynamic_update_slice(jnp.full((x.shape[0], 9), fill), x, (0, 2))


def running(x, fill):
    def step(largest, column):
        return jnp.maximum(largest, column), None

    return lax.scan(step, jnp.full(x.shape[:1], fill), x.T)[0][:, None]


def added(x, fill):
    return x + np.where(MASK, 0, np.float32(fill))


MASKED = {
    "where": lambda x, fill: jnp.where(MASK, x, fill).max(1, keepdims=True),
    "where, negated": lambda x, fill: jnp.where(MASK, -x, -fill).min(1, keepdims=True),
    "sum": lambda x, fill: added(x, fill).max(1, keepdims=True),
    "sum, through a relu": lambda x, fill: jax.nn.relu(added(x, fill)).max(
        1, keepdims=True
    ),
    "argument": lambda x, fill: jnp.max(
        x, 1, initial=fill, where=MASK[None], keepdims=True
    ),
    "set": lambda x, fill: x.at[:, 1].set(fill).max(1, keepdims=True),
    "cumulative": lambda x, fill: lax.cummax(jnp.where(MASK, x, fill), 1)[:, -1:],
    "windows": lambda x, fill: windows(jnp.where(MASK, x, fill), fill),
    "maximum": lambda x, fill: windows(
        jnp.maximum(jnp.where(MASK, x, fill), fill), fill
    ),
    "among others": lambda x, fill: jnp.where(MASK, x, np.float32([0, fill, 0, 0])).max(
        1, keepdims=True
    ),
}
FILLED = {
    "padding": lambda x, fill: padded(x, fill).max(1, keepdims=True),
    "padded windows": lambda x, fill: (
        windows(padded(x, fill)[:, :4], -jnp.inf)
        + windows(padded(x, fill)[:, 4:], -jnp.inf)
    ),
    "concatenated": lambda x, fill: jnp.concatenate([x, jnp.full_like(x, fill)], 1).max(
        1, keepdims=True
    ),
    "part of an array": lambda x, fill: updated(x, fill).max(1, keepdims=True),
    "start of a scan": running,
    "scattered": lambda x, fill: (
        jnp.full((x.shape[0], 1), fill).at[:, np.zeros(4, int)].max(x)
    ),
    "of windows": windows,
}
FILLS = [-1e4, -65504.0, -1e9, -1e30, float(jnp.finfo(jnp.float32).min), -jnp.inf]


@functools.cache
def filled(kind, fill):
    functions = {"masked": MASKED, "filled": FILLED}[kind]
    return measures(
        {name: functools.partial(f, fill=fill) for name, f in functions.items()}
    )


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("name", MASKED)
def test_what_constants_keep_from_a_maximum_is_not_on_its_paths(name, fill):
    check(filled("masked", fill)[name], [MASK])


@pytest.mark.parametrize("fill", FILLS[2::3])
@pytest.mark.parametrize("name", FILLED)
def test_constants_that_fill_up_are_no_edges(name, fill):
    check(filled("filled", fill)[name], [np.ones(4)])


@pytest.mark.parametrize("mask", [MASK, ~MASK])
def test_masks_may_change(mask):
    """The numbers decide, whenever they are known."""
    bias = jnp.float32(np.where(mask, 0, -1e9))
    found = measures({"sum": lambda x, bias: (x + bias).max(1, keepdims=True)}, bias)
    check(found["sum"], [mask])


def test_masked_outputs_have_no_paths():
    masked = (
        lambda x: jnp.where(MASK, x, -1e9),
        lambda x: jnp.where(MASK, x, -jnp.inf),
        lambda x: x + (MASK - 1.0) * 1e9,
    )
    params = [W] * len(masked)

    def apply_fn(params, x):
        pairs = zip(masked, params, strict=True)
        return jnp.concatenate([function(x @ w) for function, w in pairs], 1)

    with jax.numpy_rank_promotion("allow"):
        network = pathsgd.trace_network(apply_fn, params, networks.spec(2, 2))
    phi, gamma = wanted([MASK])
    np.testing.assert_allclose(
        pathsgd.path_norm(network, params), np.sqrt(3) * phi, rtol=1e-6
    )
    np.testing.assert_allclose(
        pathsgd.path_scaling(network, params), [gamma] * 3, rtol=1e-6
    )


@pytest.mark.parametrize("constant", [-9999.0, 0.5, 1e6])
def test_other_constants_are_edges(constant):
    functions = {
        "max": lambda x: jnp.where(MASK, x, constant).max(1, keepdims=True),
        "sum": lambda x: jnp.where(MASK, x, constant).sum(1, keepdims=True),
        "pad": lambda x: padded(x[:, MASK], constant)[:, :4].sum(1, keepdims=True),
    }
    for found in measures(functions).values():
        check(found, [MASK], constant)


def test_padding_by_minus_infinity_is_that_of_max_pooling():
    class Stem(nn.Module):
        by_hand: bool

        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(2, (3, 3))(x))
            if self.by_hand:
                ends = ((0, 0), (0, 1), (0, 1), (0, 0))
                x = nn.max_pool(
                    jnp.pad(x, ends, constant_values=-jnp.inf), (3, 3), (2, 2)
                )
            else:
                x = nn.max_pool(x, (3, 3), (2, 2), padding=((0, 1), (0, 1)))
            return nn.Dense(3)(x.mean((1, 2)))

    x = jnp.ones((2, 4, 4, 1))
    variables = Stem(True).init(jax.random.key(1), x)
    norms = [
        pathsgd.path_norm(
            pathsgd.trace_linen(Stem(by_hand), variables, x), variables["params"]
        )
        for by_hand in (True, False)
    ]
    np.testing.assert_allclose(*norms, rtol=1e-6)
