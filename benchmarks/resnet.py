"""A small residual network, and an unbalanced start that leaves its function."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

import pathsgd_optax as pathsgd
from benchmarks.architectures import (
    GAUSSIAN,
    UNBALANCED_SHARE,
    Architecture,
    Variables,
)
from benchmarks.datasets import Dataset


STAGES = (1, 2, 4)
"""Blocks of so many times the width; each but the first halves the image's sides."""

# Flax's average over 100 steps is far behind where an epoch has 15.
BatchNorm = functools.partial(nn.BatchNorm, momentum=0.9)


def _conv(width: int, size: int = 3, stride: int = 1, **options: Any) -> nn.Conv:
    return nn.Conv(
        width,
        (size, size),
        (stride, stride),
        use_bias=False,
        kernel_init=GAUSSIAN,
        **options,
    )


class Block(nn.Module):
    """Two convolutions, added to their input, with dropout between them."""

    width: int
    stride: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """What the next block sees."""
        norm = functools.partial(BatchNorm, not train)
        y = _conv(self.width, stride=self.stride, name="inner")(x)
        y = nn.relu(norm(name="inner_norm")(y))
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        y = norm(name="outer_norm")(_conv(self.width, name="outer")(y))
        if x.shape != y.shape:
            x = _conv(self.width, 1, self.stride, name="shortcut")(x)
            x = norm(name="shortcut_norm")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A convolution, three residual blocks, the average over the image, the scores."""

    width: int
    classes: int
    image_shape: tuple[int, int, int]
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The scores of each class, shape ``(..., classes)``, from rows of images."""
        x = x.reshape(*x.shape[:-1], *self.image_shape)
        x = nn.relu(BatchNorm(not train)(_conv(self.width)(x)))
        for factor in STAGES:
            stride = 1 if factor == 1 else 2
            x = Block(factor * self.width, stride, self.dropout)(x, train)
        return nn.Dense(self.classes, kernel_init=GAUSSIAN)(jnp.mean(x, (-3, -2)))


def _make(dataset: Dataset, width: int, dropout: float) -> ResNet:
    return ResNet(width, dataset.classes, dataset.image_shape, dropout)


def unbalance(variables: Variables, key: jax.Array) -> Variables:
    """Multiplies random channels inside of the blocks by 10 c, and divides them again.

    As the paper's unbalanced start, with c log-normal and a quarter as many picks as
    channels, with replacement. BatchNorm on a minibatch hides the scale of the
    convolution before it, so its own scale and shift are what is multiplied, and the
    kernel of the convolution after it is divided.

    Args:
      variables: those of a `ResNet`.
      key: decides the channels and the factors.

    Returns:
      Variables of the same function, in training as well, but for rounding.
    """
    params = dict(variables["params"])
    names = [name for name in params if name.startswith("Block_")]
    sizes = [len(params[name]["inner_norm"]["scale"]) for name in names]
    factors = _factors(key, sum(sizes))
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes) - 1)]
    for name, factor in zip(names, jnp.split(factors, ends), strict=True):
        params[name] = _rescale(params[name], factor)
    return {**variables, "params": params}


def _factors(key: jax.Array, channels: int) -> jax.Array:
    """What each channel is multiplied by."""
    pick, draw = jax.random.split(key)
    count = round(channels * UNBALANCED_SHARE)
    picked = jax.random.randint(pick, (count,), 0, channels)
    c = jnp.exp(jax.random.normal(draw, (count,)))
    return jnp.ones(channels).at[picked].multiply(10 * c)


def _rescale(block: Any, factor: jax.Array) -> dict[str, Any]:
    norm = {name: leaf * factor for name, leaf in block["inner_norm"].items()}
    kernel = block["outer"]["kernel"] / factor[None, None, :, None]
    return {**block, "inner_norm": norm, "outer": {"kernel": kernel}}


def _trace(model: nn.Module, variables: Variables, images: jax.Array) -> Any:
    return pathsgd.trace_linen(model, variables, images, gates=True)


RESNET = Architecture(_make, unbalance, _trace, together=False)
