"""Where paths end: one output of a function, or several."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr

from pathsgd_optax._networks.traced.context import Context
from pathsgd_optax._networks.traced.mass import Mass
from pathsgd_optax._networks.traced.values import (
    Factor,
    Logarithm,
    Operand,
    Refused,
    Value,
    Weighed,
)


def output_names(outputs: Any, one: Any, batch: int) -> list[str]:
    """The names of the outputs, each of which has a row for each example.

    Args:
      outputs: what the function returns for a batch.
      one: what it returns for one example.
      batch: the size of the batch.

    Raises:
      ValueError: if there are none, or one has not.
    """
    leaves = jax.tree_util.tree_leaves_with_path(outputs)
    if not leaves:
        raise ValueError("apply_fn returns no arrays: return the outputs.")
    for (path, leaf), single in zip(leaves, jax.tree.leaves(one), strict=True):
        if not _has_rows(leaf.shape, single.shape, batch):
            raise ValueError(
                f"apply_fn returns {_name(path)} of shape {leaf.shape} for a batch of "
                f"{batch}, not a row for each example. {_advice(leaf.shape, batch)}"
            )
    return [_name(path) for path, _ in leaves]


def check_ends(names: Sequence[str], outputs: Sequence[Operand]) -> None:
    """Raises unless paths lead to all outputs."""
    for name, output in zip(names, outputs, strict=True):
        if isinstance(output, Refused) and output.error:
            raise output.error
        if isinstance(output, Weighed):
            output = output.factor
        if isinstance(output, Factor) and not output.is_gate:
            raise ValueError(
                f"{name} of apply_fn have no path semantics: {output.reason}"
            )
        if isinstance(output, Factor | Logarithm):
            raise ValueError(
                f"{name} of apply_fn are a gate's, which no paths lead to. Leave a "
                "softmax to the loss, and return the logits."
            )
        if not (isinstance(output, Value) and output.is_data):
            raise ValueError(
                f"{name} of apply_fn are not floating values that depend on x and on "
                "parameters. Return the others alone: those that the loss is made of."
            )


def ends(context: Context, outputs: Sequence[Value]) -> Mass:
    """The masses of the paths to all outputs."""
    masses = [context.ends(x) for x in outputs]
    if len(masses) == 1:
        return masses[0]
    return context.linear(
        lambda *parts: jnp.concatenate([jnp.ravel(part) for part in parts]), *masses
    )


def _name(path: Any) -> str:
    return f"outputs{keystr(path)}"


def _has_rows(shape: tuple[int, ...], one: tuple[int, ...], batch: int) -> bool:
    """Whether the first axis is the batch's, which one example may have squeezed."""
    return (
        shape[:1] == (batch,)
        and math.prod(shape) == batch * math.prod(one)
        and (len(one) < len(shape) or one[0] == 1)
    )


def _advice(shape: tuple[int, ...], batch: int) -> str:
    if batch in shape[1:]:
        axis = shape.index(batch, 1)
        return (
            f"If axis {axis} is the batch's, as in an ensemble, return "
            f"jnp.moveaxis(outputs, {axis}, 0)."
        )
    return (
        "Give x a leading batch axis (x[None] for one example), and return what has a "
        "row for each example, without statistics and the like."
    )
