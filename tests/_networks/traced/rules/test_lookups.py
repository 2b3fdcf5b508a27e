"""Look-ups by integers that are inputs, or are made of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import pathsgd_optax as pathsgd
from tests import networks


def random(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape))


def scalings(functions, params, x):
    """The scaling of each function, which has parameters and outputs of its own."""
    own = dict.fromkeys(functions, params)

    def apply_fn(own, x):
        return {name: function(own[name], x) for name, function in functions.items()}

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        network = pathsgd.trace_network(apply_fn, own, x)
    return pathsgd.path_scaling(network, own)


def check_alike(scalings, wanted):
    """All are like the one of this name, whose derivation is the plainest."""
    for found in scalings.values():
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12),
            found,
            scalings[wanted],
        )


IDS = networks.spec(1, 2, dtype=jnp.int32)

FIELDS = {
    "one by one": lambda e, x: e[0][x[:, 0]] + e[1][x[:, 1]],
    "one index": lambda e, x: e[jnp.arange(2), x].sum(1),
    "two axes": lambda e, x: e[np.arange(2)[None], x].sum(1),
    "the fields last": lambda e, x: e.swapaxes(0, 1)[x, jnp.arange(2)].sum(1),
    "pairs": lambda e, x: sum(e[k, x[:, k]] for k in range(2)),
    "equal indices": lambda e, x: sum(
        e[jnp.full_like(x[:, k], k), x[:, k]] for k in range(2)
    ),
    "vmap over examples": lambda e, x: jax.vmap(lambda x: e[jnp.arange(2), x].sum(0))(
        x
    ),
    "vmap over fields": lambda e, x: jax.vmap(lambda e, x: e[x], (0, 1))(e, x).sum(0),
    "take_along_axis": lambda e, x: jnp.take_along_axis(e, x.T[..., None], 1).sum(0),
    "scan": lambda e, x: lax.scan(
        lambda h, row: (h + row[0][row[1]], None), jnp.zeros((1, 3)), (e, x.T)
    )[0],
    "clipped": lambda e, x: e.at[jnp.arange(2), x].get(mode="clip").sum(1),
    "flat": lambda e, x: jnp.concatenate(
        [e.reshape(8, 3)[4 * k : 4 * k + 4][x[:, k]][:, None] for k in range(2)], 1
    ).sum(1),
}


@pytest.mark.x64
def test_each_of_several_fields_looks_up_its_own_table():
    found = scalings(FIELDS, random(2, 4, 3), IDS)
    check_alike(found, "one by one")
    assert (found["one by one"] == 1).all()


def test_the_path_norm_of_several_fields():
    params = jnp.ones((2, 4, 3))
    network = pathsgd.trace_network(FIELDS["one index"], params, IDS)
    np.testing.assert_allclose(pathsgd.path_norm(network, params), np.sqrt(24))


ROWS = {
    "index": lambda table, x: table[x],
    "take": lambda table, x: jnp.take(table, x, axis=0),
    "clipped": lambda table, x: jnp.take(table, x, axis=0, mode="clip"),
    "filled": lambda table, x: table.at[x].get(mode="fill", fill_value=0),
    "said to be unique": lambda table, x: table.at[x].get(
        unique_indices=True, indices_are_sorted=True
    ),
    "one hot": lambda table, x: jax.nn.one_hot(x, 4, dtype=table.dtype) @ table,
    "compared": lambda table, x: (
        (x[..., None] == jnp.arange(4)).astype(table.dtype) @ table
    ),
    "looked up one-hot": lambda table, x: jnp.eye(4)[x] @ table,
    "vmap": lambda table, x: jax.vmap(jax.vmap(lambda i: table[i]))(x),
    "map": lambda table, x: lax.map(lambda i: table[i], x.T).swapaxes(0, 1),
    "dynamic slice": lambda table, x: jnp.concatenate(
        [lax.dynamic_slice_in_dim(table, x[0, k], 1)[None] for k in range(2)], 1
    ),
    "floating ids": lambda table, x: table[(x.astype(table.dtype) / 2).astype(int)],
    "digitized": lambda table, x: table[
        jnp.digitize(x.astype(table.dtype), np.arange(3.0))
    ],
    "largest": lambda table, x: table[jnp.argmax(jax.nn.one_hot(x, 4), -1)],
    "modulo": lambda table, x: table[jnp.where(x < 0, x + 4, x) % 4],
    "choices": lambda table, x: sum(
        jnp.where((x == k)[..., None], table[k], 0) for k in range(4)
    ),
    "select": lambda table, x: lax.select_n(
        jnp.broadcast_to(x[..., None], (*x.shape, 3)),
        *(jnp.broadcast_to(table[k], (*x.shape, 3)) for k in range(4)),
    ),
}


@pytest.fixture(scope="module")
def rows():
    """The scalings of tables, and of the weights after them."""
    params = {"table": random(4, 3), "w": random(3, 2)}

    def after(look_up, params, x):
        rows = look_up(params["table"], x)
        return jax.nn.relu(rows).sum(1) @ params["w"]

    functions = {name: functools.partial(after, f) for name, f in ROWS.items()}
    with jax.enable_x64(True):
        return params, scalings(functions, params, IDS)


@pytest.mark.x64
@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_a_table_is_one_of_as_many_inputs(name, rows):
    params, found = rows
    table, w = np.square(params["table"]), np.square(params["w"])
    leaving, entering = w.sum(1), 2 * table.sum(0)
    np.testing.assert_allclose(found[name]["table"], np.tile(2 * leaving, (4, 1)))
    np.testing.assert_allclose(found[name]["w"], np.tile(entering[:, None], 2))


KNOWN = {
    "a token before": (
        lambda table, x: table[jnp.concatenate([jnp.zeros_like(x[:, :1]), x], 1)],
        lambda table, x: jnp.concatenate([table[None, :1], table[x]], 1),
    ),
    "padding after": (
        lambda table, x: table[jnp.pad(x, ((0, 0), (0, 1)), constant_values=-1)],
        lambda table, x: jnp.concatenate([table[x], table[None, 3:]], 1),
    ),
    "shifted ids": (
        lambda table, x: table[jnp.pad(x + 1, ((0, 0), (1, 0)))],
        lambda table, x: jnp.concatenate([table[None, :1], table[x]], 1),
    ),
    "a written token": (
        lambda table, x: table[x.at[:, 0].set(2)],
        lambda table, x: jnp.concatenate([table[None, 2:3], table[x[:, 1:]]], 1),
    ),
    "columns": (
        lambda table, x: table[x, jnp.arange(2)],
        lambda table, x: jnp.concatenate([table[x[:, k], k] for k in range(2)])[None],
    ),
    "window": (
        lambda table, x: lax.dynamic_slice_in_dim(table, x[0, 0], 2)[None],
        lambda table, x: sum(
            jnp.where(x[0, 0] == k, table[k : k + 2], 0) for k in range(3)
        )[None],
    ),
    "batched window": (
        lambda table, x: jax.vmap(lambda i: lax.dynamic_slice_in_dim(table, i, 2))(
            x[0]
        )[None],
        lambda table, x: jnp.concatenate(
            [
                sum(jnp.where(x[0, j] == k, table[k : k + 2], 0) for k in range(3))
                for j in range(2)
            ]
        )[None],
    ),
    "in a loop": (
        lambda table, x: lax.map(
            lambda i: table[i], jnp.concatenate([jnp.zeros_like(x[0, :1]), x[0]])
        )[None],
        lambda table, x: jnp.concatenate([table[None, :1], table[x]], 1),
    ),
    "slices in a loop": (
        lambda table, x: lax.map(
            lambda i: lax.dynamic_slice_in_dim(table, i, 1)[0],
            jnp.concatenate([jnp.zeros_like(x[0, :1]), x[0]]),
        )[None],
        lambda table, x: jnp.concatenate([table[None, :1], table[x]], 1),
    ),
}


@pytest.fixture(scope="module")
def known():
    """The scalings by known indices, and with the known rows taken out by hand."""
    functions = {(name, k): KNOWN[name][k] for name in KNOWN for k in range(2)}
    names = {f"{name} {k}": function for (name, k), function in functions.items()}
    with jax.enable_x64(True):
        return scalings(names, random(4, 3), IDS)


@pytest.mark.x64
@pytest.mark.parametrize("name", KNOWN)
def test_known_indices_look_up_one_row(name, known):
    np.testing.assert_allclose(known[f"{name} 0"], known[f"{name} 1"], rtol=1e-12)
    assert (known[f"{name} 0"] > 0).any()


CHOSEN = {
    "pooled": lambda h, n: jnp.max(h, 1),
    "last valid": lambda h, n: jnp.take_along_axis(h, n[:, None, None], 1)[:, 0],
    "indexed": lambda h, n: h[jnp.arange(h.shape[0]), n],
    "vmap": lambda h, n: jax.vmap(lambda h, n: h[n])(h, n),
    "one hot": lambda h, n: jnp.einsum(
        "bt,btd->bd", jax.nn.one_hot(n, 4, dtype=h.dtype), h
    ),
    "masked": lambda h, n: jnp.sum(
        jnp.where((jnp.arange(4)[None] == n[:, None])[..., None], h, 0), 1
    ),
    "loop": lambda h, n: lax.scan(
        lambda last, row: (jnp.where(row[0] < n[:, None], row[1], last), None),
        jnp.zeros_like(h[:, 0]),
        (jnp.arange(4), h.swapaxes(0, 1)),
    )[0],
}


@pytest.mark.x64
def test_data_that_inputs_choose_is_pooled():
    x = {"x": networks.spec(2, 4, 3), "n": networks.spec(2, dtype=jnp.int32)}
    functions = {
        name: lambda w, x, f=function: f(x["x"] @ w, x["n"])
        for name, function in CHOSEN.items()
    }
    check_alike(scalings(functions, random(3, 2), x), "pooled")


def decoder(looped, params, x):
    """Each step looks up what the step before has read, the first one token 0."""

    def step(carry, token):
        h, previous = carry
        h = jax.nn.relu(h @ params["w"] + params["table"][previous])
        return (h, token), None

    carry = x["h"], jnp.zeros_like(x["ids"][:, 0])
    if looped:
        return lax.scan(step, carry, x["ids"].T)[0][0]
    return step(step(carry, x["ids"][:, 0])[0], x["ids"][:, 1])[0][0]


@pytest.mark.x64
def test_a_decoder_carries_what_it_looks_up_next():
    functions = {
        "looped": functools.partial(decoder, True),
        "unrolled": functools.partial(decoder, False),
    }
    params = {"table": random(4, 3), "w": random(3, 3)}
    x = {"h": networks.spec(1, 3, dtype=jnp.float64), "ids": IDS}
    check_alike(scalings(functions, params, x), "unrolled")
