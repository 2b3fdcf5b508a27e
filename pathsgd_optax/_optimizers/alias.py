"""Optimizers: each one chain of transformations."""

import optax

from pathsgd_optax._networks.network import PathNetwork
from pathsgd_optax._optimizers.descent import Descent, of_kind
from pathsgd_optax._optimizers.masks import Mask
from pathsgd_optax._optimizers.scaling import PathScaler
from pathsgd_optax._optimizers.transforms import scaled
from pathsgd_optax._vocabulary import Scalar, check_decays, check_flags, check_sizes


def path_sgd(
    learning_rate: optax.ScalarOrSchedule,
    network: PathNetwork | None = None,
    p: float = 2,
    momentum: Scalar | None = None,
    nesterov: bool = False,
    *,
    weight_decay: optax.ScalarOrSchedule | None = None,
    damping: Scalar = 0.0,
    relative_to_start: bool = False,
    update_every: int | None = None,
    mask: Mask | None = None,
    fallback: optax.GradientTransformation | None = None,
    monitor: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Path-SGD: steepest descent in the geometry of the network's paths.

    .. math::
      w_e^{(t+1)} = w_e^{(t)} - \frac{\eta}{\gamma_p(w^{(t)}, e)}
        \frac{\partial L}{\partial w_e}(w^{(t)})

    Training doesn't depend on how the weights are scaled: from weights that differ by
    a rescaling of hidden ReLU units it runs through weights that differ by the same
    rescaling (Theorem 5.1), with momentum as without.

    Args:
      learning_rate: a fixed number, or an Optax schedule.
      network: the network that the parameters are the weights of, or None for a fully
        connected one, which :func:`layered_network` reads off the parameters. None is
        for plain stacks of dense layers with ReLU between them: parameters don't show a
        residual connection, tanh, or LayerNorm, nor that they are a part of a model's,
        as those of ``nnx.Optimizer(model, tx, wrt=head)``, which needs a network.
      p: order of the path norm, in [1, inf], or up to 32 in a traced network (256 in
        float64); a Python number.
      momentum: decay of the trace of past updates, or None for no momentum.
      nesterov: whether to use Nesterov's momentum.
      weight_decay: decoupled weight decay: what is added to each update is this
        number, or schedule, times the weight, before the learning rate; None for none.
      damping: tau, at least 0; see :func:`scale_by_path_norm`.
      relative_to_start: whether path scalings are relative to the path norm of the
        first update; see :func:`scale_by_path_norm`.
      update_every: how many updates share a path scaling; None for one.
      mask: which parameters are scaled by their paths; None for all. (It is not that
        of `optax.adamw`, which is for weight decay.)
      fallback: the whole optimizer of parameters on no path, or not in the mask, such
        as ``optax.adam(1e-3)``. None to treat them as the others, but for the scaling.
      monitor: whether the state's ``path_metric`` is computed.

    Returns:
      The optimizer; its update needs ``params``, and ``constants`` if the network was
      traced with them. In its state, `optax.tree.get` finds ``"log_path_norm"`` and
      ``"path_metric"``.
      It computes in float32 or wider, as does a fallback, and rounds updates to the
      gradients' dtype at the end; they are at most its largest number.

    Raises:
      ValueError: if an argument is no number, schedule or flag where it is to be one,
        or out of its range; else see :func:`scale_by_path_norm`.

    Example:
      >>> import jax, optax
      >>> import jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> def loss(params, x, y):
      ...     hidden = jax.nn.relu(x @ params["Dense_0"]["kernel"])
      ...     return jnp.mean((hidden @ params["Dense_1"]["kernel"] - y) ** 2)
      >>> params = {"Dense_0": {"kernel": jnp.array([[100.0]])},
      ...           "Dense_1": {"kernel": jnp.array([[0.01]])}}
      >>> x, y = jnp.ones((1, 1)), 2 * jnp.ones((1, 1))
      >>> optimizer = pathsgd.path_sgd(learning_rate=0.1)
      >>> state = optimizer.init(params)
      >>> for _ in range(3):
      ...     print(f"{loss(params, x, y):.4f}")
      ...     grads = jax.grad(loss)(params, x, y)
      ...     updates, state = optimizer.update(grads, state, params)
      ...     params = optax.apply_updates(params, updates)
      1.0000
      0.3136
      0.1071

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, equation (8), Algorithm 1.
    """
    descent = Descent(learning_rate, weight_decay, fallback, momentum, nesterov)
    scaler = PathScaler(
        network, p, damping, relative_to_start, update_every, mask, monitor
    )
    return descent.after(scaled(scaler), scaler)


def path_adagrad(
    learning_rate: optax.ScalarOrSchedule,
    network: PathNetwork | None = None,
    p: float = 2,
    initial_accumulator_value: Scalar = 0.1,
    eps: Scalar = 1e-7,
    *,
    weight_decay: optax.ScalarOrSchedule | None = None,
    damping: Scalar = 0.0,
    relative_to_start: bool = False,
    update_every: int | None = None,
    mask: Mask | None = None,
    fallback: optax.GradientTransformation | None = None,
    monitor: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""AdaGrad in the geometry of the network's paths.

    .. math::
      w \leftarrow w - \frac{\eta}{\sqrt{\gamma}} \frac{\tilde g_t}{\sqrt{s_t +
        \epsilon}}, \qquad s_t = s_0 + \sum_{\tau \le t} \tilde g_\tau^2, \qquad
      \tilde g_t = \frac{g_t}{\sqrt{\gamma_p(w^{(t)})}}

    AdaGrad sees gradients divided by :math:`\gamma^{1/2}`, which no rescaling changes,
    and its updates are divided by :math:`\gamma^{1/2}` too: it is put into
    :func:`precondition_by_path_norm`. So training doesn't depend on how the weights are
    scaled, as it does where AdaGrad gets gradients divided by :math:`\gamma`.

    Args:
      learning_rate: a fixed number, or an Optax schedule.
      network: the network that the parameters are the weights of, or None for a fully
        connected one, which :func:`layered_network` reads off the parameters.
      p: order of the path norm, in [1, inf], or up to 32 in a traced network (256 in
        float64); a Python number.
      initial_accumulator_value: :math:`s_0`.
      eps: a small number, added to the sum of squares.
      weight_decay: decoupled weight decay, a number or a schedule; None for none.
      damping: tau, at least 0; see :func:`scale_by_path_norm`.
      relative_to_start: see :func:`scale_by_path_norm`.
      update_every: how many updates share a path scaling; None for one.
      mask: which parameters are scaled by their paths; None for all.
      fallback: the whole optimizer of the others; see :func:`path_sgd`.
      monitor: whether the state's ``path_metric`` is computed.

    Returns:
      The optimizer; see :func:`path_sgd`.

    Raises:
      ValueError: see :func:`path_sgd`.

    Example:
      >>> import jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jnp.array([[100.0]])},
      ...           "Dense_1": {"kernel": jnp.array([[0.01]])}}
      >>> grads = {"Dense_0": {"kernel": jnp.array([[0.02]])},
      ...          "Dense_1": {"kernel": jnp.array([[200.0]])}}
      >>> optimizer = pathsgd.path_adagrad(0.1)
      >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
      >>> # 0.1 / 0.01 and 0.1 / 100, but for s_0
      >>> print(updates["Dense_0"]["kernel"], updates["Dense_1"]["kernel"])
      [[-9.877]] [[-0.0009877]]

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, section 5, which leaves the
      combination with AdaGrad open.
    """
    descent = Descent(learning_rate, weight_decay, fallback)
    check_sizes(initial_accumulator_value=initial_accumulator_value, eps=eps)
    scaler = PathScaler(
        network, p, damping, relative_to_start, update_every, mask, monitor
    )
    adagrad = optax.scale_by_rss(initial_accumulator_value, eps)
    return descent.after_adaptive(of_kind(optax.ScaleByRssState, adagrad), scaler)


def path_rmsprop(
    learning_rate: optax.ScalarOrSchedule,
    network: PathNetwork | None = None,
    p: float = 2,
    decay: Scalar = 0.9,
    eps: Scalar = 1e-8,
    momentum: Scalar | None = None,
    nesterov: bool = False,
    *,
    weight_decay: optax.ScalarOrSchedule | None = None,
    damping: Scalar = 0.0,
    relative_to_start: bool = False,
    update_every: int | None = None,
    mask: Mask | None = None,
    fallback: optax.GradientTransformation | None = None,
    monitor: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""RMSProp in the geometry of the network's paths.

    .. math::
      w \leftarrow w - \frac{\eta}{\sqrt{\gamma}} \frac{\tilde g_t}{\sqrt{s_t +
        \epsilon}}, \qquad s_t = \beta s_{t-1} + (1 - \beta) \tilde g_t^2, \qquad
      \tilde g_t = \frac{g_t}{\sqrt{\gamma_p(w^{(t)})}}

    RMSProp sees gradients divided by :math:`\gamma^{1/2}`, which no rescaling changes,
    and its updates are divided by :math:`\gamma^{1/2}` too: it is put into
    :func:`precondition_by_path_norm`. So training doesn't depend on how the weights are
    scaled, as it does where RMSProp gets gradients divided by :math:`\gamma`.

    Args:
      learning_rate: a fixed number, or an Optax schedule.
      network: the network that the parameters are the weights of, or None for a fully
        connected one, which :func:`layered_network` reads off the parameters.
      p: order of the path norm, in [1, inf], or up to 32 in a traced network (256 in
        float64); a Python number.
      decay: :math:`\beta`, of the mean of squares.
      eps: a small number, added to the mean of squares.
      momentum: decay of the trace of past updates, or None for no momentum.
      nesterov: whether to use Nesterov's momentum.
      weight_decay: decoupled weight decay, a number or a schedule; None for none.
      damping: tau, at least 0; see :func:`scale_by_path_norm`.
      relative_to_start: see :func:`scale_by_path_norm`.
      update_every: how many updates share a path scaling; None for one.
      mask: which parameters are scaled by their paths; None for all.
      fallback: the whole optimizer of the others; see :func:`path_sgd`.
      monitor: whether the state's ``path_metric`` is computed.

    Returns:
      The optimizer; see :func:`path_sgd`.

    Raises:
      ValueError: see :func:`path_sgd`.

    Example:
      >>> import jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jnp.array([[100.0]])},
      ...           "Dense_1": {"kernel": jnp.array([[0.01]])}}
      >>> grads = {"Dense_0": {"kernel": jnp.array([[0.02]])},
      ...          "Dense_1": {"kernel": jnp.array([[200.0]])}}
      >>> optimizer = pathsgd.path_rmsprop(0.1)
      >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
      >>> # both times 1 / sqrt(1 - 0.9)
      >>> print(updates["Dense_0"]["kernel"], updates["Dense_1"]["kernel"])
      [[-31.62]] [[-0.003162]]

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, section 5, which leaves the
      combination with adaptive methods open.
    """
    descent = Descent(learning_rate, weight_decay, fallback, momentum, nesterov)
    check_decays(decay=decay)
    check_sizes(eps=eps)
    scaler = PathScaler(
        network, p, damping, relative_to_start, update_every, mask, monitor
    )
    rmsprop = of_kind(optax.ScaleByRmsState, optax.scale_by_rms(decay, eps))
    return descent.after_adaptive(rmsprop, scaler)


def path_adam(
    learning_rate: optax.ScalarOrSchedule,
    network: PathNetwork | None = None,
    p: float = 2,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    nesterov: bool = False,
    *,
    weight_decay: optax.ScalarOrSchedule | None = None,
    damping: Scalar = 0.0,
    relative_to_start: bool = False,
    update_every: int | None = None,
    mask: Mask | None = None,
    fallback: optax.GradientTransformation | None = None,
    monitor: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam in the geometry of the network's paths.

    .. math::
      w \leftarrow w - \frac{\eta}{\sqrt{\gamma}} \frac{\hat m_t}{\sqrt{\hat v_t} +
        \epsilon}, \qquad \tilde g_t = \frac{g_t}{\sqrt{\gamma_p(w^{(t)})}}

    with the bias-corrected means :math:`\hat m_t` of :math:`\tilde g` and
    :math:`\hat v_t` of :math:`\tilde g^2`.

    Adam sees gradients divided by :math:`\gamma^{1/2}`, which no rescaling changes,
    and its updates are divided by :math:`\gamma^{1/2}` too: it is put into
    :func:`precondition_by_path_norm`. So training doesn't depend on how the weights are
    scaled, as it does where Adam gets gradients divided by :math:`\gamma`.
    With ``weight_decay`` it is AdamW.

    Args:
      learning_rate: a fixed number, or an Optax schedule.
      network: the network that the parameters are the weights of, or None for a fully
        connected one, which :func:`layered_network` reads off the parameters.
      p: order of the path norm, in [1, inf], or up to 32 in a traced network (256 in
        float64); a Python number.
      b1: decay of the mean of gradients.
      b2: decay of the mean of their squares.
      eps: a small number, added to the root of that mean, which has no scale.
      eps_root: a small number, added to that mean; needed for derivatives of updates.
      nesterov: whether to use Nesterov's momentum.
      weight_decay: decoupled weight decay, a number or a schedule; None for none.
      damping: tau, at least 0; see :func:`scale_by_path_norm`.
      relative_to_start: see :func:`scale_by_path_norm`.
      update_every: how many updates share a path scaling; None for one.
      mask: which parameters are scaled by their paths; None for all.
      fallback: the whole optimizer of the others; see :func:`path_sgd`.
      monitor: whether the state's ``path_metric`` is computed.

    Returns:
      The optimizer; see :func:`path_sgd`.

    Raises:
      ValueError: see :func:`path_sgd`.

    Example:
      >>> import jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jnp.array([[100.0]])},
      ...           "Dense_1": {"kernel": jnp.array([[0.01]])}}
      >>> grads = {"Dense_0": {"kernel": jnp.array([[0.02]])},
      ...          "Dense_1": {"kernel": jnp.array([[200.0]])}}
      >>> optimizer = pathsgd.path_adam(0.1)
      >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
      >>> # 0.1 / 0.01 and 0.1 / 100
      >>> print(updates["Dense_0"]["kernel"], updates["Dense_1"]["kernel"])
      [[-10.00]] [[-0.001000]]

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, section 5, which leaves the
      combination with Adam open.
    """
    descent = Descent(learning_rate, weight_decay, fallback)
    check_decays(b1=b1, b2=b2)
    check_sizes(eps=eps, eps_root=eps_root)
    check_flags(nesterov=nesterov)
    scaler = PathScaler(
        network, p, damping, relative_to_start, update_every, mask, monitor
    )
    adam = optax.scale_by_adam(b1, b2, eps, eps_root, nesterov=nesterov)
    return descent.after_adaptive(of_kind(optax.ScaleByAdamState, adam), scaler)
