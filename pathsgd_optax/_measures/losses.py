"""The loss of the paper's experiments."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pathsgd_optax._vocabulary import described, is_floating


THRESHOLD = -11.0
"""The margin below which the exponential is replaced by a parabola."""

VANISHING = -13.0
"""The margin at which that parabola reaches its zero."""


def truncated_softmax_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    r"""Softmax cross-entropy that is exactly zero at a large enough margin.

    .. math::
      \hat\ell(s, c) = \ln \sum_i f(s_i - s_c), \qquad f(x) = \begin{cases}
        \exp(x) & x \ge -11 \\
        \exp(-11) \, [x + 13]_+^2 / 4 & \text{otherwise} \end{cases}

    It is differentiable once, and within 0.000003 k of the cross-entropy of k classes.
    A global minimum is attained, at finite weights, where the cross-entropy has none.

    Args:
      logits: scores, shape ``(..., classes)``, of a floating dtype.
      labels: the right classes, shape ``(...)``, of an integer dtype, in
        [0, classes); they are not checked against the number of classes.

    Returns:
      The loss of each example in nats, shape ``(...)``, dtype of ``logits``.

    Raises:
      ValueError: if the dtypes are not a float's and an integer's, or the shapes don't
        match.

    Example:
      >>> import jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> logits = jnp.array([[2.0, 1.0], [14.0, 0.0]])
      >>> loss = pathsgd.truncated_softmax_cross_entropy(logits, jnp.array([0, 0]))
      >>> print([f"{x:.4f}" for x in loss])
      ['0.3133', '0.0000']

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, footnote 2.
    """
    _check(logits, labels)
    margins = logits - jnp.take_along_axis(logits, labels[..., None], axis=-1)
    wrong = 1 - jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    peak = lax.stop_gradient(jnp.max(margins, axis=-1))
    masses = _truncated_exp(margins, peak[..., None])
    # The right class adds exp(0): outside of the sum, a small loss keeps its digits.
    others = jnp.sum(masses * wrong, axis=-1)
    return peak + jnp.log1p(others + jnp.expm1(-peak))


def _truncated_exp(x: jax.Array, peak: jax.Array) -> jax.Array:
    """f(x) * exp(-peak)."""
    # Not jnp.maximum: it has half the slope at the threshold.
    exponential = jnp.exp(jnp.where(x >= THRESHOLD, x, THRESHOLD) - peak)
    reach = THRESHOLD - VANISHING
    parabola = math.exp(THRESHOLD) * jnp.square(jax.nn.relu(x - VANISHING) / reach)
    return jnp.where(x >= THRESHOLD, exponential, parabola * jnp.exp(-peak))


def _check(logits: jax.Array, labels: jax.Array) -> None:
    if not isinstance(labels, jax.Array | np.ndarray | np.integer):
        raise ValueError(
            f"labels must be an array of class indices, not {described(labels)}."
        )
    if not is_floating(logits):
        raise ValueError(
            f"logits must be an array of a floating dtype, but got {described(logits)}."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels must be class indices, of an integer dtype, not {labels.dtype}; "
            "take the argmax of one-hot labels."
        )
    if logits.shape[:-1] != labels.shape or not logits.ndim:
        raise ValueError(
            f"labels must have the shape of logits without its last axis, but logits "
            f"have shape {logits.shape} and labels {labels.shape}."
        )
