"""What transformations keep between updates."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import keystr

from pathsgd_optax._networks.network import Scaling
from pathsgd_optax._numerics.serialization import serializable
from pathsgd_optax._vocabulary import as_array, described


@serializable
class ScaleByPathNormState(NamedTuple):
    """What a transformation knows of the paths; `optax.tree.get` reads it.

    Attributes:
      log_path_norm: log phi_p of the parameters when the scaling was last computed; 0
        before the first update. float32, or float64 if a parameter is.
      path_metric: the norm of the last gradients in the geometry of the paths,
        sqrt(sum(g**2 / gamma)), likewise; 0 unless it is monitored.
      unit: the exponent of the power of two in whose units sqrt(gamma) is divided by; 0
        unless it is relative to the start.
      age: how many updates have used the held scaling; None if none is held.
      scaling: the held scaling.
      constants: what the network needs besides the parameters, for updates that are
        not given it; None unless :func:`set_constants` has set them.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jnp.array([[3.0]])},
      ...           "Dense_1": {"kernel": jnp.array([[1.0, -2.0]])}}
      >>> transformation = pathsgd.scale_by_path_norm(monitor=True)
      >>> state = transformation.init(params)
      >>> _, state = transformation.update(params, state, params)
      >>> print(optax.tree.get(state, "path_metric"))  # sqrt(9 / 5 + 1 / 9 + 4 / 9)
      1.534
    """

    log_path_norm: jax.Array  # shape=()
    path_metric: jax.Array  # shape=()
    unit: jax.Array  # shape=(), dtype=int32
    age: jax.Array | None = None  # shape=(), dtype=int32
    scaling: Scaling | None = None
    constants: Any = None


@serializable
class PathConstantsState(NamedTuple):
    """The state of a transformation that only needs the constants of its network.

    Attributes:
      constants: as in a :class:`ScaleByPathNormState`.

    Example:
      >>> import jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jnp.array([[3.0]])}}
      >>> pathsgd.clip_by_path_metric(1.0).init(params)
      PathConstantsState(constants=None)
    """

    constants: Any = None


@serializable
class PreconditionByPathNormState(NamedTuple):
    """The state of `precondition_by_path_norm`.

    Attributes:
      paths: what it knows of the paths.
      inner_state: the state of the inner transformation.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jnp.array([[3.0]])}}
      >>> state = pathsgd.precondition_by_path_norm(optax.trace(0.9)).init(params)
      >>> state.inner_state.trace
      {'Dense_0': {'kernel': Array([[0.]], dtype=float32)}}
    """

    paths: ScaleByPathNormState
    inner_state: optax.OptState


# Those in the states of the aliases.
for kind in (
    optax.EmptyState,
    optax.MaskedNode,
    optax.MaskedState,
    optax.PartitionState,
    optax.ScaleByAdamState,
    optax.ScaleByRmsState,
    optax.ScaleByRssState,
    optax.ScaleByScheduleState,
    optax.TraceState,
):
    serializable(kind)


def set_constants(state: optax.OptState, constants: Any) -> optax.OptState:
    """Gives an optimizer's state the constants of its network.

    For callers that pass no extra arguments to an update, such as Flax's `TrainState`,
    `optax.lookahead` and `optax.contrib.sam`. To be set before each update, and once
    before a loop that is a scan; an update that is given ``constants`` uses those:

    ```python
    constants = {"batch_stats": state.batch_stats}
    opt_state = pathsgd.set_constants(state.opt_state, constants)
    state = state.replace(opt_state=opt_state)
    state = state.apply_gradients(grads=grads, batch_stats=batch_stats)
    ```

    Args:
      state: the state of an optimizer, with path-normalised transformations anywhere
        in it.
      constants: as `trace_network` got them: a tree of arrays. They are copied, so
        that the state can be donated.

    Returns:
      The state, with these constants.

    Raises:
      ValueError: if there are no path-normalised transformations in the state, or a
        leaf of the constants is no array.

    Example:
      >>> import jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> params = {"w": jnp.array([[3.0]]), "v": jnp.array([[1.0]])}
      >>> scale = jnp.ones((1, 1))
      >>> network = pathsgd.trace_network(
      ...     lambda params, x, scale: x @ params["w"] * scale @ params["v"],
      ...     params, jnp.ones((1, 1)), scale)
      >>> optimizer = pathsgd.path_sgd(1.0, network)
      >>> state = pathsgd.set_constants(optimizer.init(params), 2 * scale)
      >>> updates, state = optimizer.update(params, state, params)
      >>> print(updates["w"], updates["v"])  # 3 / 2**2, 1 / 6**2
      [[-0.75]] [[-0.02778]]
    """
    if not any(map(_has_constants, jax.tree.leaves(state, is_leaf=_has_constants))):
        raise ValueError(
            "the state has no path-normalised transformation in it: pass that of an "
            "optimizer, such as path_sgd(0.1, network).init(params)."
        )

    arrays = jax.tree_util.tree_map_with_path(
        lambda path, leaf: as_array(leaf, f"constants{keystr(path)}"), constants
    )

    def given(node: Any) -> Any:
        if not _has_constants(node):
            return node
        return node._replace(constants=jax.tree.map(jnp.array, arrays))

    return jax.tree.map(given, state, is_leaf=_has_constants)


def check_state(state: Any, kind: type[Any]) -> None:
    """Raises a ValueError where a state is not of its kind, as some restored ones."""
    if not isinstance(state, kind):
        raise ValueError(
            f"the state is {described(state)}, but should be a {kind.__name__}, as "
            "init makes it for these options. Restore checkpoints into one of its "
            "kind, for instance by flax.serialization.from_state_dict(tx.init(params), "
            "restored)."
        )


def check_known(constants: Any) -> None:
    """Raises a ValueError where an update lacks what its network needs."""
    if constants is None:
        raise ValueError(
            "the network has constants, but the update got none. Pass them, "
            "tx.update(grads, state, params, constants=constants), or where it is "
            "called for you, as by TrainState.apply_gradients, set them before: "
            "opt_state = pathsgd.set_constants(opt_state, constants)."
        )


def _has_constants(node: Any) -> bool:
    return isinstance(node, ScaleByPathNormState | PathConstantsState)
