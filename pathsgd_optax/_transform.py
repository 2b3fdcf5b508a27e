"""Gradient transformations that rescale by the paths through each weight."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from pathsgd_optax._layered import layered_network
from pathsgd_optax._network import (
    Factors,
    PathNetwork,
    check_leaves,
    check_unmasked,
    is_masked,
    leaf_name,
    root,
)
from pathsgd_optax._scaled import zero_after
from pathsgd_optax._types import (
    NO_PARAMS,
    Params,
    check_non_negative,
    check_norm_order,
)


def scale_by_path_norm(
    network: PathNetwork | None = None,
    p: float = 2,
    *,
    exponent: float = 1.0,
    normalize: bool = False,
    damping: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Divides each gradient by the path scaling of its weight.

    .. math::
      u_e = \frac{g_e}{\gamma_p(w, e)^a}

    A parameter that is on no path (see ``network.labels()``) keeps its gradient. Where
    no path runs through a weight of another, its update is 0; so it is where the path
    norms of the units of one layer span more than a float's range, about 2**126 in
    float32, for weights whose share of the paths is lost to that. (A traced network
    holds p-th powers of norms, and has a p-th of that range.) The scaling is computed
    in float32, or in float64 if a parameter is, and is never formed where it would
    overflow; the updates keep the dtype of the gradients.

    Adaptive transformations *after* this one (Adam, AdaGrad) see a gradient that they
    divide by its own magnitude, which all but cancels the path scaling: such a chain
    is not invariant to rescaling. Momentum, schedules and decoupled weight decay
    after it are harmless.

    Args:
      network: the network that the parameters are the weights of, or None for a fully
        connected one, which :func:`layered_network` reads off the parameters.
      p: order of the path norm, in [1, inf]; a Python number.
      exponent: a, the power of the scaling to divide by; 1 is Path-SGD.
      normalize: whether to divide by :math:`\gamma_p / \phi_p^2` instead, so that a
        learning rate carries over between depths. It makes updates finite where
        :math:`\phi_p` itself is beyond the floating-point range.
      damping: added to the scaling that is divided by, after ``normalize``. An
        absolute number breaks the invariance to rescaling, and moves weights that no
        path runs through.

    Returns:
      The transformation; its update needs ``params``, and ``constants`` if the network
      was traced with them: ``update(grads, state, params, constants=batch_stats)``.

    Raises:
      ValueError: when made, if ``p`` is below 1, or ``exponent`` or ``damping``
        negative; at init, if parameters are masked, or not the network's
        or, without a network, don't make a fully connected one; at update, if
        ``params`` are missing, or the updates' structure or shapes differ from theirs.

    Example:
      >>> import jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jnp.array([[3.0]])},
      ...           "Dense_1": {"kernel": jnp.array([[1.0, -2.0]])}}
      >>> transformation = pathsgd.scale_by_path_norm()
      >>> state = transformation.init(params)
      >>> updates, state = transformation.update(params, state, params)
      >>> print(updates["Dense_0"]["kernel"])  # 3 / (1**2 + 2**2)
      [[0.6]]

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, equations (8) and (9).
    """
    p = check_norm_order(p)
    exponent = check_non_negative(exponent, "exponent")
    damping = check_non_negative(damping, "damping")

    def init_fn(params: Params) -> optax.EmptyState:
        check_leaves(_resolve(network, params), params)
        return optax.EmptyState()

    def update_fn(
        updates: optax.Updates,
        state: optax.EmptyState,
        params: Params | None = None,
        *,
        constants: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del extra_args
        if params is None:
            raise ValueError(NO_PARAMS)
        paths = _resolve(network, params)
        paths.check(params, constants)
        _check_updates(updates, params)
        leaves, treedef = jax.tree.flatten(updates, is_leaf=is_masked)
        factors = paths.inverse_roots(params, p, normalize, constants)
        # Every gradient of a bias waits for the reading of the kernel after it.
        ready = zero_after([x for x in leaves if not is_masked(x) and x.ndim == 1])
        scaled = [
            _multiply(leaf, _damped(inverse, damping), 2 * exponent, ready)
            if inverse
            else leaf
            for leaf, inverse in zip(leaves, factors, strict=True)
        ]
        return jax.tree.unflatten(treedef, scaled), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _resolve(network: PathNetwork | None, params: Params) -> PathNetwork:
    """The network to use: the given one, or the layered one of the parameters."""
    if network is not None:
        return network
    leaves = jax.tree.leaves(params, is_leaf=is_masked)
    check_unmasked(not any(map(is_masked, leaves)))
    return layered_network(params)


def _check_updates(updates: optax.Updates, params: Params) -> None:
    given, wanted = (jax.tree.structure(tree) for tree in (updates, params))
    if len({given, wanted}) > 1:
        raise ValueError(
            f"updates have the structure {given}, but params {wanted}. "
            "Pass the gradient with respect to these params."
        )
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for (path, leaf), update in zip(leaves, jax.tree.leaves(updates), strict=True):
        if update.shape != leaf.shape:
            raise ValueError(
                f"The update of {leaf_name(path)} has shape {update.shape}, but the "
                f"parameter {leaf.shape}. Pass the gradient of these params."
            )


def _damped(factors: Factors, damping: float) -> Factors:
    """1 / sqrt(gamma + damping)."""
    if not damping:
        return factors
    return (1 / jnp.hypot(root(factors), damping**0.5),)


def _multiply(
    update: jax.Array, factors: Factors, exponent: float, ready: jax.Array
) -> jax.Array:
    """``update * prod(factors)**exponent``, once ``ready``."""
    product = update.astype(factors[0].dtype)
    whole, fraction = divmod(exponent, 1)
    for factor in factors * int(whole):
        product = product * factor
    if fraction:
        for factor in factors:
            product = product * factor**fraction
    return product.astype(update.dtype) + ready.astype(update.dtype)
