"""Gradient transformations that rescale by the paths through each weight."""

from typing import Any

import optax

from pathsgd_optax._networks.network import PathNetwork
from pathsgd_optax._numerics.precision import widely
from pathsgd_optax._numerics.program import reads_values
from pathsgd_optax._optimizers.lengths import as_long_as
from pathsgd_optax._optimizers.masks import Mask
from pathsgd_optax._optimizers.scaling import PathScaler
from pathsgd_optax._optimizers.states import (
    PreconditionByPathNormState,
    ScaleByPathNormState,
    check_state,
)
from pathsgd_optax._optimizers.updates import (
    after_gradients,
    divide,
    divide_after,
    divide_before,
    multiply,
    placed,
)
from pathsgd_optax._vocabulary import (
    Params,
    Scalar,
    check_non_negative,
    check_transformation,
)


def scale_by_path_norm(
    network: PathNetwork | None = None,
    p: float = 2,
    *,
    exponent: float = 1.0,
    damping: Scalar = 0.0,
    relative_to_start: bool = False,
    update_every: int | None = None,
    mask: Mask | None = None,
    monitor: bool = False,
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
    overflow; the updates keep the dtype of the gradients, and are at most its largest
    number: finite gradients have finite updates. Where a weight is inf or nan, the
    updates of all that are on paths are nan.

    Before a layer of zeros, as many initialise their last one with, no path leaves a
    unit, and after one step hardly any; updates divided by so little explode. With
    damping, each unit is an output of the network, too, in units of its own:

    .. math::
      \Phi = \phi_p^p + \tau^p \sum_v \frac{\Phi_v}{\overline{\Phi_v}}, \qquad
      \gamma_p(w, e) = \Big( \frac{\partial \Phi}{\partial |w_e|^p} \Big)^{2/p}

    with :math:`\Phi_v` the sum over the paths that enter unit v of the products of
    :math:`|w_e|^p`, and :math:`\overline{\Phi_v}` its present value, a constant. So
    what leaves a unit is at least :math:`\tau` over the norm of what enters it, which
    no rescaling changes. For p = inf sums are maxima. Units are the entries of what a
    layer (or a convolution, or any contraction) results in, with their biases, that
    aren't outputs already; those without paths to them stay as they are.

    Adaptive transformations *after* this one (Adam, AdaGrad) see a gradient that they
    divide by its own magnitude, which all but cancels the path scaling: such a chain
    is not invariant to rescaling. :func:`precondition_by_path_norm` is what they need.
    Momentum, schedules and decoupled weight decay after it are harmless.

    Args:
      network: the network that the parameters are the weights of, or None for a fully
        connected one, which :func:`layered_network` reads off the parameters.
      p: order of the path norm, in [1, inf], or up to 32 in a traced network (256 in
        float64); a Python number.
      exponent: a, the power of the scaling to divide by; 1 is Path-SGD.
      damping: tau, at least 0, a number without scale, or a scalar array; 0 is the
        paper's. Where layers start at zero or small, 0.1 to 0.3 keeps Path-SGD with
        step sizes up to it from exploding in networks of a few layers; deep ones need
        bounded steps as well: `optax.adaptive_grad_clip`, last in what
        :func:`precondition_by_path_norm` runs.
      relative_to_start: whether to divide by :math:`\gamma_p / 4^k` instead, with
        :math:`2^k` the power of two next to :math:`\phi_p` at the first update (1
        where that is 0), which the state keeps as its ``unit``. It is a constant
        factor of the learning rate, for path norms that leave the floating-point
        range, as those of deep networks do for p = 1.
      update_every: how many updates share a scaling, which the state then holds; None
        to compute each its own. An old scaling keeps the invariance: weights that were
        rescalings of each other then are rescalings by the same factors now.
      mask: which parameters to scale: a tree of booleans like the parameters, or a
        prefix of it, or a function from the parameters to one; None for all. The rest
        keep their gradients, but their weights count in the paths.
      monitor: whether the state's ``path_metric`` is computed, at the cost of reading
        the gradients once more.

    Returns:
      The transformation; its update needs ``params``, and ``constants`` if the network
      was traced with them: ``update(grads, state, params, constants=batch_stats)``.
      Its state, a :class:`ScaleByPathNormState`, has the ``log_path_norm``.

    Raises:
      ValueError: when made, if ``p`` or ``update_every`` is below 1, or ``exponent`` or
        ``damping`` negative; at init, if parameters are masked, or not the network's
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
    scaler = PathScaler(
        network, p, damping, relative_to_start, update_every, mask, monitor
    )
    return scaled(scaler, check_non_negative(exponent, "exponent"))


def scaled(
    scaler: PathScaler, exponent: float = 1.0
) -> optax.GradientTransformationExtraArgs:
    """`scale_by_path_norm`, of a scaler."""

    def update_fn(
        updates: optax.Updates,
        state: ScaleByPathNormState,
        params: Params | None = None,
        *,
        constants: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByPathNormState]:
        del extra_args
        roots, state = scaler.step(updates, state, params, constants)
        if scaler.monitor:
            roots = after_gradients(roots, updates)
        return placed(divide(updates, roots, 2 * exponent), params), state

    return optax.GradientTransformationExtraArgs(scaler.init, update_fn)


def precondition_by_path_norm(
    inner: optax.GradientTransformation,
    network: PathNetwork | None = None,
    p: float = 2,
    *,
    damping: Scalar = 0.0,
    relative_to_start: bool = False,
    update_every: int | None = None,
    mask: Mask | None = None,
    monitor: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Runs a transformation in coordinates that no rescaling changes.

    .. math::
      u = \Gamma^{-1/2} \, T\big(\Gamma^{-1/2} g\big), \qquad
      \Gamma = \mathrm{diag}\, \gamma_p(w)

    The inner transformation T sees gradients :math:`\gamma^{-1/2} g` and parameters
    :math:`\gamma^{1/2} w`, the same ones for all rescalings of a network; its updates
    are divided by :math:`\gamma^{1/2}` once more. So whatever T is, Adam, AdaGrad,
    Lion, or AdamW with its weight decay, training is invariant to rescaling, with its
    epsilon added to numbers without scale. With the identity it is Path-SGD.

    Coordinates move with the weights: state that the inner transformation keeps, such
    as moments, was gathered in slightly different ones. A transformation that keeps
    *parameters* (`optax.contrib.schedule_free`, `optax.lookahead`) is better put
    around: ``schedule_free(path_sgd(0.1), 0.1)``.

    Args:
      inner: the transformation, to be given gradients and parameters of their shapes,
        in float32 or wider, as its state is then: in float16, Adam's epsilon is 0.
      network: the network that the parameters are the weights of, or None for a fully
        connected one, which :func:`layered_network` reads off the parameters.
      p: order of the path norm, in [1, inf], or up to 32 in a traced network (256 in
        float64); a Python number.
      damping: tau, at least 0; see :func:`scale_by_path_norm`.
      relative_to_start: whether path scalings are relative to the path norm of the
        first update; see :func:`scale_by_path_norm`.
      update_every: how many updates share a scaling; None for one.
      mask: which parameters to scale; None for all. The inner transformation sees the
        rest as they are.
      monitor: whether the state's ``path_metric`` is computed.

    Returns:
      The transformation; its update needs ``params``, and ``constants`` if the network
      was traced with them. Further arguments go to the inner one. If the network has
      constants, which init doesn't know, the inner transformation is initialised with
      the parameters as they are.

    Raises:
      ValueError: if ``inner`` is no transformation; else see
        :func:`scale_by_path_norm`.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jnp.array([[3.0]])},
      ...           "Dense_1": {"kernel": jnp.array([[1.0, -2.0]])}}
      >>> signs = pathsgd.precondition_by_path_norm(optax.scale_by_sign())
      >>> updates, _ = signs.update(params, signs.init(params), params)
      >>> print(updates["Dense_1"]["kernel"])  # sign(w) / sqrt(3**2)
      [[ 0.333 -0.333]]

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, section 5, which leaves the
      combination with AdaGrad or Adam open; equation (9).
    """
    check_transformation(inner, "inner, the first argument,")
    scaler = PathScaler(
        network, p, damping, relative_to_start, update_every, mask, monitor
    )
    return preconditioned(inner, scaler)


def preconditioned(
    inner: optax.GradientTransformation, scaler: PathScaler, *, relative: bool = False
) -> optax.GradientTransformationExtraArgs:
    """`precondition_by_path_norm`, by a scaler; relative to the lengths of weights."""
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: Params) -> PreconditionByPathNormState:
        paths = scaler.init(params)
        start = scaler.natural(params) if reads_values(inner.init, params) else params
        return PreconditionByPathNormState(paths, inner.init(start))

    def update_fn(
        updates: optax.Updates,
        state: PreconditionByPathNormState,
        params: Params | None = None,
        *,
        constants: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, PreconditionByPathNormState]:
        check_state(state, PreconditionByPathNormState)
        roots, paths = scaler.step(updates, state.paths, params, constants)
        gradients, natural = updates, multiply(params, roots)
        updates, inner_state = inner.update(
            placed(divide_before(updates, roots), params),
            state.inner_state,
            natural,
            **extra_args,
        )
        if relative:
            updates = as_long_as(natural, updates, roots)
        updates = divide_after(updates, after_gradients(roots, gradients))
        return placed(updates, params), PreconditionByPathNormState(paths, inner_state)

    return widely(optax.GradientTransformationExtraArgs(init_fn, update_fn))
