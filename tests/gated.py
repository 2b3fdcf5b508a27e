"""Small networks with normalisation and gates, to train: a decoder and a ResNet.

Their norms have no epsilon, so that they are of no scale at all.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import pathsgd_optax as pathsgd


class Problem(NamedTuple):
    """A network with its start, and what it is to learn: a batch and labels."""

    apply: Any
    params: Any
    x: Any
    labels: Any

    def loss(self, params):
        """The mean loss of the batch."""
        with jax.numpy_rank_promotion("allow"):
            logits = self.apply(params, self.x)
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, self.labels
        ).mean()

    def network(self):
        """Its paths."""
        with jax.numpy_rank_promotion("allow"):
            return pathsgd.trace_network(self.apply, self.params, self.x, gates=True)


def weights(rng, shapes):
    """Kernels of deviation ``1/sqrt(fan_in)``, but biases and scales of 1."""

    def draw(shape, fan_in):
        return jnp.asarray(rng.normal(size=shape) / fan_in**0.5, jnp.float32)

    return {name: draw(*shape) for name, shape in shapes.items()}


# A decoder: two attentions, one of them with RoPE, a ReLU MLP and SwiGLU.

VOCABULARY, T, D, H, E, HIDDEN = 7, 6, 8, 2, 4, 12
"""The sizes of its vocabulary, places, stream, heads, entries of a head, and MLPs."""

MASK = np.tril(np.ones((T, T), bool))
ANGLES = np.arange(T)[:, None, None] / 100.0 ** (np.arange(E // 2) * 2 / E)


def layer_norm(x):
    """Of no epsilon, nor scale and shift."""
    x = x - jnp.mean(x, -1, keepdims=True)
    return x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True))


def rms_norm(x):
    """Of no epsilon, nor scale."""
    return x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True))


def rotated(x):
    """Rotary position embedding, of the pairs ``(e, e + E/2)``."""
    cos, sin = (f(ANGLES).astype(np.float32) for f in (np.cos, np.sin))
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attention(params, x, rotate=lambda x: x):
    """Causal attention of several heads."""
    q, k, v = (
        jnp.einsum("btd,dhe->bthe", x, params[n]) + params[f"bias_{n}"] for n in "qkv"
    )
    logits = jnp.einsum("bthe,bshe->bhts", rotate(q), rotate(k)) / E**0.5
    shares = jax.nn.softmax(jnp.where(MASK, logits, -1e30), -1)
    return jnp.einsum("bhts,bshe,hed->btd", shares, v, params["o"])


def decode(params, tokens):
    """The logits of what follows each token."""
    x = params["table"][tokens] + params["place"]
    h = layer_norm(x) * params["scale"] + params["shift"]
    x = x + attention(params["attention"], h)
    h = rms_norm(x)
    x = x + jax.nn.relu(h @ params["in"] + params["bias"]) @ params["out"]
    h = rms_norm(x) * params["rope_scale"]
    x = x + attention(params["rope"], h, rotated)
    h = rms_norm(x) * params["glu_scale"]
    x = x + (jax.nn.silu(h @ params["gate"]) * (h @ params["up"])) @ params["down"]
    return rms_norm(x) * params["last_scale"] @ params["logits"]


def decoder():
    """To learn by heart some rows of tokens."""
    rng = np.random.default_rng(0)
    scales = ("scale", "rope_scale", "glu_scale", "last_scale")
    heads = {n: ((D, H, E), D) for n in "qkv"} | {"o": ((H, E, D), H * E)}
    heads |= {f"bias_{n}": ((H, E), 10) for n in "qkv"}
    params = weights(
        rng,
        {
            "table": ((VOCABULARY, D), 1),
            "place": ((T, D), 1),
            "shift": ((D,), 10),
            "in": ((D, HIDDEN), D),
            "bias": ((HIDDEN,), 10),
            "out": ((HIDDEN, D), HIDDEN),
            "gate": ((D, HIDDEN), D),
            "up": ((D, HIDDEN), D),
            "down": ((HIDDEN, D), HIDDEN),
            "logits": ((D, VOCABULARY), D),
        },
    )
    params |= {name: jnp.ones(D) for name in scales}
    params |= {name: weights(rng, heads) for name in ("attention", "rope")}
    tokens = rng.integers(0, VOCABULARY, (8, T + 1))
    return Problem(decode, params, jnp.asarray(tokens[:, :-1]), tokens[:, 1:])


# A ResNet: a block with squeeze-and-excite, and LayerNorm in its head.

WIDTH, SQUEEZED, CLASSES = 4, 3, 3


def batch_norm(x):
    """By the statistics of the batch, of no epsilon, nor scale and shift."""
    x = x - jnp.mean(x, (0, 1, 2))
    return x * lax.rsqrt(jnp.mean(x * x, (0, 1, 2)))


def convolved(x, kernel):
    """A convolution that keeps the size."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=numbers
    )


def squeezed_and_excited(params, x):
    """Each channel of an image, by what all of them are on average."""
    hidden = jax.nn.relu(jnp.mean(x, (1, 2)) @ params["squeeze"] + params["bias"])
    gate = jax.nn.sigmoid(hidden @ params["excite"] + params["shift"])
    return x * gate[:, None, None]


def classify(params, x):
    """The logits of images."""
    x = batch_norm(convolved(x, params["stem"]) + params["stem_bias"])
    x = jax.nn.relu(x * params["stem_scale"] + params["stem_shift"])
    y = batch_norm(convolved(x, params["first"]))
    y = jax.nn.relu(y * params["scale"] + params["shift"])
    y = batch_norm(convolved(y, params["second"]))
    y = y * params["last_scale"] + params["last_shift"]
    x = jax.nn.relu(x + squeezed_and_excited(params["se"], y))
    h = layer_norm(jnp.mean(x, (1, 2)) @ params["head"] + params["head_bias"])
    return jax.nn.relu(h * params["head_scale"]) @ params["logits"]


def resnet():
    """To learn random labels of random images."""
    rng = np.random.default_rng(0)
    shapes = {
        "stem": ((3, 3, 2, WIDTH), 18),
        "first": ((3, 3, WIDTH, WIDTH), 9 * WIDTH),
        "second": ((3, 3, WIDTH, WIDTH), 9 * WIDTH),
        "head": ((WIDTH, 2 * WIDTH), WIDTH),
        "logits": ((2 * WIDTH, CLASSES), 2 * WIDTH),
    }
    biases = ("stem_bias", "stem_shift", "shift", "last_shift")
    scales = ("stem_scale", "scale", "last_scale")
    params = weights(rng, shapes | dict.fromkeys(biases, ((WIDTH,), 10)))
    params |= {name: jnp.ones(WIDTH) for name in scales}
    params |= weights(rng, {"head_bias": ((2 * WIDTH,), 10)})
    params["head_scale"] = jnp.ones(2 * WIDTH)
    params["se"] = weights(
        rng,
        {
            "squeeze": ((WIDTH, SQUEEZED), WIDTH),
            "bias": ((SQUEEZED,), 10),
            "excite": ((SQUEEZED, WIDTH), SQUEEZED),
            "shift": ((WIDTH,), 10),
        },
    )
    images = jnp.asarray(rng.normal(size=(12, 5, 5, 2)), jnp.float32)
    return Problem(classify, params, images, rng.integers(0, CLASSES, 12))


PROBLEMS = {"decoder": decoder, "resnet": resnet}
