"""A small decoder-only transformer, and a start that unbalances it."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from benchmarks.architectures import UNBALANCED_SHARE, Variables


CONTEXT = 32
"""The most tokens that are read at once, unless it is told."""

HEAD_WIDTH = 16

EMBEDDED = nn.initializers.normal(0.5)

LINEAR = nn.initializers.variance_scaling(1.0, "fan_in", "normal")

BEFORE_RELU = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Block(nn.Module):
    """Causal attention and ReLU units, each added to what it read, normalised."""

    heads: int
    branch_scale: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """What the next block sees."""
        width = x.shape[-1]
        last = nn.initializers.variance_scaling(self.branch_scale, "fan_in", "normal")
        y = nn.RMSNorm(name="attention_norm")(x)
        attention = nn.MultiHeadDotProductAttention(
            self.heads,
            use_bias=False,
            kernel_init=LINEAR,
            out_kernel_init=last,
            name="attention",
        )
        x = x + attention(y, mask=nn.make_causal_mask(y[..., 0]))
        y = nn.RMSNorm(name="units_norm")(x)
        y = nn.relu(nn.Dense(4 * width, kernel_init=BEFORE_RELU, name="inner")(y))
        return x + nn.Dense(width, kernel_init=last, name="outer")(y)


class Decoder(nn.Module):
    """Characters and their positions, pre-norm blocks, the scores of the next one."""

    heads: int
    blocks: int
    vocabulary: int
    context: int = CONTEXT

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Scores, shape ``(batch, length, vocabulary)``, from ``(batch, length)``."""
        width, length = HEAD_WIDTH * self.heads, tokens.shape[-1]
        positions = self.param("positions", EMBEDDED, (self.context, width))
        x = nn.Embed(self.vocabulary, width, embedding_init=EMBEDDED)(tokens)
        x = x + positions[None, :length]
        for index in range(self.blocks):
            # All branches together add about as much as one alone would.
            x = Block(self.heads, 1 / (2 * self.blocks), name=f"block_{index}")(x)
        x = nn.RMSNorm(name="last_norm")(x)
        head = nn.Dense(self.vocabulary, False, kernel_init=LINEAR, name="head")
        return head(x)


def unbalance(variables: Variables, key: jax.Array) -> Variables:
    """Multiplies random units, values and queries by 10 c, and divides what follows.

    As the paper's unbalanced start, with c log-normal and 10 c rounded to a power of
    two, so that the function stays the same to the bit. It takes a quarter of each
    block's ReLU units, of the coordinates of its values, and of those of its queries,
    whose keys are divided.

    Args:
      variables: those of a `Decoder`.
      key: decides the units and the factors.

    Returns:
      Variables of the same function.
    """
    params = dict(variables["params"])
    blocks = sorted(name for name in params if name.startswith("block_"))
    keys = jax.random.split(key, (len(blocks), 3))
    for name, (units, values, queries) in zip(blocks, keys, strict=True):
        block = dict(params[name])
        block |= _rescaled_units(block["inner"], block["outer"], units)
        block["attention"] = _rescaled_heads(block["attention"], values, queries)
        params[name] = block
    return {**variables, "params": params}


def _rescaled_units(inner: Any, outer: Any, key: jax.Array) -> dict[str, Any]:
    factor = _factors(key, inner["bias"].shape)
    bias, kernel = inner["bias"] * factor, inner["kernel"] * factor[None]
    outer = {**outer, "kernel": outer["kernel"] / factor[:, None]}
    return {"inner": {"bias": bias, "kernel": kernel}, "outer": outer}


def _rescaled_heads(
    attention: Any, values: jax.Array, queries: jax.Array
) -> dict[str, Any]:
    kernels = {name: layer["kernel"] for name, layer in attention.items()}
    value = _factors(values, kernels["value"].shape[1:])
    query = _factors(queries, kernels["query"].shape[1:])
    return {
        "value": {"kernel": kernels["value"] * value[None]},
        "out": {"kernel": kernels["out"] / value[..., None]},
        "query": {"kernel": kernels["query"] * query[None]},
        "key": {"kernel": kernels["key"] / query[None]},
    }


def _factors(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Powers of two for a quarter of the entries, and one for the others."""
    pick, draw = jax.random.split(key)
    size = math.prod(shape)
    picked = jax.random.permutation(pick, size) < round(size * UNBALANCED_SHARE)
    exponents = jnp.round(jnp.log2(10 * jnp.exp(jax.random.normal(draw, (size,)))))
    exponents = jnp.where(picked, exponents, 0).astype(jnp.int32)
    return jnp.ldexp(jnp.ones(size), exponents).reshape(shape)
