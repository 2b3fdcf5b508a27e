"""Traced networks, against the network itself run on masses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pathsgd_optax as pathsgd
from tests import zoo


NODES = np.arange(5)
FORWARD = np.array([-25 / 12, 4, -3, 4 / 3, -1 / 4])
"""Coefficients of the forward difference that is exact for polynomials of degree 4."""


def path_mass(case, p):
    """Phi as a function of the masses of the parameters, flattened."""
    masses = jax.tree.map(lambda w: jnp.abs(w) ** p, case.params)
    flat, unflatten = jax.flatten_util.ravel_pytree(masses)
    x = jnp.ones((1, *case.x.shape[1:]))

    def phi(q):
        token = zoo.EDGE.set(p)
        outputs = case.on_masses(unflatten(q), x)
        zoo.EDGE.reset(token)
        return jnp.sum(outputs)

    return flat, unflatten, phi


def mass_and_slopes(case, p):
    """Phi and its derivatives, by finite differences."""
    flat, unflatten, phi = path_mass(case, p)

    @jax.jit
    def slope(direction):
        values = jax.vmap(lambda k: phi(flat + k * direction))(NODES * 1.0)
        return jnp.dot(values, FORWARD)

    slopes = jax.lax.map(slope, jnp.eye(flat.size), batch_size=64)
    return phi(flat), unflatten(slopes)


@pytest.mark.x64
@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("name", zoo.CASES)
def test_the_path_norm_and_scaling_are_those_of_the_network_run_on_masses(name, p):
    case = zoo.CASES[name]()
    network = pathsgd.trace_network(case.apply, case.params, case.x)
    phi, slopes = mass_and_slopes(case, p)
    np.testing.assert_allclose(
        pathsgd.path_norm(network, case.params, p), phi ** (1 / p), rtol=1e-10
    )
    scaling = pathsgd.path_scaling(network, case.params, p)
    jax.tree.map(
        lambda found, slope: np.testing.assert_allclose(
            found, slope ** (2 / p), rtol=1e-10, atol=1e-10 * phi ** (2 / p)
        ),
        scaling,
        slopes,
    )
