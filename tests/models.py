"""Models that people train, small: each of its published layout, in linen.

They are of one or two blocks, on images of 8 by 8 pixels or on six tokens.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tests import resnets


VOCABULARY, T, D, CLASSES = 11, 6, 8, 3
"""Sizes: of the vocabulary, sequences, the stream, and of what is predicted."""

dense_attention = functools.partial(nn.MultiHeadDotProductAttention, num_heads=2)


class Model(NamedTuple):
    """A module that classifies, or predicts tokens, and the inputs that it is given."""

    module: nn.Module
    inputs: Callable[[jax.Array], tuple[jax.Array, ...]]


def images(key):
    """A batch of images."""
    return (jax.random.normal(key, (4, 8, 8, 3)),)


def tokens(key):
    """A batch of rows of tokens."""
    return (jax.random.randint(key, (4, T), 0, VOCABULARY),)


def noised(key):
    """Images, and their times."""
    return *images(key), jax.random.uniform(key, (4,))


class MLP(nn.Module):
    """Two layers, with a nonlinearity between them."""

    act: Callable = nn.gelu

    @nn.compact
    def __call__(self, x):
        """Of the width of its input."""
        return nn.Dense(x.shape[-1])(self.act(nn.Dense(2 * x.shape[-1])(x)))


class Attention(nn.Module):
    """Attention alone, averaged."""

    @nn.compact
    def __call__(self, x):
        """Logits of tokens."""
        x = nn.Embed(VOCABULARY, D)(x)
        return nn.Dense(CLASSES)(dense_attention()(x, x).mean(1))


class Block(nn.Module):
    """A block of a transformer, normalised at its entrances."""

    norm: Callable = nn.LayerNorm
    mlp: Callable = MLP

    @nn.compact
    def __call__(self, x, mask=None):
        """Adds attention and an MLP to the stream."""
        x = x + dense_attention()(self.norm()(x), mask=mask)
        return x + self.mlp()(self.norm()(x))


class ViT(nn.Module):
    """A vision transformer with a class token."""

    @nn.compact
    def __call__(self, x):
        """Logits of images."""
        x = nn.Conv(D, (4, 4), (4, 4))(x).reshape(x.shape[0], -1, D)
        first = self.param("class", nn.initializers.normal(0.02), (1, 1, D))
        x = jnp.concatenate([jnp.tile(first, (x.shape[0], 1, 1)), x], 1)
        x = x + self.param("places", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        return nn.Dense(CLASSES)(nn.LayerNorm()(Block()(x))[:, 0])


class GPT(nn.Module):
    """A decoder, whose table is its last layer as well."""

    @nn.compact
    def __call__(self, x):
        """Logits of the tokens that follow."""
        table, mask = nn.Embed(VOCABULARY, D), nn.make_causal_mask(x)
        x = table(x) + nn.Embed(T, D)(jnp.arange(T)[None])
        return table.attend(nn.LayerNorm()(Block()(x, mask)))


class SwiGLU(nn.Module):
    """A gated unit's two layers up, and the one down."""

    @nn.compact
    def __call__(self, x):
        """Of the width of its input."""
        dense = functools.partial(nn.Dense, use_bias=False)
        return dense(D)(nn.silu(dense(2 * D)(x)) * dense(2 * D)(x))


def rotated(x):
    """Rotary position embedding of heads ``(batch, T, heads, width)``."""
    half = x.shape[-1] // 2
    angles = np.arange(T)[:, None, None] / 10_000 ** (np.arange(half) / half)
    cos, sin = jnp.cos(angles)[None], jnp.sin(angles)[None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


class Rotary(nn.Module):
    """Causal attention with rotary positions, of grouped queries."""

    @nn.compact
    def __call__(self, x):
        """Of the width of its input."""
        project = functools.partial(nn.DenseGeneral, use_bias=False)
        q, k, v = (project((heads, 4))(x) for heads in (2, 1, 1))
        k, v = (jnp.repeat(y, 2, 2) for y in (k, v))
        mask = nn.make_causal_mask(x[..., 0])
        y = nn.dot_product_attention(rotated(q), rotated(k), v, mask=mask)
        return project(D, (-2, -1))(y)


class LLaMA(nn.Module):
    """A decoder with RMSNorm, rotary positions and SwiGLU."""

    @nn.compact
    def __call__(self, x):
        """Logits of the tokens that follow."""
        x = nn.Embed(VOCABULARY, D)(x)
        x = x + Rotary()(nn.RMSNorm()(x))
        x = x + SwiGLU()(nn.RMSNorm()(x))
        return nn.Dense(VOCABULARY, use_bias=False)(nn.RMSNorm()(x))


class T5(nn.Module):
    """An encoder and a decoder, whose attentions have biases by distance."""

    @nn.compact
    def __call__(self, x):
        """Logits of the tokens that follow, from the row itself."""
        table = nn.Embed(VOCABULARY, D)
        distances = np.arange(T)[:, None] - np.arange(T)
        bias = jnp.moveaxis(nn.Embed(2 * T - 1, 2)(distances + T - 1), -1, 0)
        biased = functools.partial(nn.dot_product_attention, bias=bias)
        attend = functools.partial(
            dense_attention, use_bias=False, attention_fn=_without(biased)
        )
        norm = functools.partial(nn.RMSNorm, epsilon=1e-6)
        read = table(x)
        read = read + attend()(norm()(read))
        read = norm()(read + MLP(nn.relu)(norm()(read)))
        y = table(x)
        y = y + attend()(norm()(y), mask=nn.make_causal_mask(x))
        y = y + dense_attention(use_bias=False)(norm()(y), read)
        y = y + MLP(nn.relu)(norm()(y))
        return table.attend(norm()(y))


def _without(attention):
    """An attention function that is given its own bias."""

    def call(query, key, value, bias=None, **kwargs):
        return attention(query, key, value, **kwargs)

    return call


class ResNet(nn.Module):
    """Two bottleneck blocks, as they train."""

    @nn.compact
    def __call__(self, x):
        """Logits of images."""
        x = nn.Conv(D, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=False)(x))
        for stride in (1, 2):
            x = resnets.Bottleneck(4, stride, train=True)(x)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class ConvNeXt(nn.Module):
    """A block with a depthwise convolution and a scale of its branch."""

    @nn.compact
    def __call__(self, x):
        """Logits of images."""
        x = nn.LayerNorm()(nn.Conv(D, (2, 2), (2, 2))(x))
        y = nn.LayerNorm()(nn.Conv(D, (3, 3), feature_group_count=D)(x))
        x = x + MLP()(y) * self.param("scale", nn.initializers.constant(1e-6), (D,))
        return nn.Dense(CLASSES)(nn.LayerNorm()(x.mean((1, 2))))


class Inverted(nn.Module):
    """A block that widens, with a depthwise convolution and squeeze-and-excite."""

    act: Callable
    gate: Callable

    @nn.compact
    def __call__(self, x):
        """Adds the block to its input."""
        norm = functools.partial(nn.BatchNorm, use_running_average=False)
        wide = 2 * x.shape[-1]
        y = self.act(norm()(nn.Conv(wide, (1, 1), use_bias=False)(x)))
        y = nn.Conv(wide, (3, 3), feature_group_count=wide, use_bias=False)(y)
        y = self.act(norm()(y))
        squeezed = nn.relu(nn.Dense(4)(y.mean((1, 2), keepdims=True)))
        y = y * self.gate(nn.Dense(wide)(squeezed))
        return x + norm()(nn.Conv(x.shape[-1], (1, 1), use_bias=False)(y))


class MobileNet(nn.Module):
    """A stem and an inverted block: MobileNetV3, or EfficientNet."""

    act: Callable
    gate: Callable

    @nn.compact
    def __call__(self, x):
        """Logits of images."""
        x = nn.Conv(D, (3, 3), (2, 2), use_bias=False)(x)
        x = self.act(nn.BatchNorm(use_running_average=False)(x))
        return nn.Dense(CLASSES)(Inverted(self.act, self.gate)(x).mean((1, 2)))


class Mixer(nn.Module):
    """An MLP over places, and one over channels."""

    @nn.compact
    def __call__(self, x):
        """Logits of images."""
        x = nn.Conv(D, (2, 2), (2, 2))(x).reshape(x.shape[0], -1, D)
        y = jnp.swapaxes(nn.LayerNorm()(x), 1, 2)
        x = x + jnp.swapaxes(MLP()(y), 1, 2)
        x = x + MLP()(nn.LayerNorm()(x))
        return nn.Dense(CLASSES)(nn.LayerNorm()(x).mean(1))


class Timed(nn.Module):
    """A block of a U-Net: convolutions with GroupNorm, and the time between them."""

    width: int

    @nn.compact
    def __call__(self, x, time):
        """Adds the block to its input."""
        y = nn.Conv(self.width, (3, 3))(nn.silu(nn.GroupNorm(None, 4)(x)))
        y = y + nn.Dense(self.width)(nn.silu(time))[:, None, None]
        y = nn.Conv(self.width, (3, 3))(nn.silu(nn.GroupNorm(None, 4)(y)))
        return nn.Conv(self.width, (1, 1))(x) + y


class UNet(nn.Module):
    """Down and up again, with a connection across, and attention below."""

    @nn.compact
    def __call__(self, x, time):
        """An image for an image."""
        angles = time[:, None] * 2.0 ** jnp.arange(4)[None]
        time = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
        time = nn.Dense(D)(nn.silu(nn.Dense(D)(time)))
        x = nn.Conv(D, (3, 3))(x)
        across = Timed(D)(x, time)
        y = nn.avg_pool(across, (2, 2), (2, 2))
        places = nn.GroupNorm(None, 4)(y).reshape(y.shape[0], -1, D)
        y = y + dense_attention()(places).reshape(y.shape)
        y = jax.image.resize(y, across.shape, "nearest")
        y = Timed(D)(jnp.concatenate([across, y], -1), time)
        return nn.Conv(CLASSES, (3, 3))(nn.silu(nn.GroupNorm(None, 4)(y)))


class Recurrent(nn.Module):
    """A recurrent layer."""

    cell: Callable

    @nn.compact
    def __call__(self, x):
        """Logits of rows."""
        x = nn.RNN(self.cell(D))(nn.Embed(VOCABULARY, D)(x))
        return nn.Dense(CLASSES)(x[:, -1])


class Experts(nn.Module):
    """A mixture of four experts, of which each token takes two."""

    @nn.compact
    def __call__(self, x):
        """Logits of the tokens that follow."""
        x = nn.Embed(VOCABULARY, D)(x)
        h = nn.RMSNorm()(x)
        shares, chosen = jax.lax.top_k(nn.Dense(4, use_bias=False)(h), 2)
        init = nn.initializers.lecun_normal(batch_axis=(0,))
        up, down = (self.param(name, init, (4, D, D)) for name in ("up", "down"))
        each = nn.relu(jnp.einsum("btd,edh->bteh", h, up))
        each = jnp.einsum("bteh,ehd->bted", each, down)
        taken = jnp.take_along_axis(each, chosen[..., None], 2)
        x = x + jnp.sum(nn.softmax(shares)[..., None] * taken, 2)
        return nn.Dense(VOCABULARY)(nn.RMSNorm()(x))


MODELS = {
    "attention": Model(Attention(), tokens),
    "ViT": Model(ViT(), images),
    "GPT": Model(GPT(), tokens),
    "LLaMA": Model(LLaMA(), tokens),
    "T5": Model(T5(), tokens),
    "ResNet": Model(ResNet(), images),
    "ConvNeXt": Model(ConvNeXt(), images),
    "EfficientNet": Model(MobileNet(nn.silu, nn.sigmoid), images),
    "MobileNetV3": Model(MobileNet(nn.hard_swish, nn.hard_sigmoid), images),
    "Mixer": Model(Mixer(), images),
    "U-Net": Model(UNet(), noised),
    "LSTM": Model(Recurrent(nn.OptimizedLSTMCell), tokens),
    "GRU": Model(Recurrent(nn.GRUCell), tokens),
    "experts": Model(Experts(), tokens),
}
