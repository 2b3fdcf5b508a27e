"""Trains networks with one hidden layer on small images: figure 1 of the paper."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from numpy.typing import NDArray

from benchmarks import datasets, train
from benchmarks.datasets import Dataset


SIDE = 10
"""Larger images are resized to 100 pixels."""

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""How bright red, green and blue are (ITU-R BT.601)."""

BATCH_SIZE = 100

STEP_SIZE = 0.1
STEP_SIZE_FACTOR = 0.99
MOMENTUM = 0.5
MOMENTUM_INCREASE = 0.02
LARGEST_MOMENTUM = 0.9

IMAGES = {"most_pixels": SIDE**2, "standardised": True}

SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {
        "batch_size": BATCH_SIZE,
        **IMAGES,
        "step_size": STEP_SIZE,
        "step_size_factor": STEP_SIZE_FACTOR,
        "momentum": MOMENTUM,
        "momentum_increase": MOMENTUM_INCREASE,
        "largest_momentum": LARGEST_MOMENTUM,
    },
    "lbfgs": {"method": "lbfgs", **IMAGES},
}
"""What all runs of a method have in common.

The step size and the momentum are those of the caption of figure 1. Section 2 has a
batch method, too, conjugate gradients; L-BFGS is the nearest that Optax has.
"""


class Schedule(NamedTuple):
    """The step size and the momentum of an epoch."""

    step_size: float
    momentum: float


class Points(NamedTuple):
    """Images as rows, and their classes."""

    images: jax.Array
    labels: jax.Array


class Data(NamedTuple):
    """What is trained on, what decides when to stop, and what is tested on."""

    train: Points
    validation: Points
    test: Points
    classes: int


class Measurement(NamedTuple):
    """The state of training after an epoch, as `train.Measurement`."""

    epoch: int
    train_loss: float
    train_error: float
    validation_error: float
    test_error: float
    seconds: float


class OneLayer(nn.Module):
    """A hidden layer of ReLU units without biases, from Gaussian weights."""

    hidden_units: int
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The scores of each class, shape ``(..., classes)``."""
        del train
        gaussian = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        x = nn.Dense(self.hidden_units, use_bias=False, kernel_init=gaussian)(x)
        return nn.Dense(self.classes, use_bias=False, kernel_init=gaussian)(nn.relu(x))


def prepare(dataset: Dataset) -> Data:
    """Makes the images gray, small and standardised, and holds out validation points.

    The caption doesn't say how the pixels were scaled. From 0 to 1, its step sizes
    shrink before any network of up to 512 units has learned all of MNIST's training
    points.
    """
    held_out = datasets.hold_out(dataset)
    shape = dataset.image_shape
    train = _points(held_out.train_images, held_out.train_labels, shape)
    validation = _points(held_out.test_images, held_out.test_labels, shape)
    test = _points(dataset.test_images, dataset.test_labels, shape)
    mean, deviation = jnp.mean(train.images), jnp.std(train.images)

    def standardise(points: Points) -> Points:
        return points._replace(images=(points.images - mean) / deviation)

    return Data(
        standardise(train), standardise(validation), standardise(test), dataset.classes
    )


def _points(
    images: NDArray[np.float32], labels: NDArray[np.int32], shape: tuple[int, int, int]
) -> Points:
    return Points(shrink(images.reshape(-1, *shape)), jnp.asarray(labels))


def shrink(images: NDArray[np.float32]) -> jax.Array:
    """Gray images of at most 10 by 10 pixels.

    Args:
      images: gray or colour images, shape ``(points, height, width, channels)``.

    Returns:
      Their pixels as rows, shape ``(points, pixels)``.
    """
    gray = images @ LUMA if images.shape[-1] == len(LUMA) else images[..., 0]
    small = (len(gray), *(min(side, SIDE) for side in gray.shape[1:]))
    return jax.image.resize(gray, small, "linear").reshape(len(gray), -1)


def schedule(epoch: int) -> Schedule:
    """The step size and the momentum of an epoch, counted from 0."""
    return Schedule(
        STEP_SIZE * STEP_SIZE_FACTOR**epoch,
        min(LARGEST_MOMENTUM, MOMENTUM + MOMENTUM_INCREASE * epoch),
    )


def _sgd(values: Schedule) -> optax.GradientTransformation:
    return optax.sgd(values.step_size, momentum=values.momentum)


def train_network(
    data: Data, hidden_units: int, seed: int, epochs: int
) -> Iterator[Measurement]:
    """Trains by SGD with momentum.

    Args:
      data: what to learn.
      hidden_units: the size of the network.
      seed: the seed of the weights and of the order of the points.
      epochs: how many epochs to train for.

    Yields:
      A measurement after each epoch.
    """
    model = OneLayer(hidden_units, data.classes)
    start, order = jax.random.split(jax.random.key(seed))

    def advance(state: train.State, epoch: int) -> train.State:
        return train.train_epoch(
            state,
            schedule(epoch),
            jax.random.fold_in(order, epoch),
            *data.train,
            model=model,
            make_optimizer=_sgd,
            batch_size=BATCH_SIZE,
        )

    return _measured(data, model, start, _sgd(schedule(0)), advance, epochs)


def train_on_all_points(
    data: Data, hidden_units: int, seed: int, steps: int
) -> Iterator[Measurement]:
    """Trains by L-BFGS, whose steps take all points, as `train_network`."""
    model = OneLayer(hidden_units, data.classes)
    start, _ = jax.random.split(jax.random.key(seed))

    def advance(state: train.State, step: int) -> train.State:
        del step
        return _lbfgs_step(state, *data.train, model=model)

    return _measured(data, model, start, optax.lbfgs(), advance, steps)


METHODS = {"sgd": train_network, "lbfgs": train_on_all_points}
"""The ways to train, each from the same weights."""


def _measured(
    data: Data,
    model: OneLayer,
    key: jax.Array,
    optimizer: optax.GradientTransformation,
    advance: Callable[[train.State, int], train.State],
    epochs: int,
) -> Iterator[Measurement]:
    """Starts from random weights, and measures after each epoch."""
    params = jax.jit(model.init)(key, data.train.images[:1])["params"]
    state = train.State(params, optimizer.init(params))
    for epoch in range(epochs):
        began = time.perf_counter()
        state = advance(state, epoch)
        jax.block_until_ready(state)
        seconds = time.perf_counter() - began
        yield Measurement(epoch + 1, *_measure(model, state.params, data), seconds)


@functools.partial(jax.jit, static_argnames="model")
def _lbfgs_step(
    state: train.State, images: jax.Array, labels: jax.Array, *, model: nn.Module
) -> train.State:
    def loss(params: train.Params) -> jax.Array:
        key = jax.random.key(0)
        value, _ = train.objective(params, None, model, key, images, labels)
        return value

    value, grad = optax.value_and_grad_from_state(loss)(
        state.params, state=state.optimizer
    )
    updates, memory = optax.lbfgs().update(
        grad, state.optimizer, state.params, value=value, grad=grad, value_fn=loss
    )
    return train.State(optax.apply_updates(state.params, updates), memory)


def _measure(
    model: nn.Module, params: train.Params, data: Data
) -> tuple[float, float, float, float]:
    loss, train_error = train.measure(model, params, *data.train)
    _, validation_error = train.measure(model, params, *data.validation)
    _, test_error = train.measure(model, params, *data.test)
    return loss, train_error, validation_error, test_error
