"""What a picture of a network shows of each parameter, as plain numbers."""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from pathsgd_optax._networks.network import (
    UNIT_OF_NORM,
    Factors,
    Parameter,
    PathNetwork,
    resolved,
)
from pathsgd_optax._networks.summaries import path_shares
from pathsgd_optax._vocabulary import Params


QUARTILES = (0.0, 0.25, 0.5, 0.75, 1.0)

KEYS = re.compile(r"\[(.+?)\]|\.(\w+)")
"""The keys of a leaf, in the form in which `jax.tree_util.keystr` writes them."""


class Measured(NamedTuple):
    """What is drawn of a parameter.

    Args:
      share: the part of the path mass that runs through it.
      spread: log10 of the least gamma of its weights, of the quartiles and of the
        largest, without weights on no path; empty if all of them are.
    """

    share: float
    spread: tuple[float, ...]


class Layer(NamedTuple):
    """A module, and its own parameters, as their places among the leaves and names."""

    name: str
    parameters: tuple[tuple[int, str], ...]


def measured(
    network: PathNetwork, params: Params, p: float, constants: Any
) -> list[Measured]:
    """What is drawn of each parameter, in the order of the leaves."""
    shares = path_shares(network, params, p, constants)
    unit = jnp.int32(UNIT_OF_NORM)
    norm, roots = network.scaling(params, p, constants=constants, unit=unit)
    if not jnp.isfinite(norm.mantissa):
        raise ValueError(
            "params or constants hold inf or nan, and their paths can't be drawn."
        )
    log_unit = math.log10(2) * int(resolved(unit, norm))
    return [
        Measured(float(share), _spread(factors, parameter.shape, log_unit))
        for share, factors, parameter in zip(
            shares, roots, network.parameters, strict=True
        )
    ]


def _spread(
    factors: Factors, shape: tuple[int, ...], log_unit: float
) -> tuple[float, ...]:
    if not factors:
        return ()
    logs = sum(np.log10(np.asarray(factor, np.float64)) for factor in factors)
    logs = np.broadcast_to(logs, shape)
    on_paths = logs[np.isfinite(logs)]
    if not on_paths.size:
        return ()
    quartiles = 2 * (np.quantile(on_paths, QUARTILES) + log_unit)
    return tuple(quartiles.tolist())


def layers(parameters: Sequence[Parameter]) -> Iterator[Layer]:
    """The modules in the direction of the paths, one for each run of parameters."""
    in_order = sorted(enumerate(parameters), key=lambda entry: entry[1].order)
    named = [(place, *_split(parameter.path)) for place, parameter in in_order]
    for module, group in itertools.groupby(named, lambda entry: entry[1]):
        yield Layer(module, tuple((place, name) for place, _, name in group))


def _split(path: str) -> tuple[str, str]:
    """The name of the module, and that of the parameter within it."""
    keys = [key.strip("'\"") or name for key, name in KEYS.findall(path)]
    *module, name = keys or [path]
    return "/".join(module), name
