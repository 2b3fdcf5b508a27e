"""Gradient transformations that rescale by the paths through each weight."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pathsgd_optax._layered import layered_network
from pathsgd_optax._network import PathNetwork, Root, leaf_name
from pathsgd_optax._scaled import (
    Scaled,
    power,
    reciprocal,
    scale_by_power_of_two,
    unscaled,
)
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

    Where no path runs through a weight, its update is 0. The scaling is computed in
    float32, or in float64 if a parameter is, and is never formed where it would
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
      damping: added to the scaling that is divided by. An absolute number breaks the
        invariance to rescaling.

    Returns:
      The transformation; its update needs ``params``.

    Raises:
      ValueError: when made, if ``p`` is below 1, or ``exponent`` or ``damping``
        negative; at init, if the parameters are not the network's or, without a
        network, don't make a fully connected one; at update, if ``params`` are
        missing, or the updates' structure or shapes differ from theirs.

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
        _resolve(network, params)
        return optax.EmptyState()

    def update_fn(
        updates: optax.Updates,
        state: optax.EmptyState,
        params: Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del extra_args
        if params is None:
            raise ValueError(NO_PARAMS)
        paths = _resolve(network, params)
        _check_updates(updates, params)
        roots = paths.path_roots(params, p)
        if normalize:
            roots = _relative_to(paths.path_norm(params, p), roots)
        if damping:
            roots = [_damped(root, damping) for root in roots]
        leaves, treedef = jax.tree.flatten(updates)
        roots = _after_all(roots, leaves)
        divided = map(functools.partial(_divide, exponent=exponent), leaves, roots)
        return jax.tree.unflatten(treedef, divided), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _resolve(network: PathNetwork | None, params: Params) -> PathNetwork:
    """The network to use, once its parameters are known to be these."""
    if network is None:
        return layered_network(params)
    network.check(params)
    return network


def _check_updates(updates: optax.Updates, params: Params) -> None:
    given, wanted = (jax.tree.flatten(tree)[1] for tree in (updates, params))
    if given != wanted:
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


def _relative_to(norm: Scaled, roots: Sequence[Root]) -> list[Root]:
    inverse = Scaled(reciprocal(norm.mantissa), -norm.exponent)
    return [(*root, inverse) for root in roots]


def _damped(root: Root, damping: float) -> Root:
    """sqrt(gamma + damping)."""
    plain = functools.reduce(jnp.multiply, map(unscaled, root))
    return (Scaled(jnp.hypot(plain, damping**0.5), jnp.int32(0)),)


def _after_all(roots: Sequence[Root], updates: Sequence[jax.Array]) -> list[Root]:
    """Makes every root wait for all roots and for the gradients of the biases.

    All reading of the weights then precedes any update, and XLA writes the new weights
    over donated old ones without the copies that it makes of them otherwise. It takes
    a zero that XLA can't see to be one, since it drops optimization_barrier too early.
    """
    vectors = [factor.mantissa for root in roots for factor in root]
    vectors += [update for update in updates if update.ndim == 1]
    invalid = functools.reduce(jnp.logical_or, [jnp.isnan(jnp.sum(v)) for v in vectors])
    zero = jnp.minimum(invalid.astype(jnp.int32), 0)
    return [
        (first._replace(exponent=first.exponent + zero), *others)
        for first, *others in roots
    ]


def _divide(update: jax.Array, root: Root, exponent: float) -> jax.Array:
    """``update / gamma**exponent``."""
    quotient = update.astype(root[0].mantissa.dtype)
    whole, fraction = divmod(2 * exponent, 1)
    for _ in range(int(whole)):
        quotient = _divide_once(quotient, root)
    if fraction:
        quotient = _divide_once(quotient, [power(f, fraction) for f in root])
    return quotient.astype(update.dtype)


def _divide_once(x: jax.Array, root: Sequence[Scaled]) -> jax.Array:
    for factor in root:
        x = x * reciprocal(factor.mantissa)
    exponent = functools.reduce(jnp.add, [factor.exponent for factor in root])
    return scale_by_power_of_two(x, -exponent)
