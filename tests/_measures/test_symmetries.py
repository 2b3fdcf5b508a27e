"""Scalings of whole parameters, found by what networks do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import pathsgd_optax as pathsgd


X = jax.random.normal(jax.random.key(0), (3, 4, 6))


def normal(*shape):
    return jax.random.normal(jax.random.key(len(shape)), shape) / shape[0] ** 0.5


def rms(x):
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)


def mlp(p, x):
    h = jax.nn.relu(x @ p["a"] + p["bias"])
    return jax.nn.relu(h @ p["b"]) @ p["c"]


def attention(p, x):
    logits = (x @ p["q"]) @ jnp.swapaxes(x @ p["k"], -1, -2)
    return jax.nn.softmax(logits) @ (x @ p["v"]) @ p["o"]


def stream(p, x):
    h = x @ p["e"]
    h = h + jax.nn.relu(rms(h) @ p["a"]) @ p["b"]
    return rms(h) @ p["c"]


def batch_norm(p, x):
    h = x @ p["a"]
    h = (h - h.mean((0, 1), keepdims=True)) * jax.lax.rsqrt(
        h.var((0, 1), keepdims=True) + 1e-6
    )
    return jax.nn.relu(h * p["s"] + p["t"]) @ p["c"]


SQUARE = {name: normal(6, 6) for name in "abcekoqv"}

CASES = {
    "hidden layers": (mlp, "a b bias c", [[1, 0, 1, -1], [0, 1, 0, -1]]),
    "attention": (attention, "k o q v", [[1, 0, -1, 0], [0, 1, 0, -1]]),
    "a residual stream": (stream, "a b c e", [[1, -1, 0, 0], [0, 1, 0, 1]]),
    "BatchNorm": (batch_norm, "a c s t", [[1, 0, 0, 0], [0, 1, -1, -1]]),
    "a layer that is used twice": (
        lambda p, x: jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["a"]) @ p["b"],
        "a b",
        [[1, -2]],
    ),
    "SwiGLU, but for its gate": (
        lambda p, x: (jax.nn.silu(x @ p["a"]) * (x @ p["b"])) @ p["c"],
        "a b c",
        [[0, 1, -1]],
    ),
    "GELU": (lambda p, x: jax.nn.gelu(x @ p["a"]) @ p["b"], "a b", []),
    "a sum with the input": (lambda p, x: (x + x @ p["a"]) @ p["b"], "a b", []),
}


@pytest.mark.parametrize("case", CASES)
def test_the_scalings_that_leave_a_function_are_found(case):
    function, names, expected = CASES[case]
    vectors = {
        "bias": 0.1 * normal(1, 1, 6),
        "s": jnp.ones((1, 1, 6)),
        "t": jnp.zeros((1, 1, 6)),
    }
    params = {name: (SQUARE | vectors)[name] for name in names.split()}
    found = pathsgd.scale_symmetries(function, params, X)
    basis = [[tree[name] for name in names.split()] for tree in found]
    assert len(found) == len(expected)
    assert np.linalg.matrix_rank([*basis, *expected, [0] * len(params)]) == len(found)


def test_a_layer_that_starts_at_zero_has_those_of_its_place():
    params = {"a": SQUARE["a"], "b": jnp.zeros((6, 6))}
    function = lambda p, x: x + (x @ p["a"]) @ p["b"]  # noqa: E731
    assert pathsgd.scale_symmetries(function, params, X) == ({"a": 1.0, "b": -1.0},)


def test_modules_and_trees_of_inputs_and_outputs():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            h = nn.LayerNorm(epsilon=1e-6)(nn.Dense(8, use_bias=False)(inputs["x"]))
            return {"y": nn.Dense(3)(h), "ids": inputs["ids"]}

    inputs = {"x": X[0], "ids": jnp.arange(4)}
    params = Net().init(jax.random.key(0), inputs)["params"]
    found = pathsgd.scale_symmetries(
        lambda params, inputs: Net().apply({"params": params}, inputs), params, inputs
    )
    scaled = [
        {
            f"{layer}/{name}"
            for layer in tree
            for name in tree[layer]
            if tree[layer][name]
        }
        for tree in found
    ]
    assert scaled == [
        {"Dense_0/kernel"},
        {"Dense_1/kernel", "LayerNorm_0/bias", "LayerNorm_0/scale"},
    ]


@pytest.mark.parametrize(
    ("function", "params", "message"),
    [
        (mlp, {"a": jnp.arange(3)}, "params must be floating"),
        (mlp, {}, "params must be floating"),
        (lambda p, x: jnp.argmax(x @ p["a"]), SQUARE, "must return a floating array"),
        (lambda p, x: jnp.log(-jnp.abs(x @ p["a"])), SQUARE, "must return finite"),
    ],
)
def test_what_has_no_scalings_is_refused(function, params, message):
    with pytest.raises(ValueError, match=message):
        pathsgd.scale_symmetries(function, params, X)
