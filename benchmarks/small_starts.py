"""Networks that start with a small or zero layer, and short training from them."""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

import pathsgd_optax as pathsgd
from benchmarks import train
from benchmarks.architectures import GAUSSIAN, PERCEPTRON, Architecture, Variables
from benchmarks.datasets import Dataset
from benchmarks.resnet import RESNET


USUAL = "usual"
"""The start that the others are compared with."""

MIDDLE_BIAS = 0.1
"""With biases of 0, the units behind a kernel of zeros would never learn."""

BLOCKS = 3

BATCH_SIZE = 100

LAST_STEPS = 15
"""The steps, an epoch of the digits, whose mean objective is recorded."""


Start: TypeAlias = Callable[[train.Params], train.Params]


class Residual(nn.Module):
    """A layer, residual blocks of two layers each, a layer; without normalisation."""

    width: int
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The scores of each class, shape ``(..., classes)``."""
        del train
        dense = functools.partial(nn.Dense, kernel_init=GAUSSIAN)
        x = dense(self.width, name="first")(x)
        for k in range(BLOCKS):
            y = nn.relu(dense(self.width, name=f"inner_{k}")(x))
            x = x + dense(self.width, name=f"outer_{k}")(y)
        return dense(self.classes, name="last")(nn.relu(x))


def _make_residual(dataset: Dataset, width: int, dropout: float) -> Residual:
    del dropout
    return Residual(width, dataset.classes)


def _trace(
    model: nn.Module, variables: Variables, images: jax.Array
) -> pathsgd.PathNetwork:
    return pathsgd.trace_linen(model, variables, images)


NETWORKS = {
    "mlp": PERCEPTRON,
    "residual": Architecture(_make_residual, lambda variables, _: variables, _trace),
    "resnet": RESNET,
}


def _with_leaf(*path: str, factor: float) -> Start:
    """Multiplies the leaf at this path."""

    def scaled(params: train.Params) -> train.Params:
        *nodes, name = path
        if not nodes:
            return {**params, name: factor * params[name]}
        first, *rest = nodes
        inner = _with_leaf(*rest, name, factor=factor)
        return {**params, first: inner(params[first])}

    return scaled


def _zero_middle(params: train.Params) -> train.Params:
    middle = params["Dense_1"]
    bias = jnp.full_like(middle["bias"], MIDDLE_BIAS)
    kernel = jnp.zeros_like(middle["kernel"])
    return {**params, "Dense_1": {"kernel": kernel, "bias": bias}}


def _zero_branches(params: train.Params) -> train.Params:
    for k in range(BLOCKS):
        params = _with_leaf(f"outer_{k}", "kernel", factor=0.0)(params)
    return params


def _zero_scales(params: train.Params) -> train.Params:
    for k in range(BLOCKS):
        params = _with_leaf(f"Block_{k}", "outer_norm", "scale", factor=0.0)(params)
    return params


STARTS: dict[str, dict[str, Start]] = {
    "mlp": {
        USUAL: lambda params: params,
        "last layer x 0.1": _with_leaf("Dense_2", "kernel", factor=0.1),
        "last layer x 0.01": _with_leaf("Dense_2", "kernel", factor=0.01),
        "last layer x 0.001": _with_leaf("Dense_2", "kernel", factor=0.001),
        "last layer 0": _with_leaf("Dense_2", "kernel", factor=0.0),
        "middle layer 0": _zero_middle,
    },
    "residual": {
        USUAL: lambda params: params,
        "branches 0": _zero_branches,
        "last layer 0": _with_leaf("last", "kernel", factor=0.0),
    },
    "resnet": {
        USUAL: lambda params: params,
        "branches 0": _zero_scales,
        "last layer 0": _with_leaf("Dense_0", "kernel", factor=0.0),
    },
}
"""What each start makes of the usual parameters."""


class Outcome(NamedTuple):
    """The objective on minibatches: the first, the largest, the mean of the last."""

    first_loss: float
    largest_loss: float
    last_loss: float
    seconds: float


def run(
    task: train.Task,
    start: Start,
    make_optimizer: train.MakeOptimizer,
    learning_rate: float,
    seed: int,
    steps: int,
) -> Outcome:
    """Trains for a few steps.

    Args:
      task: what to learn, by which network.
      start: what to make of its usual parameters.
      make_optimizer: makes the optimizer from a traced step size.
      learning_rate: the step size.
      seed: the seed of the weights and of the order of the points.
      steps: how many minibatches.

    Returns:
      What was seen on the way.
    """
    began = time.perf_counter()
    variables = train.initialize(task, "balanced", seed)
    variables = {**variables, "params": start(variables["params"])}
    points = jnp.asarray(task.dataset.train_images), task.dataset.train_labels
    losses = _losses(
        variables,
        learning_rate,
        jax.random.key(seed),
        *points,
        model=train.model_of(task),
        make_optimizer=make_optimizer,
        batch_size=task.batch_size,
        steps=steps,
    )
    first, largest, last = map(float, _summary(losses))
    return Outcome(first, largest, last, time.perf_counter() - began)


def _summary(losses: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    return losses[0], jnp.max(losses), jnp.mean(losses[-LAST_STEPS:])


@functools.partial(
    jax.jit, static_argnames=("model", "make_optimizer", "batch_size", "steps")
)
def _losses(
    variables: Variables,
    learning_rate: jax.Array,
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    *,
    model: nn.Module,
    make_optimizer: train.MakeOptimizer,
    batch_size: int,
    steps: int,
) -> jax.Array:
    """The objective of every step, on the minibatch before the step."""
    optimizer = make_optimizer(learning_rate)

    def step(state: train.State, chosen: jax.Array) -> tuple[train.State, jax.Array]:
        (loss, averages), grads = jax.value_and_grad(train.objective, has_aux=True)(
            state.params, state.averages, model, key, images[chosen], labels[chosen]
        )
        updates, memory = optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        return train.State(params, memory, averages), loss

    each = len(images) // batch_size
    orders = jax.random.split(key, -(-steps // each))
    shuffled = jax.vmap(lambda key: jax.random.permutation(key, len(images)))(orders)
    batches = shuffled[:, : each * batch_size].reshape(-1, batch_size)[:steps]
    return lax.scan(step, train.start(variables, optimizer), batches)[1]
