"""Scans of traced networks: what they carry from the first step on."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import pathsgd_optax as pathsgd
from tests import networks
from tests.phi import check, weights


PARAMS = networks.random_like(
    {"w": networks.spec(2, 2), "b": networks.spec(2), "u": networks.spec(3, 2)}
)
STEPS = 3


def state(params, h, activation=jax.nn.relu):
    """What is made of the state before the inputs are added."""
    bias = jnp.broadcast_to(params["b"], h.shape)
    return activation(h @ params["w"] + bias)


def plain(params, start, x):
    def step(h, row):
        return state(params, h) + row @ params["u"], None

    return lax.scan(step, start, jnp.swapaxes(x, 0, 1))[0]


def nested(params, start, x):
    def outer(h, row):
        h = lax.scan(lambda h, _: (state(params, h), None), h, None, 1)[0]
        return h + row @ params["u"], None

    return lax.scan(outer, start, jnp.swapaxes(x, 0, 1))[0]


def beside_a_clock(params, start, x):
    def step(carry, row):
        h, time = carry
        return (
            state(params, h) + row @ params["u"] + jnp.cos(0.0 * time.astype(float)),
            time + 1,
        ), h

    return lax.scan(step, (start, jnp.zeros((1, 1), int)), jnp.swapaxes(x, 0, 1))[0][0]


def total(params, start, more):
    """The sum of the masses of the paths, for p = 1."""
    h = jnp.full((1, 2), start)
    for _ in range(STEPS):
        h = state(params, h, lambda h: h) + jnp.ones((1, 3)) @ params["u"] + more
    return jnp.sum(h)


@pytest.mark.parametrize("start", [0.0, 2.0])
@pytest.mark.parametrize(
    "function, more", [(plain, 0.0), (nested, 0.0), (beside_a_clock, 1.0)]
)
def test_constants_are_carried_as_what_they_become(function, more, start):
    network = pathsgd.trace_network(
        lambda params, x: function(params, jnp.full((x.shape[0], 2), start), x),
        PARAMS,
        networks.spec(1, STEPS, 3),
    )
    sizes = jax.tree.map(jnp.abs, PARAMS)
    phi, slopes = jax.value_and_grad(total)(sizes, start, more)
    np.testing.assert_allclose(pathsgd.path_norm(network, PARAMS, 1), phi, rtol=1e-5)
    jax.tree.map(
        lambda found, slope: np.testing.assert_allclose(found, slope**2, rtol=1e-5),
        pathsgd.path_scaling(network, PARAMS, 1),
        slopes,
    )


def test_what_a_scan_takes_neither_at_first_nor_later_is_named():
    def apply(params, x):
        def step(h, row):
            return state(params, h, jnp.exp) + row @ params["u"], None

        return lax.scan(step, jnp.zeros((1, 2)), jnp.swapaxes(x, 0, 1))[0]

    with pytest.raises(ValueError, match=r"^exp at test_scans.py.*a parameter enters"):
        pathsgd.trace_network(apply, PARAMS, networks.spec(1, STEPS, 3))


def handed_on(params, x):
    def step(carry, _):
        w, u, h = carry
        return (w, u, jax.nn.relu(h @ w)), h @ u

    (w, u, h), rows = lax.scan(step, (params["w"], params["u"], x), None, STEPS)
    return h @ w + rows.sum(0) @ u


def handed_on_by_a_loop(params, x):
    def body(_, carry):
        w, h, total = carry
        return w, jax.nn.relu(h @ w), total + h @ params["u"]

    start = (params["w"], x, jnp.zeros((x.shape[0], 2)))
    w, h, total = lax.fori_loop(0, STEPS, body, start)
    return h @ w + total @ params["u"]


def unrolled(params, x):
    h, total = x, jnp.zeros((x.shape[0], 2))
    for _ in range(STEPS):
        h, total = jax.nn.relu(h @ params["w"]), total + h @ params["u"]
    return h @ params["w"] + total @ params["u"]


@pytest.mark.parametrize("function", [handed_on, handed_on_by_a_loop])
def test_weights_that_a_scan_hands_on_are_weights(function):
    params = networks.random_like({"w": networks.spec(2, 2), "u": networks.spec(2, 2)})
    found, wanted = (
        pathsgd.trace_network(apply, params, networks.spec(1, 2))
        for apply in (function, unrolled)
    )
    assert found.parameters == wanted.parameters
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5),
        pathsgd.path_scaling(found, params),
        pathsgd.path_scaling(wanted, params),
    )


def gated_by_the_last(params, carry, row):
    """What the step before has found is a gate."""
    return jax.nn.sigmoid(row @ params["g"]), carry * (row @ params["w"])


def cell(params, carry, row):
    """An LSTM's."""
    h, c = carry
    z = row @ params["kernel"] + h @ params["u"] + params["b"]
    i, f, g, o = jnp.split(z, 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def growing(params, carry, row):
    """By a constant."""
    return carry + 0.5, (carry + 10.0) * (row @ params["w"]) + row @ params["g"]


WIDTH = 2
SHAPES = {"w": (3, WIDTH), "g": (3, WIDTH), "u": (WIDTH, 4 * WIDTH)} | {
    "kernel": (3, 4 * WIDTH),
    "b": (4 * WIDTH,),
    "out": (WIDTH, 2),
}


def looped(step, carry, rows):
    """What `lax.scan` does, one step after the other."""
    found = []
    for row in rows:
        carry, out = step(carry, row)
        found.append(out)
    return carry, jnp.stack(found)


def gated_network(step, start, loop):
    """A loop over three rows, and its parameters."""
    params = networks.random_like({k: networks.spec(*v) for k, v in SHAPES.items()})

    def apply_fn(params, x):
        rows = x.swapaxes(0, 1)
        carry = start(jax.nn.sigmoid(rows[0] @ params["g"]))
        found = loop(lambda *args: step(params, *args), carry, rows)[1]
        return found.sum(0) @ params["out"]

    with jax.numpy_rank_promotion("allow"):
        network = pathsgd.trace_network(
            apply_fn, params, jnp.ones((2, STEPS, 3)), gates=True
        )
    return network, params


def gated_paths(step, start, loop):
    """The scaling of a loop over three rows."""
    network, params = gated_network(step, start, loop)
    labels = network.labels()
    scaling = pathsgd.path_scaling(network, params)
    return {name: x for name, x in scaling.items() if labels[name] != "no path"}


def steering(params, z, row):
    """A bounded state that does nothing but steer."""
    after = jax.nn.sigmoid(row @ params["g"] + z @ params["u"][:, :WIDTH])
    return after, z * (row @ params["w"])


def minimal(params, h, row):
    """A minimal gated unit's, whose gate multiplies a bias in the first step."""
    f = jax.nn.sigmoid(row @ params["g"])
    n = jnp.tanh(row @ params["w"] + f * (h @ params["u"][:, :WIDTH] + params["b"][0]))
    h = (1.0 - f) * n + f * h
    return h, h


CELLS = {
    "a gate": (gated_by_the_last, jnp.ones_like),
    "a state that steers": (steering, jnp.ones_like),
    "a minimal gated unit": (minimal, jnp.zeros_like),
    "an LSTM": (cell, lambda gate: (jnp.zeros_like(gate), jnp.zeros_like(gate))),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_scan_carries_gates_as_a_loop_does(name):
    one, other = (gated_paths(*CELLS[name], loop) for loop in (lax.scan, looped))
    chex.assert_trees_all_close(one, other, rtol=1e-5)


def phi_of_steering(q):
    """Each state but the last one is a gate, that of a sigmoid without its offset."""
    x, u = jnp.ones(3), q["u"][:, :WIDTH]
    gates, z = 0.0, jnp.ones(WIDTH)
    for _ in range(STEPS - 1):
        logits = x @ q["g"] + z @ u
        gates, z = gates + jnp.sum(logits), logits / 4**2 + 1 / 2**2
    return gates + STEPS * jnp.sum(x @ q["w"] @ q["out"])


@pytest.mark.parametrize("loop", [lax.scan, looped])
def test_a_state_that_steers_has_the_paths_of_its_logits(loop):
    params = weights(**{name: SHAPES[name] for name in ("g", "u", "w", "out")})

    def apply_fn(params, x):
        rows = x.swapaxes(0, 1)
        start = jnp.ones((len(x), WIDTH))
        found = loop(lambda *args: steering(params, *args), start, rows)[1]
        return found.sum(0) @ params["out"]

    check(apply_fn, phi_of_steering, params, jnp.ones((2, STEPS, 3)))


def test_what_grows_from_step_to_step_is_no_gate():
    scaling = gated_paths(growing, lambda gate: gate, lax.scan)
    assert scaling.keys() == {"w", "g", "out"}


def test_a_gate_of_zeros_is_no_unit():
    network, _ = gated_network(minimal, jnp.zeros_like, lax.scan)
    ends = {x.path: x.end for x in network.parameters}
    assert ends["['g']"] == "gate"
    assert ends["['w']"] == "output"
