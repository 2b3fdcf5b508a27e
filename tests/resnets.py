"""ResNets with torchvision's architecture, in linen."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax


STAGES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}

BatchNorm = functools.partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)


class Basic(nn.Module):
    """Two 3 x 3 convolutions."""

    width: int
    stride: int
    train: bool

    @nn.compact
    def __call__(self, x):
        """Adds the block to its input."""
        norm = functools.partial(BatchNorm, not self.train)
        y = _conv(self.width, 3, self.stride)(x)
        y = nn.relu(norm()(y))
        y = norm()(_conv(self.width, 3)(y))
        return nn.relu(_shortcut(x, y, self.stride, norm) + y)


class Bottleneck(nn.Module):
    """A 3 x 3 convolution between two 1 x 1 ones."""

    width: int
    stride: int
    train: bool

    @nn.compact
    def __call__(self, x):
        """Adds the block to its input."""
        norm = functools.partial(BatchNorm, not self.train)
        y = nn.relu(norm()(_conv(self.width, 1)(x)))
        y = nn.relu(norm()(_conv(self.width, 3, self.stride)(y)))
        y = norm()(_conv(4 * self.width, 1)(y))
        return nn.relu(_shortcut(x, y, self.stride, norm) + y)


def max_pool(x):
    """The largest of 3 x 3."""
    return nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])


def sum_pool(x):
    """The sum of 3 x 3."""
    return nn.pooling.pool(x, 0.0, lax.add, (3, 3), (2, 2), [(1, 1), (1, 1)])


class ResNet(nn.Module):
    """ResNet of this depth, with 1000 classes."""

    depth: int
    train: bool = False
    pool: Callable[[jax.Array], jax.Array] = max_pool

    @nn.compact
    def __call__(self, x):
        """The logits."""
        block = Basic if self.depth < 50 else Bottleneck
        x = _conv(64, 7, 2)(x)
        x = nn.relu(BatchNorm(not self.train)(x))
        x = self.pool(x)
        for stage, blocks in enumerate(STAGES[self.depth]):
            for k in range(blocks):
                stride = 2 if stage and not k else 1
                x = block(64 * 2**stage, stride, self.train)(x)
        return nn.Dense(1000)(jnp.mean(x, (1, 2)))


def _conv(width, size, stride=1):
    padding = [(size // 2, size // 2)] * 2
    return nn.Conv(width, (size, size), (stride, stride), padding, use_bias=False)


def _shortcut(x, y, stride, norm):
    if x.shape == y.shape:
        return x
    return norm()(_conv(y.shape[-1], 1, stride)(x))


def he_variables(depth, size=224, seed=0, dtype=np.float32):
    """He-normal kernels, BatchNorm as it starts."""
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    shapes = jax.eval_shape(ResNet(depth).init, jax.random.key(0), x)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            deviation = (2 / np.prod(leaf.shape[:-1])) ** 0.5
            return jnp.asarray(rng.normal(0, deviation, leaf.shape).astype(dtype))
        return jnp.full(leaf.shape, path[-1].key in ("scale", "var"), dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def log_path_norm(depth, variables, p, size):
    """In float64, by running the network on masses, where all means and biases are 0.

    A maximum has the paths of a sum, and an average over n has edges of ``1/n``.
    """

    @jax.jit
    def run(variables):
        wide = jax.tree.map(lambda x: x.astype(jnp.float64), variables)
        masses = jax.tree.map(lambda w: jnp.abs(w) ** p, wide["params"])
        # The root of the variance and epsilon, 1e-5, to the power p.
        factors = jax.tree.map(
            lambda x: x * ((1 + 1e-5) ** p - 1e-5), wide["batch_stats"]
        )
        outputs = ResNet(depth, pool=sum_pool).apply(
            {"params": masses, "batch_stats": factors},
            jnp.ones((1, size, size, 3), jnp.float64),
        )
        entries = (size / 32) ** 2
        return jnp.log(jnp.sum(outputs) * entries ** (1 - p)) / p

    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        return run(variables)
