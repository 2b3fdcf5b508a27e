"""Normalisations end the paths, and gates are one: against sums written by hand.

Each network stands beside its Phi, with its ends and gates written out as design.md's
section 7 has them.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import pathsgd_optax as pathsgd
from tests.phi import check, constant, over_mean, trace, weights


T, D, H, E = 5, 6, 2, 3
"""Places, width, heads and width of a head."""


def rms_norm(x):
    return x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)


MASK = np.tril(np.ones((T, T), bool))
SHARE = np.where(MASK, 1 / np.arange(1, T + 1)[:, None], 0)
"""What causal attention is on average."""


def decoder(params, tokens):
    """A block of a language model: causal attention, and a ReLU MLP, each pre-norm."""
    x = params["table"][tokens] + params["place"]
    h = rms_norm(x) * params["scale"]
    q, k, v = (jnp.einsum("btd,dhe->bthe", h, params[n]) for n in "qkv")
    logits = jnp.einsum("bthe,bshe->bhts", q, k) / E**0.5
    weight = jax.nn.softmax(jnp.where(MASK, logits, -1e30), -1)
    x = x + jnp.einsum("bhts,bshe,hed->btd", weight, v, params["o"])
    h = rms_norm(x) * params["scale_of_mlp"]
    x = x + jax.nn.relu(h @ params["up"] + params["bias"]) @ params["down"]
    return rms_norm(x) * params["last_scale"] @ params["out"]


def phi_of_decoder(p):
    def phi(q):
        x, h = jnp.mean(q["table"], 0) + q["place"], jnp.ones((T, D)) * q["scale"]
        v = jnp.einsum("td,dhe->the", h, q["v"])
        pair = [jnp.einsum("td,dhe->the", constant(h), q[n]) for n in "qk"]
        gate = jnp.einsum("the,she,ts->", *pair, MASK * 1.0) / E ** (p / 2)
        x = x + jnp.einsum("ts,she,hed->td", SHARE, v, q["o"])
        h = jnp.ones((T, D)) * q["scale_of_mlp"]
        x = x + (h @ q["up"] + q["bias"]) @ q["down"]
        out = jnp.ones((T, D)) * q["last_scale"] @ q["out"]
        return (over_mean(x, -1) + gate + jnp.sum(out)) / T

    return phi


@pytest.mark.parametrize("p", [1.0, 2.0, 3.5])
def test_a_decoder_has_the_paths_of_its_blocks(p):
    heads = {name: (D, H, E) for name in "qkv"}
    scales = dict.fromkeys(["scale", "scale_of_mlp", "last_scale"], (D,))
    mlp = {"up": (D, 8), "bias": (8,), "down": (8, D)}
    ends = {"table": (7, D), "place": (T, D), "o": (H, E, D), "out": (D, 7)}
    params = weights(**heads, **scales, **mlp, **ends)
    check(decoder, phi_of_decoder(p), params, jnp.zeros((2, T), int), p)


def fused(params, x):
    """Attention whose queries, keys and values are parts of one product."""
    x = x @ params["inputs"]
    h = rms_norm(x) * params["scale"]
    q, k, v = jnp.split(h @ params["qkv"] + params["bias"], 3, -1)
    return x + jax.nn.softmax(q @ k.swapaxes(-1, -2) / D**0.5) @ v @ params["o"]


def phi_of_fused(q):
    x, h = jnp.ones((T, 4)) @ q["inputs"], jnp.ones((T, D)) * q["scale"]
    a, b, _ = jnp.split(constant(h) @ q["qkv"] + q["bias"], 3, -1)
    v = jnp.split(h @ q["qkv"] + q["bias"], 3, -1)[2]
    attended = jnp.full((T, T), 1 / T) @ v @ q["o"]
    return (jnp.sum(x + attended) + jnp.sum(a @ b.T) / D) / T


def test_entries_of_one_kernel_may_steer_and_others_not():
    params = weights(inputs=(4, D), scale=(D,), qkv=(D, 3 * D), bias=(3 * D,), o=(D, D))
    check(fused, phi_of_fused, params, jnp.ones((2, T, 4)))


def convolved(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=numbers
    )


def squeezed(params, x):
    """A convolution, BatchNorm on the batch, and squeeze-and-excite."""
    x = convolved(x, params["kernel"])
    x = (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5)
    x = jax.nn.relu(x * params["scale"] + params["bias"])
    hidden = jax.nn.relu(x.mean((1, 2)) @ params["squeeze"])
    gate = jax.nn.sigmoid(hidden @ params["excite"] + params["shift"])
    return (x * gate[:, None, None]).mean((1, 2)) @ params["out"]


def phi_of_squeezed(q):
    end = over_mean(convolved(jnp.ones((1, 4, 4, 2)), q["kernel"]), (0, 1, 2))
    x = jnp.ones((1, 4, 4, 4)) * q["scale"] + q["bias"]
    mean = x.sum((1, 2)) / 16**2
    logits = constant(mean) @ q["squeeze"] @ q["excite"] + q["shift"]
    return end + jnp.sum(logits) + jnp.sum(mean @ q["out"])


def test_squeeze_and_excite_steers():
    kernels = {"kernel": (3, 3, 2, 4), "squeeze": (4, 2), "excite": (2, 4)}
    vectors = dict.fromkeys(["scale", "bias", "shift"], (4,))
    params = weights(**kernels, **vectors, out=(4, 3))
    check(squeezed, phi_of_squeezed, params, np.ones((2, 4, 4, 2)))


N = 3
"""The width of a cell."""


def lstm(params, x):
    """An LSTM, as a scan."""

    def step(carry, row):
        h, c = carry
        z = h @ params["u"] + params["b"]
        z = z + (row @ params["w"] if "w" in params else row)
        i, f, g, o = jnp.split(z, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), None

    zeros = jnp.zeros((len(x), N))
    (h, _), _ = lax.scan(step, (zeros, zeros), x.swapaxes(0, 1))
    return h @ params["out"]


def phi_of_lstm(q):
    c, gates = jnp.zeros(N), 0.0
    for _ in range(4):
        z = jnp.ones(2) @ q["w"] + q["b"]
        steers = jnp.delete(z + constant(c) @ q["u"], slice(2 * N, 3 * N))
        c, gates = c + (z + c @ q["u"])[2 * N : 3 * N], gates + jnp.sum(steers)
    return jnp.sum(c @ q["out"]) + gates


def test_a_cell_has_the_paths_of_its_candidates():
    params = weights(w=(2, 4 * N), u=(N, 4 * N), b=(4 * N,), out=(N, 2))
    check(lstm, phi_of_lstm, params, jnp.ones((2, 4, 2)))


def routed(params, x):
    """A mixture of two of three experts, all of which are computed."""
    share, chosen = lax.top_k(jax.nn.softmax(x @ params["router"]), 2)
    combine = (jax.nn.one_hot(chosen, 3) * share[..., None]).sum(-2)
    experts = jnp.einsum("bi,iek->bek", x, params["experts"])
    return jnp.einsum("bek,be->bk", jax.nn.relu(experts), combine)


def phi_of_routed(q):
    # Each expert may be either of the two, with the square root of a third.
    experts = jnp.einsum("i,iek->ek", jnp.ones(4), q["experts"]) * 4 / 3
    return jnp.sum(experts) + jnp.sum(jnp.ones(4) @ q["router"])


def attention(params, x, of_queries):
    """What queries make of keys and values."""
    h = x @ params["w"]
    q, k, v = (h @ params[name] for name in "qkv")

    def attended(query):
        logits = jnp.einsum("bd,bsd->bs", query, k)
        return jnp.einsum("bs,bse->be", jax.nn.softmax(logits), v)

    return of_queries(attended, q.swapaxes(0, 1)).swapaxes(0, 1)


def hoisted(params, tokens, early):
    """An LSTM, whose kernel the inputs may meet before the scan."""
    rows = params["table"][tokens].swapaxes(0, 1)
    if early:
        rows, params = rows @ params["w"], {k: params[k] for k in ("u", "b", "out")}
    return lstm(params, rows.swapaxes(0, 1))


SCANS = {
    "queries": (
        lambda params, x: attention(params, x, lax.map),
        lambda params, x: attention(params, x, lambda f, q: jax.vmap(f)(q)),
        weights(w=(4, D), q=(D, E), k=(D, E), v=(D, 2)),
        np.ones((2, T, 4)),
    ),
    "a kernel": (
        lambda params, x: hoisted(params, x, early=True),
        lambda params, x: hoisted(params, x, early=False),
        weights(table=(5, 2), w=(2, 4 * N), u=(N, 4 * N), b=(4 * N,), out=(N, 2)),
        np.zeros((2, T), int),
    ),
}


@pytest.mark.parametrize("name", SCANS)
def test_what_steers_inside_of_a_scan_counts_as_outside(name):
    scanned, plain, params, x = SCANS[name]
    params = jax.tree.map(jnp.float32, params)
    one, other = (
        pathsgd.path_scaling(trace(apply_fn, params, x), params)
        for apply_fn in (scanned, plain)
    )
    chex.assert_trees_all_close(one, other, rtol=1e-5)


HIDDEN = {
    "a large number": lambda x: jax.nn.softmax(jnp.where(MASK, x, -1e30)),
    "where": lambda x: jax.nn.softmax(x, where=MASK),
    "added": lambda x: jax.nn.softmax(x + jnp.where(MASK, 0, -1e9)),
    "after exp": lambda x: (
        jnp.where(MASK, jnp.exp(x), 0)
        / jnp.where(MASK, jnp.exp(x), 0).sum(-1, keepdims=True)
    ),
}


def test_however_logits_are_masked_they_steer_as_much():
    params = weights(w=(4, D), q=(D, E), k=(D, E), v=(D, 2))
    found = []
    for masked in HIDDEN.values():

        def apply_fn(params, x, masked=masked):
            h = x @ params["w"]
            q, k, v = (h @ params[name] for name in "qkv")
            return masked(jnp.einsum("btd,bsd->bts", q, k)) @ v

        network = trace(apply_fn, params, jnp.ones((2, T, 4)))
        found.append(pathsgd.path_scaling(network, jax.tree.map(jnp.float32, params)))
    for other in found[1:]:
        chex.assert_trees_all_close(found[0], other, rtol=1e-5)


def test_look_ups_have_a_mean_only_where_sizes_count():
    """Elsewhere they have the sum of the paths of all that they may find."""
    params = weights(table=(7, D), out=(D, 2))

    def apply_fn(params, tokens):
        return jax.nn.relu(params["table"][tokens]) @ params["out"]

    check(apply_fn, lambda q: jnp.sum(q["table"] @ q["out"]), params, jnp.zeros(2, int))


LOOK_UPS = {
    "gather": lambda table, ids: table[ids],
    "one_hot": lambda table, ids: jax.nn.one_hot(ids, 7, dtype=table.dtype) @ table,
    "comparison": lambda table, ids: jnp.einsum(
        "vd,bv->bd", table, (ids[:, None] == np.arange(7)).astype(table.dtype)
    ),
}


def test_a_product_with_one_hot_is_a_look_up():
    params = {name: weights(table=(7, D), out=(D, 2)) for name in LOOK_UPS}

    def apply_fn(params, ids):
        return sum(
            rms_norm(LOOK_UPS[name](q["table"], ids)) @ q["out"]
            for name, q in params.items()
        )

    def phi(q):
        return sum(
            over_mean(jnp.mean(z["table"], 0), -1) + jnp.sum(z["out"])
            for z in q.values()
        )

    check(apply_fn, phi, params, jnp.zeros(2, int))


def test_routers_steer():
    params = weights(router=(4, 3), experts=(4, 3, 2))
    check(routed, phi_of_routed, params, jnp.ones((2, 4)))


def _shared_out(shares, params, x):
    """What two experts make, weighed."""
    first, second = shares
    return first[:, None] * (x @ params["a"]) + second[:, None] * (x @ params["b"])


OF_TWO = {
    "slices": lambda s: (s[:, 0], s[:, 1]),
    "the rest": lambda s: (s[:, 0], 1 - s[:, 0]),
    "split": lambda s: [part[:, 0] for part in jnp.split(s, 2, -1)],
    "unstacked": lambda s: jnp.unstack(s, axis=-1),
    "taken": lambda s: (jnp.take(s, 0, -1), 1 - jnp.take(s, 0, -1)),
    "the last": lambda s: (1 - s[:, -1], s[:, -1]),
}


@pytest.mark.parametrize("form", OF_TWO)
def test_all_logits_steer_each_entry_of_a_softmax(form):
    params, x = weights(r=(3, 2), a=(3, 2), b=(3, 2)), jnp.ones((4, 3))

    def routed(params, x):
        return _shared_out(OF_TWO[form](jax.nn.softmax(x @ params["r"])), params, x)

    scaling = pathsgd.path_scaling(trace(routed, params, x), params)
    np.testing.assert_allclose(scaling["r"], 1, rtol=1e-6)


def test_logits_of_entries_that_are_left_behind_steer_nothing():
    params, x = weights(r=(3, 4, 2), a=(3, 2), b=(3, 2)), jnp.ones((4, 3))

    def routed(params, x):
        shares = jax.nn.softmax(jnp.einsum("bd,dte->bte", x, params["r"]))
        share = shares[:, 1][:, 0]
        return _shared_out((share, 1 - share), params, x)

    scaling = pathsgd.path_scaling(trace(routed, params, x), params)["r"]
    np.testing.assert_allclose(scaling[:, 1], 1, rtol=1e-6)
    chex.assert_trees_all_equal(scaling[:, [0, 2, 3]], jnp.zeros((3, 3, 2)))


NORMS = {
    "by a root": lambda x: (
        (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
    ),
    "fast": lambda x: (
        (x - x.mean(-1, keepdims=True))
        * lax.rsqrt(
            jnp.maximum(
                0, (x**2).mean(-1, keepdims=True) - x.mean(-1, keepdims=True) ** 2
            )
            + 1e-6
        )
    ),
    "epsilon outside": lambda x: (
        (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-6)
    ),
    "a power": lambda x: x * ((x * x).mean(-1, keepdims=True) + 1e-6) ** -0.5,
    "of sizes": lambda x: x / jnp.sqrt((jnp.abs(x) ** 2).mean(-1, keepdims=True)),
    "standardize": lambda x: jax.nn.standardize(x),
    "by a norm": lambda x: (
        x / jnp.linalg.norm(x, axis=-1, keepdims=True) * x.shape[-1] ** 0.5
    ),
    "by a product": lambda x: x / jnp.sqrt(jnp.einsum("bd,bd->b", x, x)[:, None] / D),
    "by a product with ones": lambda x: (
        x * lax.rsqrt((x * x) @ jnp.full((D, 1), 1 / D, x.dtype))
    ),
    "by a product of rows": lambda x: (
        x * lax.rsqrt(jnp.squeeze(x[:, None] @ x[..., None], -1) / D)
    ),
    "centred by a product": lambda x: rms_norm(
        x - x @ jnp.full((D, D), 1 / D, x.dtype)
    ),
    "at least epsilon": lambda x: (
        x.shape[-1] ** 0.5
        * x
        / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
    ),
    "scaled before": lambda x: (2 * x) * lax.rsqrt((4 * x * x).mean(-1, keepdims=True)),
    "in parts": lambda x: (
        x
        * lax.rsqrt(
            ((x[:, :2] ** 2).sum(-1) + (x[:, 2:] ** 2).sum(-1))[:, None] / x.shape[-1]
        )
    ),
    "moved": lambda x: rms_norm(x[:, None])[:, 0],
    "of a half": lambda x: rms_norm(jnp.concatenate([x, x], -1))[:, :D],
}


@pytest.mark.parametrize("name", NORMS)
def test_forms_of_a_normalisation(name):
    params = weights(w=(4, D), b=(D,), scale=(D,), out=(D, 2))

    def apply_fn(params, x):
        x = NORMS[name](x @ params["w"] + params["b"]) * params["scale"]
        return x @ params["out"]

    def phi(q):
        h = jnp.ones(4) @ q["w"] + q["b"]
        ended = over_mean(h, -1) * (2 if name == "of a half" else 1)
        return ended + jnp.sum(q["scale"] @ q["out"])

    check(apply_fn, phi, params, jnp.ones((2, 4)))


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_what_keras_normalises_has_one_shift(p):
    params = weights(w=(4, D), scale=(D,), bias=(D,))

    def apply_fn(params, x):
        x = x @ params["w"]
        inverse = lax.rsqrt(x.var(0) + 1e-6) * params["scale"]
        return x * inverse + (params["bias"] - x.mean(0) * inverse)

    def phi(q):
        ended = over_mean(jnp.ones((1, 4)) @ q["w"], 0)
        return ended + jnp.sum(q["scale"] + q["bias"])

    check(apply_fn, phi, params, jnp.ones((2, 4)), p)


def test_a_normalised_weight_is_of_the_size_that_it_has():
    params = weights(v=(4, D), g=(D,))

    def apply_fn(params, x):
        return x @ (params["v"] / jnp.linalg.norm(params["v"], axis=0) * params["g"])

    def phi(q):
        share = constant(q["v"] / jnp.sum(q["v"], 0))
        return over_mean(q["v"], 0) + jnp.sum(share * q["g"])

    check(apply_fn, phi, params, jnp.ones((2, 4)))


def test_each_value_counts_once():
    params = weights(w=(4, D), first=(D, D), second=(D, D), out=(D, 2))

    def apply_fn(params, x):
        x = x @ params["w"]
        x = x + jax.nn.relu(rms_norm(x) @ params["first"])
        x = x + jax.nn.relu(rms_norm(x) @ params["second"])
        return rms_norm(x) @ params["out"]

    def phi(q):
        ones = jnp.ones(D)
        stream = jnp.ones(4) @ q["w"] + ones @ q["first"] + ones @ q["second"]
        return over_mean(stream, -1) + jnp.sum(ones @ q["out"])

    check(apply_fn, phi, params, jnp.ones((2, 4)))


ONE = {
    "gelu": jax.nn.gelu,
    "exact gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "quick gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "elu": jax.nn.elu,
    "mish": jax.nn.mish,
    "tanh": jnp.tanh,
    "soft sign": jax.nn.soft_sign,
    "hard swish": jax.nn.hard_swish,
    "relu6": jax.nn.relu6,
    "by hand": lambda x: x / (1 + jnp.exp(-x)),
}


@pytest.mark.parametrize("name", ONE)
def test_units_have_the_paths_of_their_argument(name):
    params = weights(w=(4, D), out=(D, 2))

    def apply_fn(params, x):
        return ONE[name](x @ params["w"]) @ params["out"]

    check(apply_fn, lambda q: jnp.sum(q["w"] @ q["out"]), params, jnp.ones((2, 4)))


BOUNDED = {
    "relu6": jax.nn.relu6,
    "clip": lambda x: jnp.clip(x, -1, 1),
    "tanh": jnp.tanh,
    "hard swish": jax.nn.hard_swish,
}
STEERED = {
    "sigmoid": (jax.nn.sigmoid, 1),
    "mixed": (lambda x: jax.nn.sigmoid(x) @ np.eye(D, dtype=x.dtype), 1),
    "hard sigmoid": (jax.nn.hard_sigmoid, 4 / 9),
    "one less": (lambda x: 1 - jax.nn.sigmoid(x), 1),
}


@pytest.mark.parametrize("gate", STEERED)
@pytest.mark.parametrize("unit", BOUNDED)
def test_of_two_bounded_values_one_is_the_gate(unit, gate):
    params = weights(w=(4, D), steer=(4, D), out=(D, 2))
    function, share = STEERED[gate]

    def apply_fn(params, x):
        steered = function(x @ params["steer"])
        return (BOUNDED[unit](x @ params["w"]) * steered) @ params["out"]

    def phi(q):
        return jnp.sum(q["steer"]) * share + jnp.sum(q["w"] @ q["out"])

    check(apply_fn, phi, params, jnp.ones((2, 4)))


def pooled(gate):
    """Averages over windows of a place and its neighbours, as far as there are any."""
    window = ((1, 3), (1, 1), "SAME")
    sums, counts = (
        lax.reduce_window(z, 0.0, lax.add, *window) for z in (gate, jnp.ones_like(gate))
    )
    return sums / counts


SOME = np.array([0, 1, 1, 1, 1, 1.0])
GATED = {
    "concatenated": lambda g, u: jnp.concatenate([g[:, :2], g[:, 2:]], -1) * u,
    "stacked": lambda g, u: jnp.stack(list(g.T), -1) * u,
    "padded": lambda g, u: jnp.pad(g, ((0, 0), (0, 1)))[:, :D] * u,
    "looked up": lambda g, u: g[:, np.arange(D)] * u,
    "written": lambda g, u: jnp.zeros_like(g).at[:, :].set(g) * u,
    "updated": lambda g, u: lax.dynamic_update_slice(jnp.zeros_like(g), g, (0, 0)) * u,
    "the largest": lambda g, u: g[..., None].max(-1) * u,
    "chosen": lambda g, u: (
        jnp.where(SOME > 0, g, 0) * u + jnp.where(SOME > 0, 0, g) * u
    ),
    "chosen by data": lambda g, u: jnp.where(u > 0, g, 0) * u,
    "times masks": lambda g, u: g * SOME * u + g * (1 - SOME) * u,
    "einsum": lambda g, u: jnp.einsum("bi,bi->bi", g, u),
    "shifted and back": lambda g, u: ((g - 1.0) + 1.0) * u,
    "averages of windows": lambda g, u: pooled(g) * u,
    "averages so far": lambda g, u: jnp.cumsum(g, -1) / np.arange(1.0, D + 1) * u,
}


@pytest.mark.parametrize("name", GATED)
def test_gates_are_gates_wherever_they_are_moved(name):
    params = weights(w=(4, D), steer=(4, D), out=(D, 2))

    def apply_fn(params, x):
        gate = jax.nn.sigmoid(x @ params["steer"])
        return GATED[name](gate, x @ params["w"]) @ params["out"]

    def phi(q):
        return jnp.sum(q["steer"]) + jnp.sum(q["w"] @ q["out"])

    check(apply_fn, phi, params, jnp.ones((2, 4)))


def halves(z):
    """The functions of a cell of its columns, joined in different ways."""
    gate, unit = jnp.split(z, 2, -1)
    return jax.nn.sigmoid(gate), jnp.tanh(unit)


CELLS = {
    "joined": lambda z: jnp.split(jnp.concatenate(halves(z), -1), 2, -1),
    "chosen": lambda z: jnp.split(
        jnp.where(np.arange(2 * D) < D, jax.nn.sigmoid(z), jnp.tanh(z)), 2, -1
    ),
    "stacked": lambda z: [*jnp.stack(halves(z))],
    "sliced": lambda z: (lambda y: (y[:, :D], y[:, 2 * D :]))(
        jnp.concatenate([halves(z)[0], jnp.ones_like(z[:, :D]), halves(z)[1]], -1)
    ),
}


def test_what_was_joined_and_is_split_again_is_what_it_was():
    shapes = {"gate": (4, D), "unit": (4, D), "out": (D, 2)}
    params = {name: weights(**shapes) for name in CELLS}

    def apply_fn(params, x):
        total = 0.0
        for name, q in params.items():
            gate, unit = CELLS[name](
                jnp.concatenate([x @ q["gate"], x @ q["unit"]], -1)
            )
            total = total + (gate * unit) @ q["out"]
        return total

    def phi(q):
        return sum(
            jnp.sum(z["gate"]) + jnp.sum(z["unit"] @ z["out"]) for z in q.values()
        )

    check(apply_fn, phi, params, jnp.ones((2, 4)))


POWERS = {
    "of three": lambda g, h: g * h * (1 - g),
    "cumulative": lambda g, h: jnp.cumprod(jnp.stack([g, h]), 0)[1],
    "of all": lambda g, h: jnp.prod(jnp.stack([g, h], -1), -1),
    "of logarithms": lambda g, h: jnp.exp(
        jnp.cumsum(jnp.stack([jnp.log(g), jnp.log(h)]), 0)
    )[1],
}


def test_products_of_gates_are_gates():
    drawn = weights(w=(4, D), g=(4, D), h=(4, D), out=(D, 2))
    params = dict.fromkeys(POWERS, drawn)

    def apply_fn(params, x):
        return sum(
            POWERS[name](*(jax.nn.sigmoid(x @ q[k]) for k in "gh"))
            * (x @ q["w"])
            @ q["out"]
            for name, q in params.items()
        )

    def phi(q):
        return sum(
            jnp.sum(z["g"]) + jnp.sum(z["h"]) + jnp.sum(z["w"] @ z["out"])
            for z in q.values()
        )

    check(apply_fn, phi, params, jnp.ones((2, 4)))


def test_sigmoid_attention_sums_over_what_its_mask_allows():
    params = weights(w=(4, D), q=(4, D), gate=(4, D))

    def scaling(weighted):
        def apply_fn(params, x):
            values = weighted(x @ params["q"], x @ params["w"])
            return values * jax.nn.sigmoid(x @ params["gate"])

        return pathsgd.path_scaling(trace(apply_fn, params, np.ones((2, T, 4))), params)

    def attended(queries, values):
        weight = jax.nn.sigmoid(queries @ queries.swapaxes(-1, -2)) * MASK
        return weight @ values

    found, wanted = (
        scaling(weighted)["w"] for weighted in (attended, lambda _, v: MASK * 1.0 @ v)
    )
    chex.assert_trees_all_close(found, wanted, rtol=1e-6)


MASKED = {
    "chosen": lambda x: jnp.where(MASK, x, -1e30),
    "added": lambda x: x + np.where(MASK, 0.0, -1e9),
}


SOFTMAXES = {
    "softmax": lambda x: jax.nn.softmax(x, -1),
    "quotient": lambda x: (lambda e: e / e.sum(-1, keepdims=True))(jnp.exp(x)),
    "product": lambda x: (lambda e: e * (1 / e.sum(-1, keepdims=True)))(jnp.exp(x)),
    "of logarithms": lambda x: jnp.exp(jax.nn.log_softmax(x, -1)),
    "less a logarithm": lambda x: jnp.exp(x - jax.nn.logsumexp(x, -1)[..., None]),
}


def by_sums(x, v):
    """Attention that divides last."""
    e = jnp.exp(x - x.max(-1, keepdims=True))
    return (e @ v) / e.sum(-1, keepdims=True)


def twice(x, v):
    """Attention to values that are added after they are weighed."""
    e, first = jnp.exp(x), np.float32(np.arange(D) < 2)
    return (e @ (first * v) + e @ ((1 - first) * v)) / e.sum(-1, keepdims=True)


def entry_by_entry(x, v):
    e = jnp.exp(x)
    return (e[..., None] * v[:, None]).sum(2) / e.sum(-1)[..., None]


ATTENTIONS = {
    name: lambda x, v, softmax=softmax: softmax(x) @ v
    for name, softmax in SOFTMAXES.items()
} | {"divided last": by_sums, "entry by entry": entry_by_entry, "added": twice}


def test_forms_of_attention():
    params = weights(**{name: (4, D) for name in "qkv"})

    def scaling(mask, attention):
        def apply_fn(params, x):
            q, k, v = (x @ params[name] for name in "qkv")
            return attention(mask(q @ k.swapaxes(-1, -2)), v)

        return pathsgd.path_scaling(
            trace(apply_fn, params, jnp.ones((2, T, 4))), params
        )

    first, *others = (
        scaling(MASKED["chosen"], attention) for attention in ATTENTIONS.values()
    )
    others.append(scaling(MASKED["added"], ATTENTIONS["softmax"]))
    for other in others:
        chex.assert_trees_all_close(other, first, rtol=1e-5)


MEANS = {
    "of booleans": lambda h, m: (h * m[..., None]).sum(1) / m.sum(1, keepdims=True),
    "where": lambda h, m: jnp.mean(h, 1, where=m[..., None]),
    "of numbers": lambda h, m: (
        (h * (m * 1.0)[..., None]).sum(1) / jnp.maximum((m * 1.0).sum(1), 1.0)[:, None]
    ),
    "of shares": lambda h, m: (h * (m / m.sum(1, keepdims=True))[..., None]).sum(1),
    "einsum": lambda h, m: jnp.einsum("bt,bti->bi", m / m.sum(1, keepdims=True), h),
}


@pytest.mark.parametrize("dtype", [bool, int, float])
def test_a_mean_over_what_a_mask_leaves_is_one_over_all(dtype):
    shapes = {"table": (7, D), "w": (D, D), "out": (D, 2)}
    forms = [name for name in MEANS if name != "where" or dtype is bool]
    params = {name: weights(**shapes) for name in forms}
    x = {"ids": jnp.zeros((2, T), int), "mask": jnp.ones((2, T), dtype)}

    def apply_fn(params, x):
        return sum(
            MEANS[name](jax.nn.gelu(q["table"][x["ids"]] @ q["w"]), x["mask"])
            @ q["out"]
            for name, q in params.items()
        )

    def phi(q):
        return sum(
            jnp.sum(z["table"] @ z["w"] @ z["out"]) * T / T**2 for z in q.values()
        )

    check(apply_fn, phi, params, x)


PRODUCTS = {
    "up and gate": lambda x, y: (jax.nn.silu(x) * y, x * y),
    "bilinear": lambda x, y: (x * y, x * y),
    "highway": lambda x, y: (
        jax.nn.sigmoid(x) * y + (1 - jax.nn.sigmoid(x)) * y,
        y,
    ),
    "a square of a relu": lambda x, y: (jax.nn.relu(y) ** 2, y * y),
    "linear attention": lambda x, y: (
        jnp.einsum("...i,...j,...j->...i", x, x, y),
        jnp.einsum("i,j,j->i", x, x, y) if x.ndim == 1 else None,
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_data_multiply_masses(name):
    params = weights(x=(4, D), y=(4, D), out=(D, 2))

    def apply_fn(params, x):
        return PRODUCTS[name](x @ params["x"], x @ params["y"])[0] @ params["out"]

    def phi(q):
        x, y = (jnp.ones(4) @ q[name] for name in "xy")
        result = jnp.sum(PRODUCTS[name](x, y)[1] @ q["out"])
        return result + (jnp.sum(x) if name == "highway" else 0)

    check(apply_fn, phi, params, jnp.ones((2, 4)))


def test_without_gates_and_normalisations_nothing_changes():
    params = jax.tree.map(jnp.float32, weights(w=(4, D), b=(D,), out=(D, 2)))

    def apply_fn(params, x):
        x = jax.nn.relu(x @ params["w"] + params["b"])
        x = x - x.mean(-1, keepdims=True)
        return (x - x.max(-1, keepdims=True)) @ params["out"]

    networks = [trace(apply_fn, params, jnp.ones((2, 4)))]
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        networks += [pathsgd.trace_network(apply_fn, params, jnp.ones((2, 4)))]
    chex.assert_trees_all_equal(
        *(pathsgd.path_scaling(network, params) for network in networks)
    )


CANCELLED = {
    "centred": lambda x: x - x.mean(-1, keepdims=True),
    "a norm's, scaled first": lambda x: (
        (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
    ),
    "what is left": lambda x: x.shape[-1] - (x > 0).sum(-1, keepdims=True),
    "a logarithm": lambda x: jnp.log(x.mean(-1, keepdims=True)),
}


@pytest.mark.parametrize("name", CANCELLED)
def test_what_is_zero_where_all_inputs_are_one_is_no_zero(name):
    """Data times a function of the inputs, which is a unit."""

    def apply_fn(params, x):
        return (x @ params["w"]) * CANCELLED[name](x)

    params, x = weights(w=(D, D)), jnp.ones((2, D))
    network = trace(apply_fn, params, x)
    found = pathsgd.path_scaling(network, params)["w"]
    np.testing.assert_allclose(found, np.ones((D, D)), rtol=1e-6)


REFUSED = {
    "mixes examples": (lambda x: x - x.mean(0), "mixes the examples of a batch"),
    "attends to others": (lambda x: jax.nn.softmax(x @ x.T) @ x, "mixes the examples"),
    "a mean over a norm": (
        lambda x: (
            x.mean(-1, keepdims=True) * lax.rsqrt((x * x).mean(-1, keepdims=True))
        ),
        "a mean is divided by a root of the second moment",
    ),
    "gates among units": (
        lambda x: (lambda y: y[:, 0] * y[:, 1])(
            jnp.concatenate([jax.nn.sigmoid(x), jnp.tanh(x)], -1).reshape(-1, 2, D)
        ),
        "multiplies two bounded values.*Join what they are functions of",
    ),
    "a standard deviation": (lambda x: x * x.std(-1, keepdims=True), "a statistic"),
    "a maximum": (
        lambda x: x / jnp.sqrt((x * x).max(-1, keepdims=True)),
        "divides by a value",
    ),
    "a log of a softmax": (
        lambda x: jax.nn.log_softmax(x) * 2.0,
        "logarithm of a sum.*return the logits",
    ),
    "weights of no sum": (
        lambda x: jnp.exp(x) * x,
        "outputs .*exponential.*return what",
    ),
    "an exponential": (jnp.exp, "outputs .*exponential.*return what it is taken of"),
    "noise of a scale": (lambda x: x[:, 1:] + jnp.exp(x[:, :1]), "add .*exponential"),
    "scales": (lambda x: x[:, 1:] * x[:, :1] * jnp.exp(x[:, 1:]), "exponential"),
    "a log": (jnp.log, "log .*no path rule"),
    "a log, used": (lambda x: jnp.log(x) * 2.0 + 1.0, "log .*no path rule"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    function, message = REFUSED[name]
    params = weights(w=(4, D))
    with pytest.raises(ValueError, match=message):
        trace(lambda params, x: function(x @ params["w"]), params, jnp.ones((2, 4)))


def test_a_softmax_ends_no_network():
    def apply_fn(params, x):
        return jax.nn.softmax(x @ params["w"])

    with pytest.raises(ValueError, match=r"a gate.*return the logits"):
        trace(apply_fn, weights(w=(4, D)), jnp.ones((2, 4)))
