"""What keeps weights in range whose scale the network's function doesn't see."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pathsgd_optax._numerics.precision import widely
from pathsgd_optax._numerics.serialization import serializable
from pathsgd_optax._optimizers.states import check_state
from pathsgd_optax._vocabulary import NO_PARAMS, Params


@serializable
class KeepScaleState(NamedTuple):
    """The scales to keep, and how.

    Attributes:
      log_lengths: the logarithms of the parameters' lengths at the start, -inf of those
        of zeros, shape ``(parameters,)``, float32.
      corrections: from what each length has grown by to the logarithm of each
        parameter's factor, shape ``(parameters, parameters)``, float32.

    Example:
      >>> import jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> keep = pathsgd.keep_scale([{"in": 1.0, "out": -1.0}])
      >>> state = keep.init({"in": jnp.ones(1), "out": jnp.ones(1)})
      >>> print(state.log_lengths, state.corrections @ jnp.array([1.0, 0.0]))
      [0. 0.] [-0.5  0.5]
    """

    log_lengths: jax.Array
    corrections: jax.Array


def keep_scale(symmetries: Sequence[Params]) -> optax.GradientTransformationExtraArgs:
    r"""Keeps the scales that the network's function doesn't see where they began.

    .. math::
      w_\ell + u_\ell \leftarrow e^{\sum_k t_k a_{k \ell}} (w_\ell + u_\ell), \qquad
      \text{with the least} \; \sum_\ell \Big( \ln \frac{\lVert w_\ell + u_\ell \rVert}
        {\lVert w_\ell^{(0)} \rVert} + \sum_k t_k a_{k \ell} \Big)^2

    A path-normalised update turns a kernel before a normalisation by an angle that does
    not depend on the kernel's length, which so grows by the same factor in each step,
    until it leaves the range of its dtype, and so does the residual stream of a
    transformer. The function sees nothing of it. This scales the parameters back, by
    what leaves the function, so that their lengths stay as close to those of the start
    as that allows; those that start as zeros follow. To be put last:
    ``optax.chain(path_adam(0.003, network), keep_scale(symmetries))``. Path-Adam
    trains the same function with and without it, but for rounding.

    Args:
      symmetries: what :func:`scale_symmetries` finds.

    Returns:
      The transformation; its update needs ``params``. Its state is a
      :class:`KeepScaleState`.

    Raises:
      ValueError: if the symmetries are no tuple or list, or not of these parameters, or
        ``params`` are missing in an update.

    Example:
      >>> import jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> params = {"in": jnp.array([3.0, 4.0]), "out": jnp.array([5.0])}
      >>> keep = pathsgd.keep_scale([{"in": 1.0, "out": -1.0}])
      >>> state = keep.init(params)
      >>> updates = {"in": jnp.array([9.0, 12.0]), "out": jnp.array([0.0])}
      >>> updates, state = keep.update(updates, state, params)
      >>> print(params["in"] + updates["in"], params["out"] + updates["out"])
      [6. 8.] [10.]
    """
    if not isinstance(symmetries, (tuple, list)):
        raise ValueError(
            "symmetries must be a tuple or list of trees, as scale_symmetries returns."
        )
    exponents = [jax.tree.leaves(symmetry) for symmetry in symmetries]

    def init_fn(params: Params) -> KeepScaleState:
        for symmetry in symmetries:
            if not _are_alike(symmetry, params):
                raise ValueError(
                    "symmetries must be trees like the parameters: find them with "
                    "scale_symmetries for these very parameters."
                )
        log_lengths = _log_lengths(params)
        return KeepScaleState(log_lengths, _corrections(exponents, log_lengths))

    def update_fn(
        updates: optax.Updates,
        state: KeepScaleState,
        params: Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, KeepScaleState]:
        del extra_args
        check_state(state, KeepScaleState)
        if params is None:
            raise ValueError(NO_PARAMS)
        if not exponents:
            return updates, state
        moved = jax.tree.map(jnp.add, params, updates)
        grown = _log_lengths(moved) - state.log_lengths
        factors = jnp.exp(state.corrections @ jnp.where(jnp.isfinite(grown), grown, 0))
        return _scaled_to(factors, moved, params), state

    return widely(optax.GradientTransformationExtraArgs(init_fn, update_fn))


def _are_alike(*trees: Params) -> bool:
    one, other = (str(jax.tree.structure(tree)) for tree in trees)
    return one == other


def _scaled_to(factors: jax.Array, moved: Params, params: Params) -> optax.Updates:
    """The updates to the moved parameters, each times its factor."""
    leaves, structure = jax.tree.flatten(moved)
    pairs = zip(factors, leaves, strict=True)
    scaled = [factor.astype(leaf.dtype) * leaf for factor, leaf in pairs]
    return jax.tree.map(jnp.subtract, jax.tree.unflatten(structure, scaled), params)


def _log_lengths(params: Params) -> jax.Array:
    return jnp.stack([_log_length(leaf) for leaf in jax.tree.leaves(params)])


def _log_length(x: jax.Array) -> jax.Array:
    """Whatever the size of the entries, which may have no squares in range."""
    largest = jnp.max(jnp.abs(x), initial=0).astype(jnp.float32)
    unit = jnp.where(largest > 0, largest, 1)
    squares = jnp.square(x.astype(jnp.float32) / unit)
    return jnp.log(largest) + jnp.log(jnp.sum(squares)) / 2


def _corrections(exponents: list[list[float]], log_lengths: jax.Array) -> jax.Array:
    """The least squares of what is left, where parameters that are zero don't count."""
    matrix = jnp.asarray(np.array(exponents, np.float32).reshape(-1, len(log_lengths)))
    counted = jnp.where(jnp.isfinite(log_lengths), matrix, 0)
    return -matrix.T @ jnp.linalg.pinv(counted.T)
