"""Compares a function with the plain stack of ReLU layers that a tree was read as."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from pathsgd_optax._networks.layered.segments import Weights
from pathsgd_optax._vocabulary import Params, described, is_floating


ApplyFn = Callable[[Params, Any], jax.Array]

TOLERANCE = 0.01
"""Of the largest output: more than bfloat16 rounds, less than another activation."""

GAINS = (1, 3, 100)
"""Of the inputs, so that a bound, such as that of relu6, is passed."""

REMEDY = (
    "The number of layers, their order, a residual connection, another activation, "
    "normalisation, or a module used twice may be the reason. Find its paths with "
    "trace_network(apply_fn, params, x)."
)


def check_stack(
    split: Callable[[Params], list[Weights]], params: Params, apply_fn: ApplyFn, x: Any
) -> None:
    """Raises a ValueError unless ``apply_fn(params, x)`` is the stack of its layers.

    It takes shapes only, and draws the numbers, for zeros would hide a layer. Inside of
    a jitted function, too, they are computed at once.
    """
    if not (hasattr(x, "shape") and hasattr(x, "dtype")):
        raise ValueError(
            f"x must be an array, a batch of examples, but got {described(x)}."
        )
    rng = np.random.default_rng(0)
    with jax.ensure_compile_time_eval(), jax.default_matmul_precision("highest"):
        drawn = jax.tree.map(lambda leaf: _weights(rng, leaf), params)
        stack = split(drawn)
        for gain in GAINS:
            inputs = _inputs(rng, x, gain)
            outputs = _outputs(apply_fn, drawn, inputs)
            _compare(np.asarray(inputs, np.float64), outputs, stack)


def _outputs(apply_fn: ApplyFn, params: Params, x: jax.Array) -> jax.Array:
    try:
        outputs = apply_fn(params, x)
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise ValueError(
            "apply_fn(params, x) fails on params of these shapes and x of shape "
            f"{x.shape}, with {type(error).__name__}: {said} It takes these two; with "
            'linen, lambda params, x: module.apply({"params": params}, x).'
        ) from error
    if not is_floating(outputs):
        raise ValueError(
            "apply_fn(params, x) must return an array, the outputs of the last layer, "
            f"but returns {described(outputs)}."
        )
    return outputs


def _compare(x: NDArray[Any], outputs: jax.Array, stack: Sequence[Weights]) -> None:
    fan_in, fan_out = stack[0][0].shape[0], stack[-1][0].shape[1]
    examples = x.size // fan_in
    if x.size != examples * fan_in or outputs.size != examples * fan_out:
        raise ValueError(
            f"apply_fn makes outputs of shape {outputs.shape} from inputs of shape "
            f"{x.shape}, but the layers map {fan_in} units to {fan_out}. {REMEDY}"
        )
    expected = _stack(x.reshape(examples, fan_in), stack)
    found = np.asarray(outputs, np.float64).reshape(examples, fan_out)
    difference, largest = abs(found - expected).max(), abs(expected).max()
    if not difference <= TOLERANCE * largest:
        raise ValueError(
            f"apply_fn(params, x) is not the plain ReLU stack that params were read "
            f"as: outputs differ by up to {difference:.3g}, of at most {largest:.3g}, "
            f"with random params and x of these shapes. {REMEDY}"
        )


def _stack(x: NDArray[Any], weights: Sequence[Weights]) -> NDArray[Any]:
    for k, (kernel, bias) in enumerate(weights):
        x = (np.maximum(x, 0) if k else x) @ np.asarray(kernel, np.float64)
        x = x if bias is None else x + np.asarray(bias, np.float64)
    return x


def _weights(rng: np.random.Generator, leaf: jax.Array) -> jax.Array:
    """Gaussian numbers, which keep the size of the units from layer to layer."""
    spread = (2 / leaf.shape[-2]) ** 0.5 if len(leaf.shape) > 1 else 1.0
    return jnp.asarray(rng.normal(0, spread, leaf.shape), leaf.dtype)


def _inputs(rng: np.random.Generator, x: Any, gain: int) -> jax.Array:
    if jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.asarray(gain * rng.normal(size=x.shape), x.dtype)
    return jnp.asarray(rng.integers(0, 1 + gain, x.shape), x.dtype)
