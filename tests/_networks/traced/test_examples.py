"""Whether functions mix the examples of a batch."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax import lax

import pathsgd_optax as pathsgd
from tests import networks


def over_the_batch(x):
    return lax.scan(lambda h, row: (h + row, h + row), jnp.zeros(x.shape[1:]), x)[1]


def over_time(x):
    def step(carry, row):
        h, count = carry
        return (h + row, count + 1), h

    start = (jnp.zeros((x.shape[0], x.shape[2])), 0)
    return lax.scan(step, start, x.swapaxes(0, 1))[0][0]


MIXED = {
    "centred": lambda x: x - x.mean(0),
    "centred, keepdims": lambda x: x - jnp.mean(x, (0, 1), keepdims=True),
    "sum": lambda x: x + jnp.sum(x, 0, keepdims=True),
    "max": lambda x: x - lax.stop_gradient(jnp.max(x)),
    "under jit": lambda x: x - jax.jit(lambda x: x.mean(0))(x),
    "under remat": lambda x: x - jax.checkpoint(lambda x: x.mean(0))(x),
    "in a custom derivative": lambda x: jax.nn.relu(x) - jax.nn.relu(x.sum(0)),
    "in a branch": lambda x: lax.cond(len(x) > 0, lambda: x - x.mean(0), lambda: x),
    "in a scan": lambda x: lax.scan(lambda h, _: (h - h.mean(0), None), x, None, 2)[0],
    "merged axes": lambda x: (x.reshape(-1, 2) - x.reshape(-1, 2).mean(0)).reshape(
        x.shape
    ),
    "the first example": lambda x: x - x[0],
    "the first example kept": lambda x: x - x[:1],
    "the last one": lambda x: x + x[-1:],
    "cumulative": lambda x: jnp.cumsum(x, 0),
    "reversed": lambda x: x + x[::-1],
    "rolled": lambda x: x + jnp.roll(x, 1, 0),
    "halves": lambda x: jnp.concatenate([x[len(x) // 2 :], x[: len(x) // 2]]) + x,
    "time first": over_the_batch,
    "adjacency": lambda x: jnp.einsum("ab,bcd->acd", jnp.ones((len(x), len(x))), x),
    "pairs": lambda x: jnp.abs(x[:, None] - x[None]).sum(1),
    "windows": lambda x: lax.reduce_window(
        x, -jnp.inf, lax.max, (2, 1, 1), (1, 1, 1), "SAME"
    ),
    "convolved": lambda x: (
        nn.Conv(2, (3,), use_bias=False)
        .apply({"params": {"kernel": jnp.ones((3, 2, 2))}}, x.swapaxes(0, 1))
        .swapaxes(0, 1)
    ),
}


@pytest.mark.optax
@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("name", MIXED)
def test_functions_that_mix_examples_are_refused(name, batch):
    with jax.numpy_rank_promotion("allow"):
        message = r"test_examples.py:[0-9]+ mixes the examples"
        with pytest.raises(ValueError, match=message):
            trace(MIXED[name], batch)


def trace(function, batch):
    def apply_fn(w, x):
        return function(x @ w)

    return pathsgd.trace_network(
        apply_fn, networks.spec(2, 2), networks.spec(batch, 4, 2)
    )


def siamese(x):
    both = jnp.maximum(jnp.concatenate([x, -x]), 0)
    return jnp.concatenate(jnp.split(both, 2), -1)


def one_by_one(x):
    return jnp.concatenate([jnp.abs(x[k : k + 1]) for k in range(len(x))])


UNMIXED = {
    "pooled": lambda x: x.mean(1),
    "flattened": lambda x: x.reshape(len(x), -1),
    "merged and parted": lambda x: (x.reshape(-1, 2) @ jnp.ones((2, 3))).reshape(
        len(x), -1, 3
    ),
    "transposed": lambda x: x.T.cumsum(1).sum((0, 1)),
    "siamese": siamese,
    "siamese, sliced": lambda x: siamese(x)[: len(x)],
    "time first": over_time,
    "one after the other": lambda x: lax.map(lambda row: jnp.abs(row).sum(0), x),
    "vmap": jax.vmap(lambda row: row - row.mean(0)),
    "vmap of convolutions": jax.vmap(
        lambda row: lax.conv(row.T[None], jnp.ones((3, 2, 3)), (1,), "SAME")[0].T
    ),
    "last step": lambda x: x[:, -1],
    "chosen step": lambda x: x[jnp.arange(len(x)), 1],
    "start of a carry": lambda x: x + jnp.zeros(x.shape).sum(0),
    "learnt by all": lambda x: x + jnp.ones((7, 4, 2)).mean(0),
    "reversed in time": lambda x: x[:, ::-1] + jnp.roll(x, 1, 1),
    "a template": lambda x: x + jnp.zeros_like(x[0]),
    "python's loop": one_by_one,
}


@pytest.mark.optax
@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("name", UNMIXED)
def test_functions_of_single_examples_are_traced(name, batch):
    with jax.numpy_rank_promotion("allow"):
        trace(UNMIXED[name], batch)


def test_a_function_of_a_single_example_is_traced():
    network = pathsgd.trace_network(
        lambda w, x: (x.reshape(4, 2) @ w).reshape(1, -1),
        jnp.ones((2, 2)),
        networks.spec(1, 4, 2),
    )
    assert pathsgd.path_norm(network, jnp.ones((2, 2)), 1) == 16
