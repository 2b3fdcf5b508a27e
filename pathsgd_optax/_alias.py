"""Optimizers: each one chain of transformations."""

import optax

from pathsgd_optax._network import PathNetwork
from pathsgd_optax._transform import scale_by_path_norm


def path_sgd(
    learning_rate: optax.ScalarOrSchedule,
    network: PathNetwork | None = None,
    p: float = 2,
    momentum: float | None = None,
    nesterov: bool = False,
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
        connected one, which :func:`layered_network` reads off the parameters.
      p: order of the path norm, in [1, inf]; a Python number.
      momentum: decay of the trace of past updates, or None for no momentum.
      nesterov: whether to use Nesterov's momentum.

    Returns:
      The transformation; its update needs ``params``.

    Raises:
      ValueError: see :func:`scale_by_path_norm`.

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
    return optax.chain(
        scale_by_path_norm(network, p),
        optax.identity() if momentum is None else optax.trace(momentum, nesterov),
        optax.scale_by_learning_rate(learning_rate),
    )
