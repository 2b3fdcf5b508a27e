"""The choice of a step size: several trained at once, and the fastest of them."""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import train


LEAST, GREATEST = 1e-10, 1e3
"""Where the search of a step size ends; the paper's is the least."""

MEMORY = 8 * 2**30
"""Bytes that runs in one program may take, by the estimate of `memory`."""


def groups(
    task: train.Task,
    make_optimizer: train.MakeOptimizer,
    learning_rates: Sequence[float],
) -> list[Sequence[float]]:
    """Splits step sizes into those that are trained in one program.

    On accelerators as many as `MEMORY` holds; there nothing has been measured. On a
    CPU each alone: on two cores the whole grid in one program took 1.0 to 1.7 times
    as long as one step size after another with 256 units on the digits, and 1.2 to
    1.9 times with 1000 units on MNIST. (With 32 units on the digits it took 0.2 to 0.9
    times as long, but there an epoch takes a millisecond.)
    """
    alone = jax.default_backend() == "cpu" or not task.architecture.together
    size = 1 if alone else max(1, MEMORY // memory(task, make_optimizer))
    starts = range(0, len(learning_rates), size)
    return [learning_rates[start : start + size] for start in starts]


def memory(task: train.Task, make_optimizer: train.MakeOptimizer) -> int:
    """About how many bytes a run takes: its state, and three times its parameters.

    Those are gradients, updates and path scalings. Activations are left out: a tenth
    of that in the paper's networks.
    """
    state = jax.eval_shape(
        lambda: train.start(
            train.initialize(task, "balanced", seed=0), make_optimizer(1.0)
        )
    )
    return _bytes(state) + 3 * _bytes(state.params)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def validation_errors(
    task: train.Task,
    make_optimizer: train.MakeOptimizer,
    learning_rates: Sequence[float],
    init: str,
    seed: int,
    epochs: int,
) -> Iterator[tuple[float, ...]]:
    """Trains as `train.train`, with one or several step sizes.

    Args:
      task: what to learn, whose test points are validation points.
      make_optimizer: makes the optimizer from a traced step size.
      learning_rates: the step sizes; several are trained in one program.
      init: one of `train.INITS`.
      seed: the seed of all that is random.
      epochs: how many epochs to train for.

    Yields:
      After each epoch, the test error for every step size.
    """
    if len(learning_rates) == 1:
        (rate,) = learning_rates
        for run in train.train(task, make_optimizer, rate, init, seed, epochs):
            yield (run.test_error,)
        return
    model, dataset = train.model_of(task), task.dataset
    train_points = jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels)
    test_points = jnp.asarray(dataset.test_images), jnp.asarray(dataset.test_labels)
    variables, rates = train.initialize(task, init, seed), jnp.array(learning_rates)
    states = jax.vmap(lambda rate: train.start(variables, make_optimizer(rate)))(rates)
    advance = functools.partial(
        train_epochs,
        model=model,
        make_optimizer=make_optimizer,
        batch_size=task.batch_size,
    )
    for epoch in range(1, epochs + 1):
        states = advance(states, rates, train.epoch_key(seed, epoch), *train_points)
        _, wrong = _totals(states.params, states.averages, *test_points, model=model)
        yield tuple(int(count) / len(dataset.test_labels) for count in wrong)


@functools.partial(
    jax.jit,
    static_argnames=("model", "make_optimizer", "batch_size"),
    donate_argnames="states",
)
def train_epochs(
    states: train.State,
    learning_rates: jax.Array,
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    **static: Any,
) -> train.State:
    """`train.train_epoch` of several runs, whose states are stacked."""
    epoch = functools.partial(train.train_epoch, **static)
    mapped = jax.vmap(epoch, in_axes=(0, 0, None, None, None))
    return mapped(states, learning_rates, key, images, labels)


@functools.partial(jax.jit, static_argnames="model")
def _totals(
    params: train.Params,
    averages: Any,
    images: jax.Array,
    labels: jax.Array,
    model: Any,
) -> tuple[jax.Array, jax.Array]:
    """`train.total` of several runs."""
    mapped = jax.vmap(train.total, in_axes=(0, 0, None, None, None))
    return mapped(params, averages, images, labels, model)


def fastest(errors: Mapping[float, Sequence[float]]) -> float:
    """The step size that reaches the minimum validation error first.

    Args:
      errors: the validation error after each epoch, for each step size.

    Returns:
      The step size; the largest one of several that are equally fast.
    """
    return min(errors, key=lambda rate: (*_first_minimum(errors[rate]), -rate))


def beyond(errors: Mapping[float, Sequence[float]]) -> list[float]:
    """The step size to try next, where the fastest so far is at an end of those tried.

    Args:
      errors: the validation error after each epoch, for each step size.

    Returns:
      At most one step size, about three times the largest or a third of the least.
    """
    index = round(2 * math.log10(fastest(errors)))
    neighbours = [_step_size(index - 1), _step_size(index + 1)]
    least, greatest = min(errors), max(errors)
    return [
        rate
        for rate in neighbours
        if not least <= rate <= greatest and LEAST <= rate <= GREATEST
    ]


def _step_size(index: int) -> float:
    """One of ..., 0.1, 0.3, 1, 3, 10, ..., where that of index 0 is 1."""
    return float(f"{(1, 3)[index % 2]}e{index // 2}")


def _first_minimum(errors: Sequence[float]) -> tuple[float, int]:
    return min(errors), errors.index(min(errors))
