"""The geometry of rescaling: equivalent weights, unbalanced and balanced."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from pathsgd_optax._networks.layered.network import LayeredNetwork, check_layered
from pathsgd_optax._networks.layered.segments import Weights
from pathsgd_optax._numerics.meshes import partitioned
from pathsgd_optax._numerics.scaled import (
    Scaled,
    log,
    reciprocal,
    scale_by_power_of_two,
)
from pathsgd_optax._vocabulary import (
    Params,
    Scalar,
    as_array,
    check_norm_order,
    check_scalar,
    described,
    is_integer,
    is_real,
    path_dtype,
)


NEWTON_STEPS = 20


def rescale(
    network: LayeredNetwork,
    params: Params,
    layer: int,
    unit: int | jax.Array,
    c: Scalar,
) -> Params:
    r"""Multiplies a hidden unit's incoming weights by c, divides its outgoing ones.

    .. math::
      \rho_{c,v}(w)_{(u_1 \to u_2)} = \begin{cases}
        c \cdot w_{(u_1 \to u_2)} & u_2 = v \\
        \tfrac{1}{c} w_{(u_1 \to u_2)} & u_1 = v \\
        w_{(u_1 \to u_2)} & \text{otherwise} \end{cases}

    The network computes the same function, up to rounding; if ``c`` is a power of two,
    exactly.

    Args:
      network: the network that ``params`` are the weights of.
      params: its parameters, a tree of floating arrays.
      layer: the hidden layer, from 0 for the first.
      unit: the unit in that layer, or an integer array of units, shape ``(n,)``.
      c: the positive number to rescale by, or one for each unit, shape ``(n,)``. The
        factors of a unit that is named more than once are multiplied.

    Returns:
      The rescaled tree, of the structure, shapes and dtypes of ``params``.

    Raises:
      ValueError: if there is no such layer or unit, or ``c`` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jnp.array([[3.0]])},
      ...           "Dense_1": {"kernel": jnp.array([[1.0, -2.0]])}}
      >>> network = pathsgd.layered_network(params)
      >>> params = pathsgd.rescale(network, params, layer=0, unit=0, c=2.0)
      >>> print(params["Dense_0"]["kernel"], params["Dense_1"]["kernel"])
      [[6.]] [[ 0.5 -1. ]]

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, equation (1).
    """
    check_layered(network, "rescale")
    network.check(params)
    hidden = network.widths[1:-1]
    unit, c = as_array(unit, "unit"), as_array(c, "c")
    _check_rescaling(hidden, layer, unit, c)
    factors = [jnp.ones(width, _dtype(params)) for width in hidden]
    factors[layer] = factors[layer].at[unit].multiply(c.astype(_dtype(params)))
    return _rescale(network, params, _as_scaled(factors))


def unbalance(
    network: LayeredNetwork,
    params: Params,
    key: jax.Array,
    count: int = 2000,
    scale: float = 10.0,
    sigma: float = 1.0,
) -> Params:
    r"""Rescales random hidden units, as the paper does to unbalance a network.

    .. math::
      w \leftarrow \rho_{s c_n, v_n}(w), \quad n = 1 \dots N, \quad
      v_n \sim \text{hidden units}, \quad \ln c_n \sim \mathcal{N}(0, \sigma^2)

    Units are picked with replacement, so that of a few one may be picked several
    times. The network's function doesn't change, but for rounding.

    Args:
      network: the network that ``params`` are the weights of.
      params: its parameters, a tree of floating arrays.
      key: a key made by `jax.random.key`.
      count: N, how many times a unit is picked.
      scale: s, what the log-normal factor is multiplied by.
      sigma: the standard deviation of the factor's logarithm.

    Returns:
      The rescaled tree, of the structure, shapes and dtypes of ``params``.

    Raises:
      ValueError: if the network has no hidden units, ``count`` is negative, ``scale``
        or ``sigma`` is out of range, or a unit is picked so often that its factor
        leaves the range of the parameters' dtypes (not under jit).

    Example:
      >>> import jax
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jax.numpy.ones((2, 8))},
      ...           "Dense_1": {"kernel": jax.numpy.ones((8, 1))}}
      >>> network = pathsgd.layered_network(params)
      >>> unbalanced = pathsgd.unbalance(network, params, jax.random.key(0), count=4)
      >>> print(pathsgd.max_norm(network, params) <
      ...       pathsgd.max_norm(network, unbalanced))
      True
      >>> print(f"{pathsgd.path_norm(network, unbalanced):.4f}")
      4.0000

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, figure 3.
    """
    check_layered(network, "unbalance")
    network.check(params)
    hidden = network.widths[1:-1]
    if not hidden:
        raise ValueError("The network has no hidden units to rescale.")
    _check_unbalancing(key, count, scale, sigma)
    factors = _random_factors(key, sum(hidden), count, scale, sigma, _dtype(params))
    ends = [sum(hidden[: k + 1]) for k in range(len(hidden) - 1)]
    if not _is_tracer(factors) and not _all_in_range(factors, params):
        raise ValueError(
            f"{count=} picks of {sum(hidden)} hidden units, each by about {scale}, "
            "rescale some of them out of the parameters' range. Pick fewer."
        )
    return _rescale(network, params, _as_scaled(jnp.split(factors, ends)))


def balance(network: LayeredNetwork, params: Params, p: float = 2) -> Params:
    r"""The equivalent weights with the smallest largest norm of a unit.

    .. math::
      \operatorname*{arg\,min}_{\tilde w \sim w} \mu_{p,\infty}(\tilde w), \qquad
      \min_{\tilde w \sim w} \mu_{p,\infty}(\tilde w)^d = \phi_p(w)

    The identity on the right is Lemma 4.1 of the paper, for networks with one output
    and all paths of length d, that is, without biases. With several outputs, or with
    biases, which are incoming weights that come from no hidden unit, the minimum has
    no such name, but is attained just the same: every hidden unit gets the same norm
    :math:`\mu`, and the largest norm of an output is that :math:`\mu` too, whose
    logarithm is the root of a convex function, found by Newton's method.

    A unit without any incoming weight keeps its scale, as does the whole network where
    no path reaches an output; there the minimum is an infimum that no weights attain.

    Args:
      network: the network that ``params`` are the weights of.
      params: its parameters, a tree of floating arrays.
      p: order of the norm, in [1, inf]; a Python number.

    Returns:
      The rescaled tree, of the structure, shapes and dtypes of ``params``.

    Raises:
      ValueError: if ``p`` is below 1, or ``params`` are not the network's.

    Example:
      >>> import jax.numpy as jnp
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jnp.array([[8.0]])},
      ...           "Dense_1": {"kernel": jnp.array([[2.0]])}}
      >>> network = pathsgd.layered_network(params)
      >>> params = pathsgd.balance(network, params)
      >>> print(f"{pathsgd.max_norm(network, params):.4f}")
      4.0000

    References:
      Neyshabur et al., `Geometry of Optimization and Implicit Regularization in Deep
      Learning <https://arxiv.org/abs/1705.03071>`_, 2017, Lemma 4.1.
    """
    check_layered(network, "balance")
    network.check(params)
    balanced = functools.partial(_balance, network, p=check_norm_order(p))
    return partitioned(balanced, params, like=params)


def _check_rescaling(
    hidden: tuple[int, ...], layer: int, unit: jax.Array, c: jax.Array
) -> None:
    if not is_integer(layer) or not 0 <= layer < len(hidden):
        raise ValueError(
            f"layer must be one of the {len(hidden)} hidden layers, counted from 0, "
            f"but got {described(layer)}: the outputs of a network have no outgoing "
            "weights."
        )
    numbers = jnp.issubdtype(unit.dtype, jnp.integer) and is_real(c)
    if not numbers or c.shape not in ((), unit.shape):
        raise ValueError(
            f"unit must be an integer or an array of integers, and c a number or one "
            f"for each unit, but got {unit.dtype}{unit.shape} and {c.dtype}{c.shape}."
        )
    if not _is_tracer(unit) and not jnp.all((unit >= 0) & (unit < hidden[layer])):
        raise ValueError(
            f"unit must be in [0, {hidden[layer]}), the units of hidden layer {layer}, "
            f"but got {unit}."
        )
    if not _is_tracer(c) and not jnp.all((c > 0) & jnp.isfinite(c)):
        raise ValueError(f"c must be positive and finite, but got {c}.")


def _check_unbalancing(key: Any, count: Any, scale: Any, sigma: Any) -> None:
    for name, value in {"scale": scale, "sigma": sigma}.items():
        check_scalar(value, name)
    in_range = (_is_tracer(scale) or scale > 0) and (_is_tracer(sigma) or sigma >= 0)
    if not (is_integer(count) and count >= 0 and in_range):
        raise ValueError(
            f"count must be an integer of at least 0, scale positive and sigma at "
            f"least 0, but got count={described(count)}, {scale=}, {sigma=}."
        )
    try:
        jax.eval_shape(jax.random.split, key)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"key must be one that jax.random.key makes, but got {described(key)}."
        ) from error


def _is_tracer(x: Any) -> bool:
    return isinstance(x, jax.core.Tracer)


def _all_in_range(factors: jax.Array, params: Params) -> bool:
    limit = min(float(jnp.finfo(leaf.dtype).max) for leaf in jax.tree.leaves(params))
    return bool(jnp.all((factors < limit) & (factors > 1 / limit)))


def _dtype(params: Params) -> jnp.dtype:
    return path_dtype(*jax.tree.leaves(params))


def _random_factors(
    key: jax.Array, units: int, count: int, scale: float, sigma: float, dtype: jnp.dtype
) -> jax.Array:
    """What each of the hidden units is multiplied by, shape ``(units,)``."""
    pick, draw = jax.random.split(key)
    picked = jax.random.randint(pick, (count,), 0, units)
    c = jnp.exp(sigma * jax.random.normal(draw, (count,), dtype))
    return jnp.ones(units, dtype).at[picked].multiply(scale * c)


def _rescale(
    network: LayeredNetwork, params: Params, factors: Sequence[Scaled]
) -> Params:
    return partitioned(functools.partial(_apply, network), params, factors, like=params)


def _as_scaled(factors: Sequence[jax.Array]) -> list[Scaled]:
    return [Scaled(factor, jnp.int32(0)) for factor in factors]


@functools.partial(jax.jit, static_argnames="network")
def _apply(
    network: LayeredNetwork, params: Params, factors: Sequence[Scaled]
) -> Params:
    """Rescales each hidden unit of each layer by its factor."""
    inputs, outputs = _as_scaled(
        [jnp.ones(network.widths[k], _dtype(params)) for k in (0, -1)]
    )
    sources, targets = [inputs, *factors], [*factors, outputs]
    layers = zip(network.split(params), sources, targets, strict=True)
    return network.join([_rescaled(*layer) for layer in layers])


def _rescaled(weights: Weights, source: Scaled, target: Scaled) -> Weights:
    """Exponents apart, for factors that are out of range and quotients that are not."""
    kernel, bias = weights
    dtype = source.mantissa.dtype
    wide = kernel.astype(dtype) / source.mantissa[:, None] * target.mantissa[None, :]
    wide = scale_by_power_of_two(wide, target.exponent - source.exponent)
    if bias is not None:
        shifted = bias.astype(dtype) * target.mantissa
        shifted = scale_by_power_of_two(shifted, target.exponent)
        bias = shifted.astype(bias.dtype)
    return wide.astype(kernel.dtype), bias


@functools.partial(jax.jit, static_argnames=("network", "p"))
def _balance(network: LayeredNetwork, params: Params, p: float) -> Params:
    """Gives each hidden unit, from the first layer to the last, the norm mu.

    A unit's factor is mu over its norm after the units before it were rescaled, and
    that norm is its path norm in the network whose kernels are divided by mu.
    """
    log_phi = log(network.path_norm(params, p))
    start = jnp.where(jnp.isfinite(log_phi), log_phi, 0) / (len(network.widths) - 1)
    excess = functools.partial(_log_excess, network, params, p)
    log_mu = lax.fori_loop(0, NEWTON_STEPS, lambda _, t: _newton_step(excess, t), start)
    _, *hidden, _ = _shrunk_path_norms(network, params, p, log_mu)
    alive = jnp.isfinite(log_phi)
    return _apply(network, params, [_factor(units, log_mu, alive) for units in hidden])


def _factor(units: Scaled, log_mu: jax.Array, alive: jax.Array) -> Scaled:
    """The norm mu over that of each unit, and 1 for those that keep their scale."""
    exponent = jnp.where(alive, -units.exponent, 0)
    kept = scale_by_power_of_two(jnp.ones_like(units.mantissa), -exponent)
    factor = jnp.exp(log_mu) * reciprocal(units.mantissa)
    return Scaled(jnp.where(alive & (units.mantissa > 0), factor, kept), exponent)


def _log_excess(
    network: LayeredNetwork, params: Params, p: float, log_mu: jax.Array
) -> jax.Array:
    """By how much the largest output norm exceeds mu; convex in log mu, falling."""
    outputs = _shrunk_path_norms(network, params, p, log_mu)[-1]
    largest = Scaled(jnp.max(outputs.mantissa), outputs.exponent)
    return log(largest) - log_mu


def _newton_step(f: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    value, slope = jax.jvp(f, (x,), (jnp.ones_like(x),))
    return x - value / slope


def _shrunk_path_norms(
    network: LayeredNetwork, params: Params, p: float, log_mu: jax.Array
) -> list[Scaled]:
    """The path norms with every kernel but the first divided by mu."""
    mu, dtype = jnp.exp(log_mu), log_mu.dtype
    (kernel, bias), *others = network.split(params)
    first = kernel.astype(dtype), bias
    shrunk = [(kernel.astype(dtype) / mu, bias) for kernel, bias in others]
    return network.path_norms(network.join([first, *shrunk]), p)
