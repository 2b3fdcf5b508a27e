"""The trees that `trace_network` and its networks are given."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from pathsgd_optax._networks.network import leaf_name
from pathsgd_optax._networks.traced.reasons import DEVICES
from pathsgd_optax._vocabulary import KeyPath, Params, described


MOST = 4
"""The most leaves of a tree that a message lists."""

FOREIGN = (
    "Take it out of params, and let apply_fn put it back: with equinox, `params, rest "
    "= eqx.partition(model, eqx.is_inexact_array)`, and `eqx.combine(params, rest)`."
)
FIXED = "What isn't trained, close over in apply_fn, or pass as `constants`."


TRAINING = re.compile(
    "rng|dropout|deterministic|train|mutable|batch_stats|running_average", re.IGNORECASE
)
EVALUATED = (
    " Networks are traced as they are evaluated: train=False, "
    "use_running_average=True, deterministic=True."
)

KEY = re.compile('needs PRNG for "([^"]+)"')

AXIS = (
    " Examples or devices are averaged over along such an axis, and paths are those of "
    "one example on one device. Trace the function without it: BatchNorm uses none on "
    "its running averages, with train=False or use_running_average=True, nor with "
    "axis_name=None."
)


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """Says in one line where apply_fn fails, and what it needs if it is training."""
    try:
        yield
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        advice = EVALUATED if TRAINING.search(said) else ""
        if "unbound axis name" in said:
            advice = AXIS
        elif (key := KEY.search(said)) and key[1] != "dropout":
            advice = f' Pass a key for it: rngs={{"{key[1]}": jax.random.key(0)}}.'
        elif "shard_map" in said:
            advice = f" In shard_map, {DEVICES}"
        raise ValueError(
            f"apply_fn fails on {where}, with {type(error).__name__}: {said}{advice}"
        ) from error


def check_params(params: Params) -> None:
    """Raises a ValueError unless all leaves are floating arrays, or their shapes."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError(
            "params have no leaves: pass the tree of the network's weights."
        )
    for path, leaf in leaves:
        if (fault := _fault(leaf)) is not None:
            raise ValueError(f"{leaf_name(path)} is {fault}")


def _fault(leaf: Any) -> str | None:
    if isinstance(leaf, int | float | complex | np.generic):
        return (
            f"{described(leaf)}, a number, not an array. What is trained must be an "
            f"array: jnp.asarray({described(leaf)}). {FIXED}"
        )
    if not (hasattr(leaf, "dtype") and hasattr(leaf, "shape")):
        return f"{described(leaf)}, not an array. {FOREIGN}"
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return f"{leaf.dtype}, not floating. {FIXED}"
    return None


def check_constants(given: Any, wanted: Any) -> None:
    """Raises a ValueError where a leaf is not that of the example's constants."""
    found, traced = _named(shapes(given, "constants")), _named(wanted)
    differing = [
        name for name in {**traced, **found} if found.get(name) != traced.get(name)
    ]
    if differing:
        name = differing[0]
        now, then = found.get(name, "missing"), traced.get(name, "not there")
        raise ValueError(
            f"constants are not those that the network was traced with: {name} is "
            f"{now}, and was {then} ({len(differing)} leaves differ). Pass "
            "`constants=` as trace_network got it."
        )


def shapes(tree: Any, argument: str) -> Any:
    """The shapes and dtypes that JAX makes of a tree of arrays, or of numbers."""

    def shape(path: KeyPath, x: Any) -> jax.ShapeDtypeStruct:
        try:
            dtype = jnp.result_type(x)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{argument}{keystr(path)} must be an array or a number, but got "
                f"{described(x)}."
            ) from error
        return jax.ShapeDtypeStruct(jnp.shape(x), dtype)

    return jax.tree_util.tree_map_with_path(shape, tree)


def listed(tree: Any) -> str:
    """The leaves' names, dtypes and shapes; of many leaves, those of the first few."""
    leaves = [f"{name}: {leaf}" for name, leaf in _named(tree).items()]
    rest = f", and {len(leaves) - MOST} more" if len(leaves) > MOST else ""
    return (", ".join(leaves[:MOST]) or "none") + rest


def _named(tree: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {leaf_name(path): f"{leaf.dtype}{leaf.shape}" for path, leaf in leaves}
