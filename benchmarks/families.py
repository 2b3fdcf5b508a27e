"""Small networks of several kinds, widths and depths, with what they learn."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

import pathsgd_optax as pathsgd
from benchmarks import datasets, language, text
from benchmarks.architectures import GAUSSIAN
from benchmarks.decoder import BEFORE_RELU, HEAD_WIDTH
from benchmarks.resnet import BatchNorm, ResNet
from benchmarks.train import Params


class Problem(NamedTuple):
    """A network: what it starts at, its objective, minibatches, and its paths."""

    initialize: Callable[[int], Params]
    objective: Callable[[Params, jax.Array], jax.Array]
    batches: Callable[[int, int], jax.Array]
    network: pathsgd.PathNetwork


Make: TypeAlias = Callable[[], Problem]


class Dense(nn.Module):
    """Hidden layers of ReLU units."""

    width: int
    depth: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The scores of each class, shape ``(..., 10)``."""
        del train
        for _ in range(self.depth):
            x = nn.relu(nn.Dense(self.width, kernel_init=BEFORE_RELU)(x))
        return nn.Dense(10)(x)


class Residual(nn.Module):
    """Blocks of two layers, added to what they read, which LayerNorm has normalised."""

    width: int
    depth: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The scores of each class, shape ``(..., 10)``."""
        del train
        last = nn.initializers.variance_scaling(1 / self.depth, "fan_in", "normal")
        x = nn.Dense(self.width)(x)
        for _ in range(self.depth):
            y = nn.Dense(self.width, kernel_init=BEFORE_RELU)(nn.LayerNorm()(x))
            x = x + nn.Dense(self.width, kernel_init=last)(nn.relu(y))
        return nn.Dense(10)(nn.LayerNorm()(x))


def _conv(width: int, stride: int = 1) -> nn.Conv:
    return nn.Conv(
        width, (3, 3), (stride, stride), use_bias=False, kernel_init=GAUSSIAN
    )


class FourLayers(nn.Module):
    """Four convolutions with BatchNorm, the last two beside a skip; the scores."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The scores of each class, shape ``(..., 10)``, from rows of 8 x 8 pixels."""
        norm = functools.partial(BatchNorm, not train)
        x = x.reshape(*x.shape[:-1], 8, 8, 1)
        x = nn.relu(norm()(_conv(self.width)(x)))
        x = nn.relu(norm()(_conv(2 * self.width, 2)(x)))
        y = nn.relu(norm()(_conv(2 * self.width)(x)))
        y = norm()(_conv(2 * self.width)(y))
        x = nn.relu(x + y)
        return nn.Dense(10, kernel_init=GAUSSIAN)(jnp.mean(x, (-3, -2)))


class PreActivation(nn.Module):
    """Three blocks, each of which normalises what it reads; the scores."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The scores of each class, shape ``(..., 10)``, from rows of 8 x 8 pixels."""
        norm = functools.partial(BatchNorm, not train)
        x = _conv(self.width)(x.reshape(*x.shape[:-1], 8, 8, 1))
        for _ in range(3):
            y = _conv(self.width)(nn.relu(norm()(x)))
            x = x + _conv(self.width)(nn.relu(norm()(y)))
        x = nn.relu(norm()(x))
        return nn.Dense(10, kernel_init=GAUSSIAN)(jnp.mean(x, (-3, -2)))


def _classifier(model: nn.Module, batch_size: int = 50) -> Problem:
    """Digits; BatchNorm normalises by minibatches, and its averages don't matter."""
    digits = datasets.load("digits")
    images, labels = jnp.asarray(digits.train_images), jnp.asarray(digits.train_labels)

    def variables(seed: int) -> Any:
        return jax.jit(model.init)(jax.random.key(seed), images[:1])

    averages = {name: x for name, x in variables(0).items() if name != "params"}

    def objective(params: Params, chosen: jax.Array) -> jax.Array:
        scores, _ = model.apply(
            {"params": params, **averages},
            images[chosen],
            train=True,
            mutable=list(averages),
        )
        scores = cast(jax.Array, scores)
        losses = pathsgd.truncated_softmax_cross_entropy(scores, labels[chosen])
        return jnp.mean(losses)

    def batches(seed: int, steps: int) -> jax.Array:
        each = len(images) // batch_size
        orders = jax.random.split(jax.random.key(100 + seed), -(-steps // each))
        shuffle = jax.vmap(lambda key: jax.random.permutation(key, len(images)))
        whole = shuffle(orders)[:, : each * batch_size]
        return whole.reshape(-1, batch_size)[:steps]

    gates = not isinstance(model, Dense)
    network = pathsgd.trace_linen(model, variables(0), images[:1], gates=gates)
    return Problem(lambda seed: variables(seed)["params"], objective, batches, network)


def _images(make: Callable[[int], nn.Module], width: int) -> Make:
    return lambda: _classifier(make(width), batch_size=100)


def _units(make: Callable[[int, int], nn.Module], width: int, depth: int) -> Make:
    return lambda: _classifier(make(width, depth))


def _resnet(width: int) -> ResNet:
    return ResNet(width, 10, (8, 8, 1), 0.0)


def _decoder(width: int, depth: int) -> Make:
    def make() -> Problem:
        source = text.python_sources()
        task = language.Task(source, width // HEAD_WIDTH, depth, 8, 200)

        def batches(seed: int, steps: int) -> jax.Array:
            shape = steps, task.batch_size
            pieces = language.windows(task.context, source.train, seed, *shape)
            return jnp.asarray(pieces)

        return Problem(
            lambda seed: language.initialize(task, "balanced", seed)["params"],
            functools.partial(language.objective, model=language.model_of(task)),
            batches,
            language.paths_of(task),
        )

    return make


FAMILIES: dict[str, dict[str, Make]] = {
    "dense": {
        "dense, 64 x 2": _units(Dense, 64, 2),
        "dense, 512 x 2": _units(Dense, 512, 2),
        "dense, 64 x 8": _units(Dense, 64, 8),
    },
    "residual": {
        "LayerNorm, 64 x 2": _units(Residual, 64, 2),
        "LayerNorm, 512 x 2": _units(Residual, 512, 2),
        "LayerNorm, 64 x 8": _units(Residual, 64, 8),
    },
    "convolutional": {
        "BatchNorm, ResNet": _images(_resnet, 8),
        "BatchNorm, four layers": _images(FourLayers, 8),
        "BatchNorm, pre-activation": _images(PreActivation, 8),
    },
    "decoder": {
        "decoder, 32 x 2": _decoder(32, 2),
        "decoder, 128 x 2": _decoder(128, 2),
        "decoder, 32 x 8": _decoder(32, 8),
    },
}
"""How to make each network, of a width and a depth, by the kind and the name."""

STEPS = {"dense": 200, "residual": 200, "convolutional": 300, "decoder": 200}
"""Minibatches of a run, by the kind."""
