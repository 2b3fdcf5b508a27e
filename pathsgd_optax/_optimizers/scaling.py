"""One step's path scaling, and trees multiplied by it: what transformations share.

The number to know of a weight is ``sqrt(gamma)``: a gradient divided by it is what no
rescaling changes, and so is the weight itself times it.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pathsgd_optax._networks.layered.network import layered_network
from pathsgd_optax._networks.network import (
    NO_PATH,
    UNIT_OF_NORM,
    PathNetwork,
    Scaling,
    check_leaves,
    check_network,
    check_unmasked,
    is_masked,
    is_placeholder,
    like_parameters,
    passing_on,
    resolved,
    spread,
)
from pathsgd_optax._numerics.meshes import partitioned, zeros
from pathsgd_optax._numerics.scaled import log
from pathsgd_optax._optimizers.masks import Mask, check_mask, kept
from pathsgd_optax._optimizers.part import PartNetwork, part
from pathsgd_optax._optimizers.states import (
    PathConstantsState,
    ScaleByPathNormState,
    check_known,
    check_state,
)
from pathsgd_optax._optimizers.updates import (
    Roots,
    check_updates,
    multiply,
    path_metric,
)
from pathsgd_optax._vocabulary import (
    NO_PARAMS,
    Params,
    Scalar,
    check_count,
    check_damping,
    check_flags,
    check_norm_order,
    path_dtype,
)


@dataclasses.dataclass(frozen=True, eq=False)
class PathScaler:
    """Computes the path scaling of every step, or of every ``update_every``-th."""

    network: PathNetwork | None
    p: float
    damping: Scalar = 0.0
    relative_to_start: bool = False
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
        check_flags(relative_to_start=self.relative_to_start, monitor=self.monitor)
        check_mask(self.mask)

    def init(self, params: Params) -> ScaleByPathNormState:
        """The state before the first step; raises where params aren't the network's."""
        self.check(params)
        leaves = jax.tree.leaves(params)
        norm = jax.ShapeDtypeStruct((), path_dtype(*leaves))
        exponent = jax.ShapeDtypeStruct((), jnp.int32)
        first = next(iter(leaves), None)
        norm, metric, unit = zeros((norm, norm, exponent), first)
        state = ScaleByPathNormState(norm, metric, unit + self._first_unit)
        if self.update_every is None:
            return state
        age, scaling = jnp.zeros((), jnp.int32), self._nothing(params)
        return state._replace(age=age, scaling=scaling)

    @property
    def _first_unit(self) -> int:
        """The exponent before the first update, which finds what it stands for."""
        return UNIT_OF_NORM if self.relative_to_start else 0

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
        check_state(state, ScaleByPathNormState)
        network, constants = self.checked(updates, state, params, constants)

        scaling, after = self._refreshed(network, params, constants, state)
        roots = self.roots(network, params, scaling)
        nothing = jnp.zeros_like(state.path_metric)
        return roots, after._replace(
            log_path_norm=log(scaling.norm),
            path_metric=path_metric(updates, roots) if self.monitor else nothing,
            unit=resolved(state.unit, scaling.norm),
        )

    def checked(
        self,
        updates: optax.Updates,
        state: ScaleByPathNormState | PathConstantsState,
        params: Params | None,
        constants: Any,
    ) -> tuple[PathNetwork, Any]:
        """The network and its constants; raises where an update doesn't fit them."""
        if params is None:
            raise ValueError(NO_PARAMS)
        network = self.resolve(params)
        if constants is None and network.constants is not None:
            constants = state.constants
        if isinstance(network, PartNetwork):
            constants = network.gather(params, constants)
        elif network.constants is not None:
            check_known(constants)
        network.check(params, constants)
        check_updates(updates, params)
        return network, constants

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
        scaling = network.scaling(params, self.p, self.damping, unit=self._first_unit)
        return multiply(params, self.roots(network, params, scaling))

    def resolve(self, params: Params) -> PathNetwork:
        """The network: the given one, or the layered one of the parameters."""
        if self.network is not None:
            return part(self.network, params)
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
        self,
        network: PathNetwork,
        params: Params,
        constants: Any,
        state: ScaleByPathNormState,
    ) -> tuple[Scaling, ScaleByPathNormState]:
        arguments = (params, self.damping, constants, state.unit)

        def compute(params: Params, *arguments: Any) -> Scaling:
            return passing_on(network.scaling(params, self.p, *arguments))

        if self.update_every is None or state.age is None:
            return compute(*arguments), state

        def refreshed(age: jax.Array, held: Scaling, *arguments: Any) -> Scaling:
            return jax.lax.cond(age == 0, lambda: compute(*arguments), lambda: held)

        like = like_parameters(network, params)
        held = partitioned(refreshed, state.age, state.scaling, *arguments, like=like)
        age = (state.age + 1) % self.update_every
        return held, state._replace(age=age, scaling=held)

    def _nothing(self, params: Params) -> Scaling:
        """A scaling of zeros, in the place of the first one."""
        if is_placeholder(params):
            params = _shapes(self.network)
        network = self.resolve(params)
        compute = functools.partial(network.scaling, p=self.p)
        shapes = jax.eval_shape(compute, params, constants=network.constants)
        return zeros(shapes, like_parameters(network, params))


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
