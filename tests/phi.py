"""Path norms of networks with gates, against sums that tests write by hand.

Phi is a function of the p-th powers of the weights. Its derivatives, by JAX and in
float64, are what the scaling must be.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import pathsgd_optax as pathsgd


def weights(**shapes):
    """Random weights of these shapes."""
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def constant(x):
    """What slopes don't run through."""
    return lax.stop_gradient(x)


def over_mean(x, axes):
    """What enters a normalisation: its masses, in units of their mean."""
    return jnp.sum(x / constant(jnp.mean(x, axes, keepdims=True)))


def trace(apply_fn, params, x):
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return pathsgd.trace_network(apply_fn, params, x, gates=True)


def check(apply_fn, phi, params, x, p=2.0):
    """The path norm, and the scaling, are those of the sum ``phi``."""
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        params = jax.tree.map(jnp.float64, params)
        network = trace(apply_fn, params, x)
        (total, slopes), norm, found = _measured(network, phi, params, p)
        wanted = jax.tree.map(lambda slope: slope ** (2 / p), slopes)
        chex.assert_trees_all_close(found, wanted, rtol=1e-10)
        np.testing.assert_allclose(norm, total ** (1 / p), rtol=1e-10)


@functools.partial(jax.jit, static_argnums=(0, 1, 3))
def _measured(network, phi, params, p):
    """The sum and its derivatives, the norm and the scaling, in one program."""
    masses = jax.tree.map(lambda w: jnp.abs(w) ** p, params)
    norm = pathsgd.path_norm(network, params, p)
    scaling = pathsgd.path_scaling(network, params, p)
    return jax.value_and_grad(phi)(masses), norm, scaling
