"""Step sizes: trained at once as one after another, within memory, and chosen."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pathsgd_optax as pathsgd
from benchmarks import step_sizes, train
from benchmarks.datasets import Dataset
from benchmarks.optimizers import OPTIMIZERS
from benchmarks.resnet import RESNET


def points(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = np.eye(3, 16)[labels] + 0.5 * rng.normal(size=(count, 16))
    return images.astype(np.float32), labels.astype(np.int32)


TINY = Dataset("tiny", *points(40, 0), *points(50, 1), 3)
RATES = (0.3, 0.03, 0.001)


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5)


def task(architecture=train.PERCEPTRON, dropout=0.0):
    width = 8 if architecture is train.PERCEPTRON else 2
    return train.Task(TINY, width, dropout, 10, architecture)


@pytest.mark.optax
@pytest.mark.parametrize("init", train.INITS)
@pytest.mark.parametrize("name", ["sgd", "path_sgd", "adam"])
def test_runs_in_one_program_are_those_of_one_after_another(name, init):
    own, make = task(dropout=0.5), OPTIMIZERS[name].make
    together = list(step_sizes.validation_errors(own, make, RATES, init, 0, 3))
    assert len(set(together[-1])) > 1
    for index, rate in enumerate(RATES):
        alone = train.train(own, make, rate, init, 0, 3)
        assert [errors[index] for errors in together] == [m.test_error for m in alone]


@pytest.mark.optax
@pytest.mark.parametrize(
    ("architecture", "name"),
    [(train.PERCEPTRON, "path_sgd"), (train.PERCEPTRON, "adam"), (RESNET, "sgd")],
)
def test_weights_in_one_program_are_equal_to_rounding(architecture, name):
    own = task(architecture)
    make = OPTIMIZERS[name].on(train.paths_of(own))
    variables, rates = train.initialize(own, "unbalanced", 0), jnp.array(RATES)
    static = {"model": train.model_of(own), "make_optimizer": make, "batch_size": 10}
    arguments = train.epoch_key(0, 1), *TINY[1:3]

    def start(rate):
        state = train.start(variables, make(rate))
        return jax.tree.map(lambda leaf: leaf.copy(), state)

    states = step_sizes.train_epochs(
        jax.vmap(start)(rates), rates, *arguments, **static
    )
    for index, rate in enumerate(RATES):
        alone = train.train_epoch(start(rate), rate, *arguments, **static)
        one_of_all = jax.tree.map(operator.itemgetter(index), states)
        jax.tree.map(assert_close, alone, one_of_all)
    kernels = jax.tree.leaves(states.params)[-1]
    assert not np.allclose(kernels[0], kernels[1], rtol=1e-2)


def test_a_step_size_alone_is_that_of_train():
    errors = step_sizes.validation_errors(task(), optax.sgd, (0.3,), "balanced", 0, 3)
    alone = train.train(task(), optax.sgd, 0.3, "balanced", 0, 3)
    assert list(errors) == [(m.test_error,) for m in alone]


def test_the_memory_of_a_run_is_its_state_and_thrice_its_parameters():
    weights = 16 * 8 + 8 + 8 * 8 + 8 + 8 * 3 + 3
    assert step_sizes.memory(task(), optax.sgd) == 4 * 4 * weights
    # Adam keeps two moments of each weight, and a count.
    assert step_sizes.memory(task(), optax.adam) == 6 * 4 * weights + 4
    assert step_sizes.memory(task(), pathsgd.path_sgd) >= 4 * 4 * weights


@pytest.mark.parametrize(
    ("backend", "runs", "sizes"),
    [
        ("cpu", 9, [1, 1, 1]),
        ("gpu", 9, [3]),
        ("gpu", 2.5, [2, 1]),
        ("gpu", 0.5, [1, 1, 1]),
    ],
)
def test_accelerators_train_as_many_at_once_as_memory_holds(
    monkeypatch, backend, runs, sizes
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    memory = step_sizes.memory(task(), optax.sgd)
    monkeypatch.setattr(step_sizes, "MEMORY", round(runs * memory))
    groups = step_sizes.groups(task(), optax.sgd, RATES)
    assert [len(group) for group in groups] == sizes
    assert sum(groups, ()) == RATES


def test_networks_with_convolutions_are_trained_alone(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    groups = step_sizes.groups(task(RESNET), optax.sgd, RATES)
    assert [len(group) for group in groups] == [1, 1, 1]


@pytest.mark.parametrize(
    ("errors", "further"),
    [
        ({1.0: [0.2], 0.3: [0.1], 0.1: [0.2]}, []),
        ({1.0: [0.1], 0.3: [0.2], 0.1: [0.2]}, [3.0]),
        ({1.0: [0.2], 0.3: [0.2], 0.1: [0.1]}, [0.03]),
        ({0.003: [0.2], 0.001: [0.1]}, [0.0003]),
        ({3e-10: [0.2], 1e-10: [0.1]}, []),  # the least
        ({1e3: [1.0], 300.0: [1.0]}, []),  # the greatest
        ({0.1: [0.1]}, [0.03, 0.3]),
    ],
)
def test_the_grid_goes_on_at_the_end_that_is_the_fastest(errors, further):
    assert step_sizes.beyond(errors) == further


@pytest.mark.parametrize(
    ("errors", "rate"),
    [
        ({1.0: [0.3, 0.2, 0.2], 0.1: [0.2, 0.1, 0.3]}, 0.1),  # lower
        ({1.0: [0.5, 0.4, 0.1], 0.1: [0.5, 0.1, 0.4]}, 0.1),  # as low, faster
        ({0.1: [0.5, 0.1, 0.1], 1.0: [0.5, 0.1, 0.4]}, 1.0),  # as fast, larger
        ({1.0: [1.0, 1.0], 0.1: [0.9, 0.8]}, 0.1),  # diverged
        ({1.0: [0.1, 1.0], 0.1: [0.9, 0.2]}, 1.0),  # diverged later
    ],
)
def test_the_fastest_to_the_minimum_error_is_chosen(errors, rate):
    assert step_sizes.fastest(errors) == rate
