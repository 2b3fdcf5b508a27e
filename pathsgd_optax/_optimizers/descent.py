"""What the optimizers have in common: the steps down, and a fallback beside them."""

import dataclasses
from typing import Any

import jax
import optax

from pathsgd_optax._networks.network import NO_PATH
from pathsgd_optax._numerics.precision import bounded, widely
from pathsgd_optax._optimizers.scaling import PathScaler
from pathsgd_optax._optimizers.states import check_state
from pathsgd_optax._optimizers.transforms import preconditioned
from pathsgd_optax._vocabulary import (
    Params,
    Scalar,
    check_flags,
    check_sizes,
    check_transformation,
    scheduled,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Descent:
    """What comes after the scaling by paths, and in its place where there are none."""

    learning_rate: optax.ScalarOrSchedule
    weight_decay: optax.ScalarOrSchedule | None = None
    fallback: optax.GradientTransformation | None = None
    momentum: Scalar | None = None
    nesterov: bool = False

    def __post_init__(self) -> None:
        """Checks the arguments of the optimizers."""
        rate = scheduled(self.learning_rate, "learning_rate, the first argument,")
        object.__setattr__(self, "learning_rate", rate)
        if self.weight_decay is not None:
            decay = scheduled(self.weight_decay, "weight_decay")
            object.__setattr__(self, "weight_decay", decay)
        if self.fallback is not None:
            check_transformation(self.fallback, "fallback")
        if self.momentum is not None:
            check_sizes(momentum=self.momentum)
        check_flags(nesterov=self.nesterov)

    def after(
        self, scaling: optax.GradientTransformationExtraArgs, scaler: PathScaler
    ) -> optax.GradientTransformationExtraArgs:
        """Both in one, which rounds at the end."""
        chained = optax.chain(scaling, bounded(self._beside_fallback(scaler)))

        def update_fn(
            updates: optax.Updates,
            state: optax.OptState,
            params: Params | None = None,
            **extra_args: Any,
        ) -> tuple[optax.Updates, optax.OptState]:
            check_state(state, tuple)
            return chained.update(updates, state, params, **extra_args)

        return widely(optax.GradientTransformationExtraArgs(chained.init, update_fn))

    def after_adaptive(
        self,
        inner: optax.GradientTransformation,
        scaler: PathScaler,
        *,
        relative: bool = False,
    ) -> optax.GradientTransformationExtraArgs:
        """After the inner transformation, in coordinates that no rescaling changes.

        Relative updates are as long as the weights there.
        """

        def on_path(params: Params) -> Params:
            return jax.tree.map(lambda label: label != NO_PATH, scaler.labels(params))

        if self.fallback is not None:
            inner = optax.masked(inner, on_path)
        return self.after(preconditioned(inner, scaler, relative=relative), scaler)

    def _beside_fallback(self, scaler: PathScaler) -> optax.GradientTransformation:
        if self.fallback is None:
            return self._steps()
        transforms = {"path": self._steps(), NO_PATH: self.fallback}
        return optax.partition(transforms, scaler.labels)

    def _steps(self) -> optax.GradientTransformation:
        nothing = optax.identity()
        momentum, decay = nothing, self.weight_decay
        if self.momentum is not None:
            trace = optax.trace(self.momentum, self.nesterov)
            momentum = of_kind(optax.TraceState, trace)
        return optax.chain(
            momentum,
            nothing if decay is None else optax.add_decayed_weights(decay),
            optax.scale_by_learning_rate(self.learning_rate),
        )


def of_kind(
    kind: type[Any], transformation: optax.GradientTransformation
) -> optax.GradientTransformation:
    """The transformation, which refuses states of another one."""

    def update_fn(
        updates: optax.Updates, state: optax.OptState, params: Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        check_state(state, kind)
        return transformation.update(updates, state, params)

    return optax.GradientTransformation(transformation.init, update_fn)
