"""Optimizers whose steps are relative to the weights of each layer."""

import optax

from pathsgd_optax._networks.network import PathNetwork
from pathsgd_optax._optimizers.descent import Descent, of_kind
from pathsgd_optax._optimizers.masks import Mask
from pathsgd_optax._optimizers.scaling import PathScaler
from pathsgd_optax._vocabulary import Scalar, check_decays, check_sizes, scheduled


def path_lars(
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
    r"""Path-SGD whose steps are relative to the weights: LARS among the paths.

    .. math::
      w_\ell \leftarrow w_\ell - \eta \,
        \frac{\lVert \gamma^{1/2} w \rVert_\ell}{\lVert \gamma^{-1/2} g \rVert_\ell}
        \, \frac{g_\ell}{\gamma_\ell}, \qquad \gamma = \gamma_p(w, \cdot)

    for each array :math:`\ell` of parameters: the step of Path-SGD, made :math:`\eta`
    times as long as the array, both measured by the paths. How many paths there are,
    how many positions share a kernel and how large the loss is, cancel: 0.03 was within
    a factor of about three of the best step size in all networks that were tried. No
    rescaling of hidden ReLU units changes training, as for :func:`path_sgd`. As steps
    don't get shorter with the gradients, the learning rate is to fall, to 0 at best.

    An array of zeros, or one so short, has the length of one whose entries are a tenth
    as large as they are on average, each array's being its root mean square. If there
    are zeros only, as all lengths are before a last layer of zeros, the step is that of
    :func:`path_sgd`.

    Args:
      learning_rate: a fixed number, or an Optax schedule, which is better.
      network: the network that the parameters are the weights of, or None for a fully
        connected one, which :func:`layered_network` reads off the parameters.
      p: order of the path norm, in [1, inf], or up to 32 in a traced network (256 in
        float64); a Python number.
      momentum: decay of the trace of past updates, or None for no momentum.
      nesterov: whether to use Nesterov's momentum.
      weight_decay: what is added to each gradient is this number, or schedule, times
        the weight, in the coordinates of the paths; None for none.
      damping: tau, at least 0; see :func:`scale_by_path_norm`. Layers of zeros don't
        need it.
      relative_to_start: see :func:`scale_by_path_norm`; only ranges depend on it.
      update_every: how many updates share a path scaling; None for one.
      mask: which parameters are scaled by their paths; None for all.
      fallback: the whole optimizer of parameters on no path, or not in the mask. None
        for SGD, whose steps are not relative.
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
      >>> optimizer = pathsgd.path_lars(0.1)
      >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
      >>> print(updates["Dense_0"]["kernel"], updates["Dense_1"]["kernel"])
      [[-10.]] [[-0.001]]

    References:
      You, Gitman and Ginsburg, `Large Batch Training of Convolutional Networks
      <https://arxiv.org/abs/1708.03888>`_, 2017, equation (6), for the lengths;
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, equation (8), for the rest.
    """
    descent = Descent(learning_rate, None, fallback, momentum, nesterov)
    scaler = PathScaler(
        network, p, damping, relative_to_start, update_every, mask, monitor
    )
    return descent.after_adaptive(_decayed(weight_decay), scaler, relative=True)


def path_lamb(
    learning_rate: optax.ScalarOrSchedule,
    network: PathNetwork | None = None,
    p: float = 2,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    *,
    weight_decay: optax.ScalarOrSchedule | None = None,
    damping: Scalar = 0.0,
    relative_to_start: bool = False,
    update_every: int | None = None,
    mask: Mask | None = None,
    fallback: optax.GradientTransformation | None = None,
    monitor: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Path-Adam whose steps are relative to the weights: LAMB among the paths.

    .. math::
      w_\ell \leftarrow w_\ell - \eta \,
        \frac{\lVert \gamma^{1/2} w \rVert_\ell}{\lVert a \rVert_\ell}
        \, \frac{a_\ell}{\sqrt{\gamma_\ell}}, \qquad
      a = \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}

    for each array :math:`\ell` of parameters, with the means of :func:`path_adam`: its
    step, made :math:`\eta` times as long as the array, both measured by the paths. 0.01
    was within a factor of about three of the best step size in all networks that were
    tried. See :func:`path_lars`, also for arrays that have no length.

    Args:
      learning_rate: a fixed number, or an Optax schedule, which is better.
      network: the network that the parameters are the weights of, or None for a fully
        connected one, which :func:`layered_network` reads off the parameters.
      p: order of the path norm, in [1, inf], or up to 32 in a traced network (256 in
        float64); a Python number.
      b1: decay of the mean of gradients.
      b2: decay of the mean of their squares.
      eps: a small number, added to the root of that mean, which has no scale.
      eps_root: a small number, added to that mean; needed for derivatives of updates.
      weight_decay: what is added to Adam's update is this number, or schedule, times
        the weight, in the coordinates of the paths; None for none.
      damping: tau, at least 0; see :func:`scale_by_path_norm`.
      relative_to_start: see :func:`scale_by_path_norm`; only ranges depend on it.
      update_every: how many updates share a path scaling; None for one.
      mask: which parameters are scaled by their paths; None for all.
      fallback: the whole optimizer of parameters on no path, or not in the mask. None
        for Adam, whose steps are not relative.
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
      >>> optimizer = pathsgd.path_lamb(0.1)
      >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
      >>> print(updates["Dense_0"]["kernel"], updates["Dense_1"]["kernel"])
      [[-10.]] [[-0.001]]

    References:
      You et al., `Large Batch Optimization for Deep Learning: Training BERT in 76
      minutes <https://arxiv.org/abs/1904.00962>`_, 2020, Algorithm 2, for the lengths.
    """
    descent = Descent(learning_rate, None, fallback)
    check_decays(b1=b1, b2=b2)
    check_sizes(eps=eps, eps_root=eps_root)
    scaler = PathScaler(
        network, p, damping, relative_to_start, update_every, mask, monitor
    )
    adam = of_kind(optax.ScaleByAdamState, optax.scale_by_adam(b1, b2, eps, eps_root))
    inner = optax.chain(adam, _decayed(weight_decay))
    return descent.after_adaptive(inner, scaler, relative=True)


def _decayed(
    weight_decay: optax.ScalarOrSchedule | None,
) -> optax.GradientTransformation:
    if weight_decay is None:
        return optax.identity()
    return optax.add_decayed_weights(scheduled(weight_decay, "weight_decay"))
