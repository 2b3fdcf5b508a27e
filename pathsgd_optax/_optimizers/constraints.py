"""What keeps training within bounds: clipping, and a penalty on the path norm."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pathsgd_optax._networks.network import PathNetwork, passing_on
from pathsgd_optax._numerics.meshes import alike
from pathsgd_optax._numerics.precision import rounded
from pathsgd_optax._numerics.scaled import Scaled, log, scale_by_power_of_two
from pathsgd_optax._optimizers.scaling import PathScaler
from pathsgd_optax._optimizers.states import PathConstantsState, check_state
from pathsgd_optax._optimizers.updates import (
    is_hidden,
    map_on_paths,
    placed,
    scaled_path_metric,
)
from pathsgd_optax._vocabulary import (
    Params,
    Scalar,
    canonical,
    check_bound,
    check_non_negative,
    check_scalar,
)


def clip_by_path_metric(
    max_norm: Scalar,
    network: PathNetwork | None = None,
    p: float = 2,
    *,
    damping: Scalar = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Shortens gradients whose norm in the geometry of the paths is too large.

    .. math::
      u = g \min\Big(1, \frac{c}{\lVert g \rVert_\gamma}\Big), \qquad
      \lVert g \rVert_\gamma = \Big( \sum_e \frac{g_e^2}{\gamma_p(w, e)} \Big)^{1/2}

    Unlike the global norm this one doesn't change with rescalings. Its square is the
    rate at which Path-SGD lowers the objective. To be put before the optimizer:
    ``optax.chain(clip_by_path_metric(1.0), path_sgd(0.1))``. Parameters on no path
    don't count and aren't clipped.

    Args:
      max_norm: c, the largest norm, at least 0; a number or a scalar array.
      network: the network that the parameters are the weights of, or None for a fully
        connected one, which :func:`layered_network` reads off the parameters.
      p: order of the path norm, in [1, inf], or up to 32 in a traced network (256 in
        float64); a Python number.
      damping: tau, that of the optimizer; see :func:`scale_by_path_norm`.

    Returns:
      The transformation; its update needs ``params``, and ``constants`` if the network
      was traced with them. Its state, a :class:`PathConstantsState`, is empty but for
      constants that :func:`set_constants` has set.

    Raises:
      ValueError: if ``max_norm`` is negative; else see :func:`scale_by_path_norm`.

    Example:
      >>> import jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jnp.array([[3.0]])},
      ...           "Dense_1": {"kernel": jnp.array([[4.0]])}}
      >>> grads = {"Dense_0": {"kernel": jnp.array([[12.0]])},
      ...          "Dense_1": {"kernel": jnp.array([[12.0]])}}
      >>> clip = pathsgd.clip_by_path_metric(1.0)  # the metric is hypot(12/4, 12/3) = 5
      >>> updates, _ = clip.update(grads, clip.init(params), params)
      >>> print(updates["Dense_0"]["kernel"])
      [[2.4]]

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, equation (9).
    """
    check_bound(max_norm, "max_norm")
    scaler = PathScaler(network, p, damping)

    def change(
        updates: optax.Updates, network: PathNetwork, params: Params, constants: Any
    ) -> optax.Updates:
        scaling = passing_on(
            network.scaling(params, scaler.p, scaler.damping, constants)
        )
        roots = scaler.roots(network, params, scaling)
        factor = _shortening(scaled_path_metric(updates, roots), max_norm)

        def clipped(update: jax.Array, _: Any) -> jax.Array:
            shortened = update.astype(factor.dtype) * factor
            return shortened.astype(canonical(update.dtype))

        return map_on_paths(clipped, updates, roots)

    return _stateless(scaler, change)


def add_path_norm_penalty(
    strength: Scalar, network: PathNetwork | None = None, p: float = 2
) -> optax.GradientTransformationExtraArgs:
    r"""Adds the gradient of a penalty on the squared path norm.

    .. math::
      u = g + \nabla_w \, \lambda \, \phi_p(w)^2
        = g + 2 \lambda \, \phi_p(w)^2 \, \nabla_w \log \phi_p(w)

    Weight decay depends on how the weights are scaled; this penalty doesn't. To be put
    before the optimizer: ``optax.chain(add_path_norm_penalty(1e-4), path_sgd(0.1))``.
    It is right at any depth, and at most the largest number of the gradients' dtype: a
    ``strength`` that is a Python number may be below float32's.

    Args:
      strength: lambda, the weight of the penalty, at least 0; a Python number or a
        scalar array.
      network: the network that the parameters are the weights of, or None for a fully
        connected one, which :func:`layered_network` reads off the parameters.
      p: order of the path norm, in [1, inf], or up to 32 in a traced network (256 in
        float64); a Python number.

    Returns:
      The transformation; its update needs ``params``, and ``constants`` if the network
      was traced with them. Its state, a :class:`PathConstantsState`, is empty but for
      constants that :func:`set_constants` has set.

    Raises:
      ValueError: if ``strength`` is negative; else see :func:`scale_by_path_norm`.

    Example:
      >>> import jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jnp.array([[3.0]])},
      ...           "Dense_1": {"kernel": jnp.array([[2.0]])}}
      >>> grads = {"Dense_0": {"kernel": jnp.array([[1.0]])},
      ...          "Dense_1": {"kernel": jnp.array([[0.0]])}}
      >>> penalty = pathsgd.add_path_norm_penalty(0.5)  # of 0.5 * (3 * 2)**2
      >>> updates, _ = penalty.update(grads, penalty.init(params), params)
      >>> print(updates["Dense_0"]["kernel"], updates["Dense_1"]["kernel"])
      [[13.]] [[18.]]

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, section 4 and equation (5).
    """
    scaler, (mantissa, exponent) = PathScaler(network, p), _parts(strength)

    def change(
        updates: optax.Updates, network: PathNetwork, params: Params, constants: Any
    ) -> optax.Updates:
        slopes, phi = _slopes_of_log(network, params, scaler.p, constants)
        size = 2 * jnp.asarray(mantissa, phi.mantissa.dtype) * phi.mantissa**2

        def add(update: Any, slope: Any) -> Any:
            if is_hidden(update) or is_hidden(slope):
                return update
            penalty = scale_by_power_of_two(
                size * slope.astype(size.dtype), 2 * phi.exponent + exponent
            )
            total = update.astype(size.dtype) + penalty
            sound = jnp.isfinite(update) & jnp.isfinite(size)
            return rounded(total, update.dtype, sound)

        added = jax.tree.map(add, updates, slopes, is_leaf=is_hidden)
        return placed(added, params)

    return _stateless(scaler, change)


def _shortening(metric: Scaled, max_norm: Scalar) -> jax.Array:
    """What to multiply gradients by; nan if they are not finite."""
    size = jnp.where(metric.mantissa != 0, metric.mantissa, 1)
    ratio = jnp.asarray(max_norm, size.dtype) / size
    factor = jnp.minimum(scale_by_power_of_two(ratio, -metric.exponent), 1)
    return jnp.where(jnp.isfinite(metric.mantissa), factor, jnp.nan)


def _stateless(
    scaler: PathScaler,
    change: Callable[[optax.Updates, PathNetwork, Params, Any], optax.Updates],
) -> optax.GradientTransformationExtraArgs:
    """``change`` as a transformation, whose arguments are checked first."""

    def init_fn(params: Params) -> PathConstantsState:
        scaler.check(params)
        return PathConstantsState()

    def update_fn(
        updates: optax.Updates,
        state: PathConstantsState,
        params: Params | None = None,
        *,
        constants: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, PathConstantsState]:
        del extra_args
        check_state(state, PathConstantsState)
        network, constants = scaler.checked(updates, state, params, constants)
        return change(updates, network, params, constants), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _parts(strength: Scalar) -> tuple[Scalar, int]:
    """Mantissa and exponent; those of a Python number may be beyond float32."""
    check_scalar(strength, "strength")
    if not isinstance(strength, Real):
        return strength, 0
    return math.frexp(check_non_negative(strength, "strength"))


def _slopes_of_log(
    network: PathNetwork, params: Params, p: float, constants: Any
) -> tuple[Params, Scaled]:
    """The gradient of log phi, 0 where phi is; and phi."""

    def log_norm(params: Params) -> tuple[jax.Array, Scaled]:
        phi = network.path_norm(params, p, constants)
        live = jnp.where(phi.mantissa != 0, phi.mantissa, 1)
        return log(phi._replace(mantissa=live)), phi

    # The slope by weights that do not vary would be a sum over devices.
    return jax.grad(log_norm, has_aux=True)(alike(params))
