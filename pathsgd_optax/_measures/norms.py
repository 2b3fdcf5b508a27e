"""Measures of a network's weights: path norms, path scaling and group norms."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from pathsgd_optax._networks.layered.contract import contract
from pathsgd_optax._networks.layered.network import LayeredNetwork, check_layered
from pathsgd_optax._networks.network import (
    Factors,
    PathNetwork,
    check_network,
    compiled_path_norm,
    passing_on,
    root,
)
from pathsgd_optax._numerics import scaled as _scaled
from pathsgd_optax._numerics.meshes import partitioned
from pathsgd_optax._numerics.scaled import Scaled
from pathsgd_optax._vocabulary import Params, check_norm_order, path_dtype


def path_norm(
    network: PathNetwork, params: Params, p: float = 2, constants: Any = None
) -> jax.Array:
    r"""The :math:`\ell_p` norm of the vector of all paths.

    .. math::
      \phi_p(w) = \Big( \sum_{v_{in}[i] \xrightarrow{e_1} \dots \xrightarrow{e_d}
        v_{out}[j]} \prod_{k=1}^d |w_{e_k}|^p \Big)^{1/p}

    It doesn't change when a unit's incoming weights are multiplied by a number and its
    outgoing ones divided by it. Differentiable in ``params``.

    Args:
      network: the network that ``params`` are the weights of.
      params: its parameters, a tree of floating arrays.
      p: order of the norm, in [1, inf], or up to 32 in a traced network (256 in
        float64); a Python number.
      constants: the present constants of a network that was traced with some, a tree
        of arrays like those; None for none.

    Returns:
      Scalar of dtype float32, or float64 if a parameter is. Where the norm is beyond
      that dtype, inf or 0: see :func:`log_path_norm`.

    Raises:
      ValueError: if ``p`` is out of its range, or ``params`` or ``constants`` are not
        the network's.

    Example:
      >>> import jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jnp.array([[3.0]])},
      ...           "Dense_1": {"kernel": jnp.array([[1.0, -2.0]])}}
      >>> network = pathsgd.layered_network(params)
      >>> print(pathsgd.path_norm(network, params, p=1))  # |3 * 1| + |3 * -2|
      9.0

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, equation (5).
    """
    norm = _checked_path_norm(network, params, p, constants)
    return _scaled.unscaled(norm)


def log_path_norm(
    network: PathNetwork, params: Params, p: float = 2, constants: Any = None
) -> jax.Array:
    r"""The natural logarithm of the path norm, which no depth makes overflow.

    .. math::
      \log \phi_p(w)

    Args:
      network: the network that ``params`` are the weights of.
      params: its parameters, a tree of floating arrays.
      p: order of the norm, in [1, inf], or up to 32 in a traced network (256 in
        float64); a Python number.
      constants: the present constants of a network that was traced with some, a tree
        of arrays like those; None for none.

    Returns:
      Scalar of dtype float32, or float64 if a parameter is; -inf where no path runs
      from an input to an output. Differentiable in ``params`` elsewhere.

    Raises:
      ValueError: if ``p`` is out of its range, or ``params`` or ``constants`` are not
        the network's.

    Example:
      >>> import jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> params = {f"Dense_{i}": {"kernel": 1e30 * jnp.eye(2)} for i in range(10)}
      >>> network = pathsgd.layered_network(params)
      >>> print(f"{pathsgd.log_path_norm(network, params, p=1) / jnp.log(10):.2f}")
      300.30

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, equation (5).
    """
    norm = _checked_path_norm(network, params, p, constants)
    return _scaled.log(norm)


def path_scaling(
    network: PathNetwork, params: Params, p: float = 2, constants: Any = None
) -> Params:
    r"""What Path-SGD divides the gradient of each weight by.

    .. math::
      \gamma_p(w, e) = \Big( \sum_{v_{in}[i] \dots \xrightarrow{e} \dots v_{out}[j]}
        \prod_{e_k \neq e} |w_{e_k}|^p \Big)^{2/p}

    The sum runs over the paths through the edge :math:`e`. For ``p = inf`` it is the
    square of the largest product.

    Args:
      network: the network that ``params`` are the weights of.
      params: its parameters, a tree of floating arrays.
      p: order of the norm, in [1, inf], or up to 32 in a traced network (256 in
        float64); a Python number.
      constants: the present constants of a network that was traced with some, a tree
        of arrays like those; None for none.

    Returns:
      Tree like ``params``, of dtype float32, or float64 if a parameter is; 0 for a
      weight that no path runs through. In a deep network the scaling itself is beyond
      these dtypes, which gives inf or 0; :func:`scale_by_path_norm` never forms it.

    Raises:
      ValueError: if ``p`` is out of its range, or ``params`` or ``constants`` are not
        the network's.

    Example:
      >>> import jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jnp.array([[3.0]])},
      ...           "Dense_1": {"kernel": jnp.array([[1.0, -2.0]])}}
      >>> network = pathsgd.layered_network(params)
      >>> scaling = pathsgd.path_scaling(network, params)
      >>> print(scaling["Dense_0"]["kernel"], scaling["Dense_1"]["kernel"])
      [[5.]] [[9. 9.]]

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, equation (9), Algorithm 1.
    """
    check_network(network)
    network.check(params, constants)
    leaves, treedef = jax.tree.flatten(params)
    scaling = network.scaling(params, check_norm_order(p), constants=constants)
    gammas = map(_gamma, leaves, passing_on(scaling).roots)
    return jax.tree.unflatten(treedef, gammas)


def group_norm(
    network: LayeredNetwork, params: Params, p: float = 2, q: float = 2
) -> jax.Array:
    r"""The :math:`\ell_q` norm, over all units, of the incoming weights' norms.

    .. math::
      \mu_{p,q}(w) = \Big( \sum_{v \in V} \Big( \sum_{(u \to v) \in E}
        |w_{(u \to v)}|^p \Big)^{q/p} \Big)^{1/q}

    With ``p = q = 2`` it is the Euclidean norm that weight decay penalises. A bias is
    an incoming weight of its unit.

    Args:
      network: the network that ``params`` are the weights of.
      params: its parameters, a tree of floating arrays.
      p: order of the norm within a unit, in [1, inf]; a Python number.
      q: order of the norm across units, in [1, inf]; a Python number.

    Returns:
      Scalar of dtype float32, or float64 if a parameter is.

    Raises:
      ValueError: if ``p`` or ``q`` is below 1, or ``params`` are not the network's.

    Example:
      >>> import jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jnp.array([[3.0], [4.0]])},
      ...           "Dense_1": {"kernel": jnp.array([[12.0]])}}
      >>> network = pathsgd.layered_network(params)
      >>> print(pathsgd.group_norm(network, params))
      13.0

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, equation (3).
    """
    check_layered(network, "group_norm")
    network.check(params)
    p, q = check_norm_order(p), check_norm_order(q, "q")
    return partitioned(functools.partial(_group_norm, network, p=p, q=q), params)


def max_norm(network: LayeredNetwork, params: Params, p: float = 2) -> jax.Array:
    r"""The largest norm of the incoming weights of a unit.

    .. math::
      \mu_{p,\infty}(w) = \sup_{v \in V} \Big( \sum_{(u \to v) \in E}
        |w_{(u \to v)}|^p \Big)^{1/p}

    Args:
      network: the network that ``params`` are the weights of.
      params: its parameters, a tree of floating arrays.
      p: order of the norm, in [1, inf]; a Python number.

    Returns:
      Scalar of dtype float32, or float64 if a parameter is.

    Raises:
      ValueError: if ``p`` is below 1, or ``params`` are not the network's.

    Example:
      >>> import jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jnp.array([[3.0], [4.0]])},
      ...           "Dense_1": {"kernel": jnp.array([[12.0]])}}
      >>> network = pathsgd.layered_network(params)
      >>> print(pathsgd.max_norm(network, params))
      12.0

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, equation (4).
    """
    return group_norm(network, params, p, jnp.inf)


def _checked_path_norm(
    network: PathNetwork, params: Params, p: float, constants: Any
) -> Scaled:
    check_network(network)
    network.check(params, constants)
    return compiled_path_norm(network, params, check_norm_order(p), constants)


# Jitted for each shape, not for the whole tree, so that a network of many equal layers
# is compiled as fast as one of a few.
@jax.jit
def _gamma(leaf: jax.Array, factors: Factors) -> jax.Array:
    return jnp.broadcast_to(jnp.square(root(factors)), leaf.shape)


@functools.partial(jax.jit, static_argnames=("network", "p", "q"))
def _group_norm(
    network: LayeredNetwork, params: Params, p: float, q: float
) -> jax.Array:
    dtype = path_dtype(*jax.tree.leaves(params))
    units = [
        _incoming_norms(kernel, bias, dtype, p)
        for kernel, bias in network.split(params)
    ]
    return _scaled.norm(jnp.concatenate(units), q, axis=0)


def _incoming_norms(
    kernel: jax.Array, bias: jax.Array | None, dtype: jnp.dtype, p: float
) -> jax.Array:
    weights = contract(kernel, jnp.ones(kernel.shape[0], dtype), p, axis=0)
    if bias is None:
        return weights
    return _scaled.combine([weights, _scaled.magnitude(bias).astype(dtype)], p)
