"""Where paths end: one output of a function, or several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import pathsgd_optax as pathsgd
from tests import networks


PARAMS = {
    "body": jnp.float32(np.arange(12.0).reshape(3, 4) - 5),
    "policy": jnp.float32(np.arange(8.0).reshape(4, 2) - 3),
    "value": jnp.float32([[1], [-2], [3], [0.5]]),
}


def heads(params, x):
    h = jax.nn.relu(x @ params["body"])
    return h @ params["policy"], h @ params["value"]


def joined(params, x):
    """The same paths, to one output."""
    return jnp.concatenate(heads(params, x), -1)


OUTPUTS = {
    "tuple": heads,
    "dictionary": lambda params, x: dict(
        zip(("policy", "value"), heads(params, x), strict=True)
    ),
    "nested": lambda params, x: {
        "critic": heads(params, x)[1:],
        "actor": heads(params, x)[0],
    },
    "squeezed": lambda params, x: (heads(params, x)[0], heads(params, x)[1][:, 0]),
    "images": lambda params, x: [y[:, None, None] for y in heads(params, x)],
}


@pytest.mark.parametrize("name, p", [*zip(OUTPUTS, (2, 1, 3.5, 2, 1), strict=True)])
def test_all_outputs_are_ends_of_paths(name, p):
    x = networks.spec(5, 3)
    found, wanted = (
        pathsgd.trace_network(function, PARAMS, x)
        for function in (OUTPUTS[name], joined)
    )
    for measure in (pathsgd.path_norm, pathsgd.path_scaling):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
            measure(found, PARAMS, p),
            measure(wanted, PARAMS, p),
        )


def test_heads_of_a_linen_module_may_be_sequences_of_their_own():
    class Heads(nn.Module):
        @nn.compact
        def __call__(self, x):
            """Returns an actor's and a critic's outputs."""
            x = nn.relu(nn.Dense(4)(x))
            return nn.Dense(2)(x), nn.Dense(1)(x)[:, 0]

    x = networks.spec(5, 3)
    variables = Heads().init(jax.random.key(0), jnp.ones((1, 3)))
    network = pathsgd.trace_linen(Heads(), variables, x)
    assert {parameter.uses for parameter in network.parameters} == {1}
    assert network.labels()["Dense_2"] == {"kernel": "path", "bias": "path"}


REFUSED = {
    r"outputs\[1\] of apply_fn are not floating values that depend on x and": (
        lambda h, x: (h, jnp.ones_like(h))
    ),
    r"outputs\['x'\] of apply_fn are not floating": lambda h, x: {"h": h, "x": x},
    r"outputs\['ids'\] .* Return the others alone": (
        lambda h, x: {"h": h, "ids": jnp.argmax(x, -1)}
    ),
    r"outputs\[1\] of shape \(\) for a batch of 5.* without statistics": (
        lambda h, x: (h, h.sum())
    ),
    r"outputs of shape \(2, 5\) .* axis 1 .* jnp.moveaxis\(outputs, 1, 0\)": (
        lambda h, x: h.T
    ),
    r"outputs of shape \(5, 5\) .* not a row for each example": (lambda h, x: h @ h.T),
    "returns no arrays": lambda h, x: (),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_paths_do_not_end_in_is_refused(message):
    function = REFUSED[message]
    with pytest.raises(ValueError, match=message):
        pathsgd.trace_network(
            lambda w, x: function(x @ w, x), jnp.ones((3, 2)), networks.spec(5, 3)
        )


def members(params, x):
    """An ensemble, whose outputs are of shape (2, batch)."""
    return jax.vmap(lambda w: (x @ w)[:, 0])(params)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_an_ensemble_is_traced_as_the_message_says(batch):
    params = jnp.float32(np.arange(6.0).reshape(2, 3, 1))
    x = networks.spec(batch, 3)
    with pytest.raises(ValueError, match="not a row for each example"):
        pathsgd.trace_network(members, params, x)
    network = pathsgd.trace_network(
        lambda params, x: jnp.moveaxis(members(params, x), 1, 0), params, x
    )
    np.testing.assert_allclose(pathsgd.path_norm(network, params, 1), 15)


ACTIVATIONS = {
    "a deviation": (lambda h: jnp.exp(jnp.clip(h, -4, 0)), 1, 1),
    "... that is used": (lambda h: 1 - 2 * jnp.exp(jnp.minimum(h, 0.0)), 2, 1),
    "an inverse": (lambda h: 1 / (1 + jnp.abs(h)), 1, 1),
    "a root": (lambda h: jnp.sqrt(1 + h * h), 1, 1),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_functions_of_an_array_end_paths_as_activations(name):
    """Their largest slope from 0 times the paths of the array, and their value at 0."""
    function, slope, origin = ACTIVATIONS[name]
    params, x = jnp.float32([[1], [-2], [3]]), networks.spec(5, 3)
    network = pathsgd.trace_network(lambda w, x: function(x @ w), params, x, gates=True)
    wanted = 6 * slope + origin
    np.testing.assert_allclose(pathsgd.path_norm(network, params, 1), wanted, rtol=0.01)
    shares = pathsgd.path_scaling(network, params, 1)
    np.testing.assert_allclose(shares, np.full((3, 1), slope**2), rtol=0.02)
