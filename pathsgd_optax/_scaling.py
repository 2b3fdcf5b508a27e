"""One step's path scaling, and trees multiplied by it: what transformations share.

The number to know of a weight is ``sqrt(gamma)``: a gradient divided by it is what no
rescaling changes, and so is the weight itself times it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pathsgd_optax._layered import layered_network
from pathsgd_optax._masks import Mask, kept
from pathsgd_optax._network import (
    NO_PATH,
    PathNetwork,
    Scaling,
    check_leaves,
    check_network,
    check_unmasked,
    is_masked,
    is_placeholder,
    spread,
)
from pathsgd_optax._scaled import log
from pathsgd_optax._types import (
    NO_PARAMS,
    Params,
    Scalar,
    check_count,
    check_damping,
    check_norm_order,
    path_dtype,
)
from pathsgd_optax._updates import (
    Roots,
    check_updates,
    multiply,
    path_metric,
)


class ScaleByPathNormState(NamedTuple):
    """What a transformation knows of the paths; `optax.tree.get` reads it.

    Attributes:
      log_path_norm: log phi_p of the parameters when the scaling was last computed; 0
        before the first update. float32, or float64 if a parameter is.
      path_metric: the norm of the last gradients in the geometry of the paths,
        sqrt(sum(g**2 / gamma)), likewise; None unless it is monitored.
      age: how many updates have used the held scaling; None if none is held.
      scaling: the held scaling.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import pathsgd_optax as pathsgd
      >>> params = {"Dense_0": {"kernel": jnp.array([[3.0]])},
      ...           "Dense_1": {"kernel": jnp.array([[1.0, -2.0]])}}
      >>> transformation = pathsgd.scale_by_path_norm(monitor=True)
      >>> state = transformation.init(params)
      >>> _, state = transformation.update(params, state, params)
      >>> print(optax.tree.get(state, "path_metric"))  # sqrt(9 / 5 + 1 / 9 + 4 / 9)
      1.534
    """

    log_path_norm: jax.Array  # shape=()
    path_metric: jax.Array | None  # shape=()
    age: jax.Array | None  # shape=(), dtype=int32
    scaling: Scaling | None


@dataclasses.dataclass(frozen=True, eq=False)
class PathScaler:
    """Computes the path scaling of every step, or of every ``update_every``-th."""

    network: PathNetwork | None
    p: float
    damping: Scalar = 0.0
    update_every: int | None = None
    mask: Mask | None = None
    monitor: bool = False

    def __post_init__(self) -> None:
        """Checks the arguments of the transformations."""
        if self.network is not None:
            check_network(self.network)
        object.__setattr__(self, "p", check_norm_order(self.p))
        check_damping(self.damping)
        check_count(self.update_every, "update_every")

    def init(self, params: Params) -> ScaleByPathNormState:
        """The state before the first step; raises where params aren't the network's."""
        self.check(params)
        zero = jnp.zeros((), path_dtype(*jax.tree.leaves(params)))
        metric = zero if self.monitor else None
        if self.update_every is None:
            return ScaleByPathNormState(zero, metric, None, None)
        nothing = self._nothing(params)
        return ScaleByPathNormState(zero, metric, jnp.zeros((), jnp.int32), nothing)

    def check(self, params: Params) -> None:
        """Raises a ValueError where params aren't the network's."""
        if not is_placeholder(params):
            check_leaves(self.resolve(params), params)
            kept(self.mask, params)

    def step(
        self,
        updates: optax.Updates,
        state: ScaleByPathNormState,
        params: Params | None,
        constants: Any,
    ) -> tuple[Roots, ScaleByPathNormState]:
        """The factors of this step, and the state after it."""
        network = self.checked(updates, params, constants)

        def compute() -> Scaling:
            return network.scaling(params, self.p, self.damping, constants)

        scaling, state = self._refreshed(state, compute)
        roots = self.roots(network, params, scaling)
        metric = path_metric(updates, roots) if self.monitor else None
        norm = log(scaling.norm)
        return roots, state._replace(log_path_norm=norm, path_metric=metric)

    def checked(
        self, updates: optax.Updates, params: Params | None, constants: Any
    ) -> PathNetwork:
        """The network; raises where the arguments of an update don't fit it."""
        if params is None:
            raise ValueError(NO_PARAMS)
        network = self.resolve(params)
        network.check(params, constants)
        check_updates(updates, params)
        return network

    def roots(self, network: PathNetwork, params: Params, scaling: Scaling) -> Roots:
        """The factors of the scaling where the mask has them."""
        spread_out = spread(network, scaling.roots, params, hidden=())
        return jax.tree.map(
            lambda keep, factors: factors if keep else (),
            kept(self.mask, params),
            spread_out,
        )

    def natural(self, params: Params) -> Params:
        """``params * sqrt(gamma)``; of a network with constants, ``params``."""
        if is_placeholder(params):
            return params
        network = self.resolve(params)
        if network.constants is not None:
            return params
        scaling = network.scaling(params, self.p, self.damping)
        return multiply(params, self.roots(network, params, scaling))

    def resolve(self, params: Params) -> PathNetwork:
        """The network: the given one, or the layered one of the parameters."""
        if self.network is not None:
            return self.network
        leaves = jax.tree.leaves(params, is_leaf=is_masked)
        check_unmasked(not any(map(is_masked, leaves)))
        return layered_network(params)

    def labels(self, params: Params) -> Params:
        """The network's labels, but "no path" for what isn't to be scaled."""
        if is_placeholder(params):
            return params
        labels = self.resolve(params).labels(params)
        return jax.tree.map(
            lambda label, keep: label if keep else NO_PATH,
            labels,
            kept(self.mask, params),
        )

    def _refreshed(
        self, state: ScaleByPathNormState, compute: Callable[[], Scaling]
    ) -> tuple[Scaling, ScaleByPathNormState]:
        if self.update_every is None or state.age is None:
            return compute(), state
        held = jax.lax.cond(state.age == 0, compute, lambda: state.scaling)
        age = (state.age + 1) % self.update_every
        return held, state._replace(age=age, scaling=held)

    def _nothing(self, params: Params) -> Scaling:
        """A scaling of zeros, in the place of the first one."""
        if is_placeholder(params):
            params = _shapes(self.network)
        network = self.resolve(params)
        compute = functools.partial(network.scaling, p=self.p)
        shapes = jax.eval_shape(compute, params, constants=network.constants)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _shapes(network: PathNetwork | None) -> Params:
    """Parameters of the network, as shapes."""
    if network is None:
        raise ValueError(
            "without params, only a network tells what is held between updates: give "
            "one, such as network=layered_network(params), along with update_every."
        )
    shapes = [
        jax.ShapeDtypeStruct(parameter.shape, jnp.float32)
        for parameter in network.parameters
    ]
    return jax.tree.unflatten(network.treedef, shapes)
