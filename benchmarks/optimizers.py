"""The optimizers that are compared, by name, with the step sizes to try."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

import pathsgd_optax as pathsgd


GRID = tuple(float(f"1e-{alpha}") for alpha in range(11))
"""The step sizes of the paper, 10**-alpha."""


class Optimizer(NamedTuple):
    """How to make an optimizer from a step size, which may be traced."""

    label: str
    make: Callable[[float | jax.Array], optax.GradientTransformation]
    learning_rates: tuple[float, ...] = GRID


OPTIMIZERS = {
    "sgd": Optimizer("SGD", optax.sgd),
    # As published: Optax would start the sum of squares at 0.1, which damps every
    # weight whose gradients are small.
    "adagrad": Optimizer(
        "AdaGrad", functools.partial(optax.adagrad, initial_accumulator_value=0.0)
    ),
    "adam": Optimizer("Adam", optax.adam),
    "path_sgd": Optimizer("Path-SGD", pathsgd.path_sgd),
    "path_adagrad": Optimizer(
        "Path-AdaGrad",
        functools.partial(pathsgd.path_adagrad, initial_accumulator_value=0.0),
    ),
    "path_adam": Optimizer("Path-Adam", pathsgd.path_adam),
    "sgd_momentum": Optimizer(
        "SGD, momentum", functools.partial(optax.sgd, momentum=0.9)
    ),
    "path_sgd_momentum": Optimizer(
        "Path-SGD, momentum", functools.partial(pathsgd.path_sgd, momentum=0.9)
    ),
}

DEFAULT = ("sgd", "adagrad", "adam", "path_sgd")
"""Those without momentum, the paper's SGD, AdaGrad and Path-SGD among them."""
