"""What gamma is for a function of a few hidden units, or of a weight."""

import jax.numpy as jnp

import pathsgd_optax as pathsgd
from tests import networks


WEIGHTS = jnp.float32([[1, -2, 3, -4]])


def of_units(function, p=3.5):
    """Where the function gets units (1, 4) of the masses 1, 2, 3, 4, for p = 1."""
    return _scaling(lambda w, x: function(x @ w), p)


def of_weight(function, p=3.5):
    """Where the function makes a weight of a parameter (1, 4)."""
    return _scaling(lambda w, x: x @ function(w), p)


def _scaling(apply_fn, p):
    network = pathsgd.trace_network(apply_fn, WEIGHTS, networks.spec(1, 1))
    return pathsgd.path_scaling(network, WEIGHTS, p)
