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


def normalised(h, scale, bias):
    h = h - jnp.mean(h, -1, keepdims=True)
    size = jnp.sqrt(jnp.mean(jnp.square(h), -1, keepdims=True) + 1e-5)
    return h / size * scale + bias


def transformer(p, ids):
    h = p["embedding"][ids]
    for block in p["blocks"]:
        x = normalised(h, block["ln1"], block["ln1_b"])
        q, k, v = (x @ block[name] + block[name + "_b"] for name in "qkv")
        h = h + jax.nn.softmax(q @ k.swapaxes(-1, -2)) @ v @ block["o"] + block["o_b"]
        x = normalised(h, block["ln2"], block["ln2_b"])
        h = h + jax.nn.gelu(x @ block["f"] + block["f_b"]) @ block["g"] + block["g_b"]
    return normalised(h, p["ln"], p["ln_b"]) @ p["embedding"].T


def transformer_params(std):
    def kernel(i):
        return std * jax.random.normal(jax.random.key(i), (8, 8))

    def block(i):
        kernels = {name: kernel(10 * i + j) for j, name in enumerate("qkvofg")}
        norms = {name: jnp.ones(8) for name in ("ln1", "ln2")}
        return kernels | norms | {f"{x}_b": jnp.zeros(8) for x in kernels | norms}

    ends = {"embedding": kernel(99), "ln": jnp.ones(8), "ln_b": jnp.zeros(8)}
    return ends | {"blocks": [block(1), block(2)]}


def transformer_symmetries(params):
    """Of each block, and of the stream, which the tied embedding is part of."""
    found = [
        ("blocks/{i}/" + text).replace(" ", f" blocks/{i}/").format(i=i)
        for i in (0, 1)
        for text in (
            "q:1 q_b:1 k:-1",
            "k_b:1",
            "v:1 v_b:1 o:-1",
            "ln1:1 ln1_b:1 q:-1 k:-1 v:-1",
            "ln2:1 ln2_b:1 f:-1",
        )
    ]
    stream = [f"blocks/{i}/{x}:1" for i in (0, 1) for x in ("o", "o_b", "g", "g_b")]
    found.append(" ".join(["embedding:1 ln:-1 ln_b:-1", *stream]))
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    exponents = [dict(item.split(":") for item in text.split()) for text in found]
    return [[float(each.get(path, 0)) for path in paths] for each in exponents]


@pytest.mark.parametrize("std", [0.25, 0.02])
def test_those_of_a_transformer_are_all_found_but_no_others(std):
    params = transformer_params(std)
    ids = jax.random.randint(jax.random.key(0), (3, 6), 0, 8)
    with jax.numpy_rank_promotion("allow"):
        found = pathsgd.scale_symmetries(transformer, params, ids)
    expected = transformer_symmetries(params)
    basis = [jax.tree.leaves(tree) for tree in found]
    ranks = [np.linalg.matrix_rank(rows) for rows in (basis, [*basis, *expected])]
    assert [len(found), *ranks] == [len(expected)] * 3


def test_a_branch_that_starts_small_is_part_of_its_stream():
    def function(p, x):
        branch = jax.nn.relu(x @ p["a"]) @ p["b"]
        return rms(x @ p["e"] + p["g"][None] * branch) @ p["h"]

    shapes = {"a": (0, 6, 16), "b": (1, 16, 6), "e": (7, 6, 6), "h": (3, 6, 2)}
    params = {"g": jnp.full(6, 1e-6)} | {
        name: jax.random.normal(jax.random.key(seed), shape) / shape[0] ** 0.5
        for name, (seed, *shape) in shapes.items()
    }
    x = jax.random.normal(jax.random.key(9), (8, 6)) / 8**0.5
    found = pathsgd.scale_symmetries(function, params, x)
    basis = [[tree[name] for name in "abeg"] for tree in found]
    expected = [[1, 0, 0, -1], [0, 1, 0, -1], [0, 0, 1, 1]]
    ranks = [np.linalg.matrix_rank(rows) for rows in (basis, [*basis, *expected])]
    assert [len(found), *ranks] == [3, 3, 3]


def test_a_layer_that_starts_at_zero_has_those_of_its_place():
    params = {"a": SQUARE["a"], "b": jnp.zeros((6, 6))}
    function = lambda p, x: x + (x @ p["a"]) @ p["b"]  # noqa: E731
    assert pathsgd.scale_symmetries(function, params, X) == ({"a": 1.0, "b": -1.0},)


def test_numpy_arrays_of_float64_are_taken_as_jax_takes_them():
    params = {name: np.asarray(SQUARE[name], np.float64) for name in "ab"}
    found = pathsgd.scale_symmetries(lambda p, x: x @ p["a"] @ p["b"], params, X)
    assert found == ({"a": 1.0, "b": -1.0},)


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


def test_parameters_on_an_explicit_mesh():
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    specs = {"a": jax.P(None, "d"), "b": jax.P("d", None)}
    function = lambda p, x: jnp.matmul(  # noqa: E731
        jax.nn.relu(x @ p["a"]), p["b"], out_sharding=jax.P()
    )
    with jax.set_mesh(mesh):
        params = {name: jax.device_put(SQUARE[name], specs[name]) for name in specs}
        found = pathsgd.scale_symmetries(function, params, np.asarray(X[0]))
    assert found == ({"a": 1.0, "b": -1.0},)
