"""Path-normalised optimisation for JAX: Path-SGD as an Optax transformation."""

from pathsgd_optax._measures.losses import (
    truncated_softmax_cross_entropy as truncated_softmax_cross_entropy,
)
from pathsgd_optax._measures.norms import (
    group_norm as group_norm,
    log_path_norm as log_path_norm,
    max_norm as max_norm,
    path_norm as path_norm,
    path_scaling as path_scaling,
)
from pathsgd_optax._measures.rescaling import (
    balance as balance,
    rescale as rescale,
    unbalance as unbalance,
)
from pathsgd_optax._measures.symmetries import scale_symmetries as scale_symmetries
from pathsgd_optax._networks.flax import (
    trace_linen as trace_linen,
    trace_nnx as trace_nnx,
)
from pathsgd_optax._networks.layered.network import (
    LayeredNetwork as LayeredNetwork,
    layered_network as layered_network,
)
from pathsgd_optax._networks.network import (
    Parameter as Parameter,
    PathNetwork as PathNetwork,
)
from pathsgd_optax._networks.traced.network import TracedNetwork as TracedNetwork
from pathsgd_optax._networks.traced.rules.registry import (
    register_path_rule as register_path_rule,
)
from pathsgd_optax._networks.traced.tracing import trace_network as trace_network
from pathsgd_optax._optimizers.alias import (
    path_adagrad as path_adagrad,
    path_adam as path_adam,
    path_rmsprop as path_rmsprop,
    path_sgd as path_sgd,
)
from pathsgd_optax._optimizers.constraints import (
    add_path_norm_penalty as add_path_norm_penalty,
    clip_by_path_metric as clip_by_path_metric,
)
from pathsgd_optax._optimizers.layerwise import (
    path_lamb as path_lamb,
    path_lars as path_lars,
)
from pathsgd_optax._optimizers.scales import (
    KeepScaleState as KeepScaleState,
    keep_scale as keep_scale,
)
from pathsgd_optax._optimizers.states import (
    PathConstantsState as PathConstantsState,
    PreconditionByPathNormState as PreconditionByPathNormState,
    ScaleByPathNormState as ScaleByPathNormState,
    set_constants as set_constants,
)
from pathsgd_optax._optimizers.transforms import (
    precondition_by_path_norm as precondition_by_path_norm,
    scale_by_path_norm as scale_by_path_norm,
)
from pathsgd_optax._plots.paths import plot_paths as plot_paths


__version__ = "0.1.0"

__all__ = [
    "KeepScaleState",
    "LayeredNetwork",
    "Parameter",
    "PathConstantsState",
    "PathNetwork",
    "PreconditionByPathNormState",
    "ScaleByPathNormState",
    "TracedNetwork",
    "add_path_norm_penalty",
    "balance",
    "clip_by_path_metric",
    "group_norm",
    "keep_scale",
    "layered_network",
    "log_path_norm",
    "max_norm",
    "path_adagrad",
    "path_adam",
    "path_lamb",
    "path_lars",
    "path_norm",
    "path_rmsprop",
    "path_scaling",
    "path_sgd",
    "plot_paths",
    "precondition_by_path_norm",
    "register_path_rule",
    "rescale",
    "scale_by_path_norm",
    "scale_symmetries",
    "set_constants",
    "trace_linen",
    "trace_network",
    "trace_nnx",
    "truncated_softmax_cross_entropy",
    "unbalance",
]
