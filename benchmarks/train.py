"""Trains networks, and measures them after every epoch."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

import pathsgd_optax as pathsgd
from benchmarks.architectures import PERCEPTRON, Architecture, Variables
from benchmarks.datasets import Dataset


INITS = ("balanced", "unbalanced")

MEASURED_AT_ONCE = 1000
"""Points whose hidden units are in memory together."""

Params: TypeAlias = Any
MakeOptimizer: TypeAlias = Callable[[Any], optax.GradientTransformation]


class Task(NamedTuple):
    """What is learned, by what network, from what minibatches."""

    dataset: Dataset
    width: int
    dropout: float
    batch_size: int
    architecture: Architecture = PERCEPTRON


class Measurement(NamedTuple):
    """The state of training after an epoch; a loss that diverged is not finite.

    A point without finite outputs counts as an error. ``seconds`` are those of the
    training alone; the first epoch of a program also compiles it.
    """

    epoch: int
    train_loss: float
    train_error: float
    test_error: float
    seconds: float


class State(NamedTuple):
    """What a training step changes; the averages are those that BatchNorm keeps."""

    params: Params
    optimizer: optax.OptState
    averages: Variables = None


def train(
    task: Task,
    make_optimizer: MakeOptimizer,
    learning_rate: float,
    init: str,
    seed: int,
    epochs: int,
) -> Iterator[Measurement]:
    """Trains from a balanced or an unbalanced start.

    The seed fixes the function that training starts at, the minibatches and the units
    that are dropped, whatever the optimizer and the initialisation.

    Args:
      task: what to learn.
      make_optimizer: makes the optimizer from a traced step size.
      learning_rate: the step size.
      init: one of `INITS`.
      seed: the seed of all that is random.
      epochs: how many epochs to train for.

    Yields:
      A measurement after each epoch.
    """
    dataset, model = task.dataset, model_of(task)
    train_points = jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels)
    test_points = jnp.asarray(dataset.test_images), jnp.asarray(dataset.test_labels)
    state = start(initialize(task, init, seed), make_optimizer(learning_rate))
    advance = functools.partial(
        train_epoch,
        model=model,
        make_optimizer=make_optimizer,
        batch_size=task.batch_size,
    )
    for epoch in range(1, epochs + 1):
        began = time.perf_counter()
        state = advance(state, learning_rate, epoch_key(seed, epoch), *train_points)
        jax.tree.leaves(state.params)[0].block_until_ready()
        seconds = time.perf_counter() - began
        params, averages = state.params, state.averages
        train_loss, train_error = measure(model, params, *train_points, averages)
        _, test_error = measure(model, params, *test_points, averages)
        yield Measurement(epoch, train_loss, train_error, test_error, seconds)


def model_of(task: Task) -> nn.Module:
    """The network that is trained."""
    return task.architecture.make(task.dataset, task.width, task.dropout)


def paths_of(task: Task) -> pathsgd.PathNetwork | None:
    """The network's paths, or None where an optimizer finds them itself."""
    images = jnp.asarray(task.dataset.train_images[:1])
    variables = initialize(task, "balanced", seed=0)
    return task.architecture.trace(model_of(task), variables, images)


def initialize(task: Task, init: str, seed: int) -> Variables:
    """What training starts at; the function is that of the seed alone."""
    key, unbalancing = jax.random.split(jax.random.key(seed))
    variables = _balanced(key, task.dataset.train_images[:1], model_of(task))
    if init == "balanced":
        return variables
    return task.architecture.unbalance(variables, unbalancing)


@functools.partial(jax.jit, static_argnames="model")
def _balanced(key: jax.Array, images: jax.Array, model: nn.Module) -> Variables:
    return model.init(key, images)


def start(variables: Variables, optimizer: optax.GradientTransformation) -> State:
    """The state before the first epoch."""
    params = variables["params"]
    averages = {name: leaf for name, leaf in variables.items() if name != "params"}
    return State(params, optimizer.init(params), averages or None)


def epoch_key(seed: int, epoch: int) -> jax.Array:
    """Decides what is random in an epoch of a run."""
    key = jax.random.fold_in(jax.random.key(seed), 1)
    return jax.random.fold_in(key, epoch)


def measure(
    model: nn.Module,
    params: Params,
    images: jax.Array,
    labels: jax.Array,
    averages: Variables = None,
) -> tuple[float, float]:
    """The mean objective and the share of errors, without dropout."""
    loss, wrong = total(params, averages, images, labels, model)
    return float(loss), int(wrong) / len(labels)


@functools.partial(
    jax.jit,
    static_argnames=("model", "make_optimizer", "batch_size"),
    donate_argnames="state",
)
def train_epoch(
    state: State,
    learning_rate: Any,
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    *,
    model: nn.Module,
    make_optimizer: MakeOptimizer,
    batch_size: int,
) -> State:
    """Runs through the points in a random order, in whole minibatches.

    Args:
      state: where training is.
      learning_rate: what the optimizer is made from, such as its step size.
      key: decides the order, and the units that are dropped.
      images: the points, shape ``(points, pixels)``.
      labels: their classes.
      model: the network.
      make_optimizer: makes the optimizer.
      batch_size: how many points a minibatch has.

    Returns:
      The state after the epoch.
    """
    optimizer = make_optimizer(learning_rate)

    def step(state: State, batch: tuple[jax.Array, jax.Array]) -> tuple[State, None]:
        chosen, key = batch
        grads, averages = jax.grad(objective, has_aux=True)(
            state.params, state.averages, model, key, images[chosen], labels[chosen]
        )
        updates, memory = optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(params, memory, averages), None

    shuffling, dropping = jax.random.split(key)
    steps = len(images) // batch_size
    order = jax.random.permutation(shuffling, len(images))[: steps * batch_size]
    batches = order.reshape(steps, batch_size), jax.random.split(dropping, steps)
    return lax.scan(step, state, batches)[0]


def objective(
    params: Params,
    averages: Variables,
    model: nn.Module,
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
) -> tuple[jax.Array, Variables]:
    """The mean over a minibatch, and the averages that it changes."""
    logits, changed = model.apply(
        {"params": params, **(averages or {})},
        images,
        train=True,
        rngs={"dropout": key},
        mutable=list(averages or {}),
    )
    losses = pathsgd.truncated_softmax_cross_entropy(cast(jax.Array, logits), labels)
    return jnp.mean(losses), changed or None


@functools.partial(jax.jit, static_argnames="model")
def total(
    params: Params,
    averages: Variables,
    images: jax.Array,
    labels: jax.Array,
    model: nn.Module,
) -> tuple[jax.Array, jax.Array]:
    """The mean objective and the number of errors."""
    variables = {"params": params, **(averages or {})}

    def point(example: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        image, label = example
        logits = cast(jax.Array, model.apply(variables, image))
        right = (jnp.argmax(logits) == label) & jnp.all(jnp.isfinite(logits))
        return pathsgd.truncated_softmax_cross_entropy(logits, label), ~right

    losses, wrong = lax.map(point, (images, labels), batch_size=MEASURED_AT_ONCE)
    return jnp.mean(losses), jnp.sum(wrong)
