"""Networks to trace, each with what it makes of path masses.

The network itself, run on the masses ``abs(w)**p`` and an input of ones, gives the path
mass, if its constants are masses too: `EDGE` is their power. ``on_masses`` is another
way to run it where that isn't so: where inputs are integers, for one.
"""

import contextvars
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn, nnx
from jax import lax

from tests.networks import MLP, ScanMLP, spec


EDGE = contextvars.ContextVar("the power of the network's own constants", default=None)


class Case(NamedTuple):
    """``apply(params, x)``, its arguments, and what it is on masses."""

    apply: Any
    params: Any
    x: Any
    on_masses: Any


def lenient(apply):
    """Flax promotes dtypes, which the tests' strict mode forbids."""

    @functools.wraps(apply)
    def call(*args):
        with jax.numpy_dtype_promotion("standard"):
            return apply(*args)

    return call


def random_params(shapes, seed=0, dtype=np.float64):
    """Gaussian leaves that are well away from 0."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        sign = rng.choice([-1, 1], leaf.shape)
        return jnp.asarray((sign * rng.uniform(0.3, 1.2, leaf.shape)).astype(dtype))

    return jax.tree.map(draw, shapes)


def linen_case(model, *shape, **kwargs):
    """A linen module without state."""
    x = spec(3, *shape, dtype=jnp.float64)
    init = lenient(functools.partial(model.init, **kwargs))
    shapes = jax.eval_shape(init, jax.random.key(0), x)["params"]

    @lenient
    def apply(params, x):
        return model.apply({"params": params}, x, **kwargs)

    return Case(apply, random_params(shapes), x, apply)


class Lambda(nn.Module):
    """A compact module from a function."""

    function: Any

    @nn.compact
    def __call__(self, x):
        """Calls the function."""
        return self.function(x)


def _linen(function, *shape):
    return lambda: linen_case(Lambda(function), *shape)


def _pooled(x):
    axes = tuple(range(1, x.ndim - 1))
    return nn.Dense(2)(jnp.mean(x, axes) * _edge(math.prod(x.shape[1:-1])))


def _edge(n):
    """What turns an average over n into n edges of mass ``(1/n)**p``."""
    return 1.0 if EDGE.get() is None else float(n) ** (1 - EDGE.get())


def _average_pooled(x):
    x = nn.avg_pool(nn.Conv(2, (3, 3))(x), (2, 2), (2, 2)) * _edge(4)
    return _pooled(nn.relu(x))


def _residual(x):
    x = nn.relu(nn.Conv(3, (3, 3))(x))
    y = nn.relu(nn.Conv(3, (3, 3))(x))
    y = nn.Conv(3, (3, 3), use_bias=False)(y)
    return _pooled(nn.relu(x + y))


def _dense_net(x):
    for _ in range(2):
        x = jnp.concatenate([x, nn.relu(nn.Conv(2, (3,))(x))], -1)
    return _pooled(x)


def _u_net(x):
    skip = nn.relu(nn.Conv(2, (3, 3))(x))
    x = nn.relu(nn.Conv(2, (3, 3), strides=2)(skip))
    x = jax.image.resize(x, skip.shape, "nearest")
    return nn.Conv(1, (1, 1))(jnp.concatenate([skip, x], -1))


def _bilinear(x):
    x = nn.Conv(2, (3, 3))(x)
    if EDGE.get() is None:
        x = jax.image.resize(x, (x.shape[0], 6, 6, 2), "bilinear")
    else:
        weights = jax.image.resize(jnp.eye(3), (6, 3), "bilinear") ** EDGE.get()
        x = jnp.einsum("ai,bj,nijc->nabc", weights, weights, x)
    return _pooled(nn.relu(x))


def _prelu(x):
    return nn.Dense(2)(nn.PReLU()(nn.Dense(4)(x)))


def _leaky(x):
    return nn.Dense(2)(nn.leaky_relu(nn.Dense(4)(x), 0.2))


def _abs(x):
    return nn.Dense(2)(jnp.abs(nn.Dense(4)(x)))


def _dropped(x):
    x = nn.relu(nn.Dense(4)(x))
    return nn.Dense(2)(nn.Dropout(0.5, deterministic=True)(x))


def _general(x):
    return nn.DenseGeneral((2, 2), (-2, -1))(
        nn.relu(nn.DenseGeneral((3, 2), (-2, -1))(x))
    )


def _remat(x):
    x = nn.remat(MLP)((4, 3))(x)
    return nn.Dense(2)(x)


def _mixed(x):
    dtype = jnp.bfloat16 if EDGE.get() is None else jnp.float64
    x = nn.Dense(4, dtype=dtype)(x)
    return nn.Dense(2)(nn.relu(x).astype(jnp.float64))


def _rnn(x):
    cell = nn.SimpleCell(3, activation_fn=nn.relu, param_dtype=jnp.float64)
    return nn.Dense(2)(nn.RNN(cell)(x)[:, -1])


def _bias_only(x):
    return nn.Dense(2)(nn.relu(x + nn.Dense(3)(jnp.ones((1, 2), x.dtype))))


def _nnx(model, *shape):
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @lenient
    def apply(params, x):
        return nnx.merge(graph, params, rest)(x)

    return Case(apply, random_params(params), spec(2, *shape, dtype=jnp.float64), apply)


def _nnx_mlp():
    rngs = nnx.Rngs(0)
    layers = [nnx.Linear(3, 4, rngs=rngs), nnx.relu, nnx.Linear(4, 2, rngs=rngs)]
    return _nnx(nnx.Sequential(*layers), 3)


def _nnx_conv():
    rngs = nnx.Rngs(0)
    layers = [
        nnx.Conv(2, 3, (3, 3), rngs=rngs),
        nnx.relu,
        lambda x: nnx.avg_pool(x, (2, 2), (2, 2)) * _edge(4),
        lambda x: x.reshape(x.shape[0], -1),
        nnx.Linear(12, 2, rngs=rngs),
    ]
    return _nnx(nnx.Sequential(*layers), 4, 4, 2)


def _plain(apply, shapes, *shape):
    params = random_params({k: spec(*v) for k, v in shapes.items()})
    apply = lenient(apply)
    return Case(apply, params, spec(2, *shape, dtype=jnp.float64), apply)


def _tied():
    def apply(params, x):
        return jax.nn.relu(x @ params["w"]) @ params["w"].T

    return _plain(apply, {"w": (3, 4)}, 3)


def _lora():
    def apply(params, x):
        scale = 0.5 if EDGE.get() is None else 0.5 ** EDGE.get()
        w = params["w"] + scale * params["a"] @ params["b"]
        return jax.nn.relu(x @ w) @ params["v"]

    shapes = {"w": (3, 4), "a": (3, 2), "b": (2, 4), "v": (4, 2)}
    return _plain(apply, shapes, 3)


def _sliced():
    def apply(params, x):
        w = params["w"]
        hidden = jax.nn.relu(x @ w[:12].reshape(3, 4) + w[None, 12:16])
        return hidden @ w[16:].reshape(2, 4).T

    return _plain(apply, {"w": (24,)}, 3)


def _loop():
    def apply(params, x):
        def step(x, w):
            x = jax.checkpoint(jax.nn.relu)(x @ w + params["b"][None])
            return x, jnp.sum(x, -1)

        x, sums = lax.scan(step, x, params["w"])
        return jnp.concatenate([x, sums.T], -1) @ params["v"]

    return _plain(apply, {"w": (3, 4, 4), "b": (4,), "v": (7, 2)}, 4)


def _scanned_twice():
    def apply(params, x):
        def step(x, w):
            return lax.scan(lambda x, _: (jax.nn.relu(x @ w), None), x, None, 2)[
                0
            ], None

        return lax.scan(step, x, params["w"], reverse=True)[0]

    return _plain(apply, {"w": (2, 3, 3)}, 3)


def _jitted():
    @jax.jit
    def layer(w, x):
        y = x @ w
        return jnp.where(y > 0, y, 0)

    def apply(params, x):
        return layer(params["v"], layer(params["w"], x))

    return _plain(apply, {"w": (3, 4), "v": (4, 2)}, 3)


def _scaled():
    def apply(params, x):
        if (p := EDGE.get()) is not None:
            x = x * params["s"] * 3.0**-p + 2.0**p * params["t"]
        else:
            x = jax.nn.relu(x * params["s"] / 3.0 - 2.0 * params["t"])
        return jnp.cumsum(x, 1)[:, ::2]

    return _plain(apply, {"s": (1, 5), "t": (1, 5)}, 5)


def _embedding():
    model = nn.Sequential([nn.Embed(5, 3), nn.relu, lambda x: x.sum(1), nn.Dense(2)])
    x = spec(2, 4, dtype=jnp.int32)
    init = lenient(model.init)
    params = random_params(jax.eval_shape(init, jax.random.key(0), x)["params"])

    def on_masses(params, x):
        rows = 4 * params["layers_0"]["embedding"].sum(0, keepdims=True)
        last = params["layers_3"]
        return rows @ last["kernel"] + last["bias"][None]

    return Case(
        lenient(lambda w, x: model.apply({"params": w}, x)), params, x, on_masses
    )


def _language_model():
    def apply(params, tokens):
        def step(h, x):
            h = jax.nn.relu(x + h @ params["h"])
            return h, h

        x = jnp.take(params["table"], tokens, axis=0)
        start = jnp.zeros((tokens.shape[0], 3), x.dtype)
        _, h = lax.scan(step, start, x.swapaxes(0, 1))
        return h[-1] @ params["table"].T

    def on_masses(params, _):
        x = params["table"].sum(0, keepdims=True)
        h = jnp.zeros_like(x)
        for _ in range(3):
            h = x + h @ params["h"]
        return h @ params["table"].T

    params = random_params({"table": spec(4, 3), "h": spec(3, 3)})
    return Case(apply, params, spec(2, 3, dtype=jnp.int32), on_masses)


CASES = {
    "MLP": lambda: linen_case(MLP((4, 4, 2)), 3),
    "general": _linen(_general, 2, 3),
    "Conv 1-d": _linen(lambda x: _pooled(nn.relu(nn.Conv(3, (3,))(x))), 6, 2),
    "Conv 2-d": _linen(lambda x: _pooled(nn.relu(nn.Conv(3, (3, 2))(x))), 4, 5, 2),
    "strided": _linen(
        lambda x: _pooled(nn.Conv(3, (3, 3), strides=2, padding="VALID")(x)), 6, 5, 2
    ),
    "dilated": _linen(
        lambda x: _pooled(nn.Conv(2, (3, 3), kernel_dilation=2)(x)), 5, 5, 2
    ),
    "grouped": _linen(
        lambda x: _pooled(nn.Conv(6, (3,), feature_group_count=2)(x)), 5, 4
    ),
    "depthwise": _linen(
        lambda x: _pooled(nn.Conv(6, (3,), feature_group_count=3)(x)), 5, 3
    ),
    "transposed": _linen(
        lambda x: _pooled(nn.ConvTranspose(2, (3, 3), strides=(2, 2))(x)), 3, 3, 2
    ),
    "transposed kernel": _linen(
        lambda x: _pooled(nn.ConvTranspose(2, (3,), transpose_kernel=True)(x)), 4, 3
    ),
    "circular": _linen(
        lambda x: _pooled(nn.Conv(2, (3, 3), padding="CIRCULAR")(x)), 4, 4, 2
    ),
    "average pooling": _linen(_average_pooled, 4, 4, 1),
    "residual": _linen(_residual, 3, 3, 2),
    "concatenating": _linen(_dense_net, 4, 2),
    "U-Net": _linen(_u_net, 4, 4, 1),
    "bilinear": _linen(_bilinear, 3, 3, 1),
    "leaky ReLU": _linen(_leaky, 3),
    "PReLU": _linen(_prelu, 3),
    "abs": _linen(_abs, 3),
    "dropout off": _linen(_dropped, 3),
    "nn.scan": lambda: linen_case(ScanMLP(3, (3,)), 2),
    "nn.remat": _linen(_remat, 3),
    "mixed dtypes": _linen(_mixed, 3),
    "nn.RNN": _linen(_rnn, 3, 2),
    "learned input": _linen(_bias_only, 3),
    "nnx MLP": _nnx_mlp,
    "nnx Conv": _nnx_conv,
    "tied": _tied,
    "LoRA": _lora,
    "sliced": _sliced,
    "lax.scan": _loop,
    "scan in scan": _scanned_twice,
    "jit inside": _jitted,
    "scaled": _scaled,
    "embedding": _embedding,
    "language model": _language_model,
}
