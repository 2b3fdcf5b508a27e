"""The optimizers that are compared, by name, with the step sizes to try."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import optax

import pathsgd_optax as pathsgd


GRID = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
"""The step sizes to start with: of the paper's 10**-alpha those in use, and halves."""


class Optimizer(NamedTuple):
    """How to make an optimizer from a step size, which may be traced."""

    label: str
    make: Callable[..., optax.GradientTransformation]
    learning_rates: tuple[float, ...] = GRID
    needs_paths: bool = False

    def on(
        self, network: pathsgd.PathNetwork | None
    ) -> Callable[..., optax.GradientTransformation]:
        """How to make it for these paths; None for those of Dense layers."""
        if network is None or not self.needs_paths:
            return self.make
        return functools.partial(self.make, network=network)


OPTIMIZERS = {
    "sgd": Optimizer("SGD", optax.sgd),
    # As published: Optax would start the sum of squares at 0.1, which damps every
    # weight whose gradients are small.
    "adagrad": Optimizer(
        "AdaGrad", functools.partial(optax.adagrad, initial_accumulator_value=0.0)
    ),
    "adam": Optimizer("Adam", optax.adam),
    "path_sgd": Optimizer("Path-SGD", pathsgd.path_sgd, needs_paths=True),
    "path_adagrad": Optimizer(
        "Path-AdaGrad",
        functools.partial(pathsgd.path_adagrad, initial_accumulator_value=0.0),
        needs_paths=True,
    ),
    "path_adam": Optimizer("Path-Adam", pathsgd.path_adam, needs_paths=True),
    "sgd_momentum": Optimizer(
        "SGD, momentum", functools.partial(optax.sgd, momentum=0.9)
    ),
    "path_sgd_momentum": Optimizer(
        "Path-SGD, momentum",
        functools.partial(pathsgd.path_sgd, momentum=0.9),
        needs_paths=True,
    ),
}

DEFAULT = ("sgd", "adagrad", "adam", "path_sgd")
"""Those without momentum, the paper's SGD, AdaGrad and Path-SGD among them."""
