"""One step of networks small enough to draw: figure 2 (b) and (c) of the paper."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import optax
from jax import nn

from benchmarks.optimizers import OPTIMIZERS
from benchmarks.results import ToyUpdate


STEP_SIZE = 1.0

Kernels = list[list[list[float]]]

STARTS: dict[tuple[str, str], Kernels] = {
    ("b", "balanced"): [[[1.0]], [[1.0]]],
    ("b", "unbalanced"): [[[100.0]], [[0.01]]],
    ("c", "balanced"): [[[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]],
    ("c", "unbalanced"): [[[100.0, 1.0], [100.0, 1.0]], [[0.01, 0.01], [1.0, 1.0]]],
}
"""The weights from the inputs to the hidden units, and on to the outputs."""


def toy_updates(optimizers: tuple[str, ...] = ("sgd", "path_sgd")) -> list[ToyUpdate]:
    """The steps of some optimizers from each start.

    The inputs are 1, the step size is 1, there are no biases, and the gradient with
    respect to each output is -1.
    """
    return list(_updates(optimizers))


def _updates(optimizers: tuple[str, ...]) -> Iterator[ToyUpdate]:
    for (example, init), kernels in STARTS.items():
        for name in optimizers:
            params = _params(kernels)
            stepped = _step(OPTIMIZERS[name].make(STEP_SIZE), params)
            yield ToyUpdate(
                example,
                name,
                init,
                kernels,
                _outputs(params).tolist(),
                [layer["kernel"].tolist() for layer in stepped.values()],
                _outputs(stepped).tolist(),
            )


def _params(kernels: Kernels) -> optax.Params:
    return {
        f"Dense_{layer}": {"kernel": jnp.array(kernel)}
        for layer, kernel in enumerate(kernels)
    }


def _outputs(params: optax.Params) -> jax.Array:
    first, second = (layer["kernel"] for layer in params.values())
    return nn.relu(jnp.ones(len(first)) @ first) @ second


def _step(
    optimizer: optax.GradientTransformation, params: optax.Params
) -> optax.Params:
    grads = jax.grad(lambda weights: -jnp.sum(_outputs(weights)))(params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    return optax.apply_updates(params, updates)
