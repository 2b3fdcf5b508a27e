"""The networks that are trained, each with its kind of unbalanced start."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
from flax import linen as nn

import pathsgd_optax as pathsgd
from benchmarks.datasets import Dataset


UNBALANCED_SHARE = 1 / 4
"""Units picked to be unbalanced, for each hidden unit: 2000 of 8000 in the paper."""

GAUSSIAN = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
"""The paper's balanced initialisation, of standard deviation 1 / sqrt(fan-in)."""

Variables: TypeAlias = Any
"""What a module's init returns: ``"params"``, and the averages that BatchNorm keeps."""


class Architecture(NamedTuple):
    """A kind of network.

    ``make`` takes the data set, the width and the probability of dropout, and makes a
    module that is called with rows of images and ``train``. ``unbalance`` rescales its
    variables at random, which leaves its function. ``trace`` finds its paths, or None
    where an optimizer finds them itself. ``together`` says whether several runs are
    trained in one program where that saves time: convolutions whose kernels differ are
    slow there.
    """

    make: Callable[[Dataset, int, float], nn.Module]
    unbalance: Callable[[Variables, jax.Array], Variables]
    trace: Callable[[nn.Module, Variables, jax.Array], pathsgd.PathNetwork | None]
    together: bool = True


class MLP(nn.Module):
    """Two hidden layers of ReLU units."""

    width: int
    classes: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The scores of each class, shape ``(..., classes)``."""
        for _ in range(2):
            x = nn.relu(nn.Dense(self.width, kernel_init=GAUSSIAN)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes, kernel_init=GAUSSIAN)(x)


def _make_mlp(dataset: Dataset, width: int, dropout: float) -> MLP:
    return MLP(width, dataset.classes, dropout)


def _unbalance_mlp(variables: Variables, key: jax.Array) -> Variables:
    params = variables["params"]
    network = pathsgd.layered_network(params)
    count = round(sum(network.widths[1:-1]) * UNBALANCED_SHARE)
    return {"params": pathsgd.unbalance(network, params, key, count)}


PERCEPTRON = Architecture(_make_mlp, _unbalance_mlp, lambda *_: None)
