"""The table of optimizers."""

import jax
import jax.numpy as jnp
import optax
import pytest

from benchmarks.optimizers import DEFAULT, GRID, OPTIMIZERS


PARAMS = {
    "Dense_0": {"kernel": jnp.array([[3.0, -1.0]])},
    "Dense_1": {"kernel": jnp.array([[1.0, 0.0], [2.0, 0.0]])},
}


def moved(name, rate, steps=2):
    """The parameters after some steps along a gradient that is the parameters."""

    # Optax's Adam needs the promotion of dtypes that the tests forbid.
    @jax.numpy_dtype_promotion("standard")
    @jax.jit
    def run(rate):
        optimizer = OPTIMIZERS[name].make(rate)
        params, state = PARAMS, optimizer.init(PARAMS)
        for _ in range(steps):
            updates, state = optimizer.update(PARAMS, state, params)
            params = optax.apply_updates(params, updates)
        return params

    return run(rate)["Dense_0"]["kernel"]


def test_all_start_with_the_same_grid_which_has_the_papers_step_sizes():
    assert {10.0**-alpha for alpha in range(5)} < set(GRID)
    assert all(optimizer.learning_rates == GRID for optimizer in OPTIMIZERS.values())


def test_the_default_has_the_papers_optimizers_without_momentum():
    assert set(DEFAULT) == {"sgd", "adagrad", "adam", "path_sgd"}
    assert len({optimizer.label for optimizer in OPTIMIZERS.values()}) == len(
        OPTIMIZERS
    )


@pytest.mark.parametrize(
    ("name", "distance"),
    [
        ("sgd", [3.0, -1.0]),
        ("adagrad", [1.0, -1.0]),
        ("adam", [1.0, -1.0]),
        ("path_sgd", [3.0, -0.25]),
    ],
)
def test_the_first_step_is_that_of_the_named_optimizer(name, distance):
    step = (PARAMS["Dense_0"]["kernel"] - moved(name, 0.01, steps=1)) / 0.01
    assert step[0].tolist() == pytest.approx(distance, rel=1e-3)


@pytest.mark.parametrize("name", ["sgd", "path_sgd"])
def test_momentum_adds_nine_tenths_of_the_last_step(name):
    # So short a step doesn't change the path scaling.
    start, rate = PARAMS["Dense_0"]["kernel"], 1e-3
    plain, heavy = (start - moved(n, rate) for n in (name, f"{name}_momentum"))
    assert (heavy / plain)[0].tolist() == pytest.approx([1.45, 1.45], rel=0.01)
