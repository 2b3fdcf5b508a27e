"""The reverse pass: slopes are right at any magnitude, those of zeros as well."""

import functools
import itertools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

import pathsgd_optax as pathsgd
from pathsgd_optax._networks.traced import mass as _mass
from pathsgd_optax._networks.traced.reach import End
from pathsgd_optax._networks.traced.tape import Tape
from tests import networks, oracles


DEPTH, WIDTH = 100, 3


def stack(gain, bias, seed=0):
    rng = np.random.default_rng(seed)
    kernels = rng.normal(size=(DEPTH, WIDTH, WIDTH)) * gain / np.sqrt(WIDTH)
    biases = bias * rng.normal(size=(DEPTH, WIDTH))
    return {"bias": jnp.float32(biases), "kernel": jnp.float32(kernels)}


def dense(x, kernel, bias):
    return x @ kernel + bias[None]


def conv(x, kernel, bias):
    x = lax.conv_general_dilated(
        x[:, None], kernel[None], (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
    )
    return x[:, 0] + bias[None]


def deep(layer, params, x):
    def step(x, weights):
        return layer(jax.nn.relu(x), **weights), None

    return lax.scan(step, x, params)[0]


def log_roots(factors, shape):
    logs = sum(np.log(np.float64(factor)) for factor in factors)
    return np.broadcast_to(logs, shape)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.5, 4.0, 8.0])
@pytest.mark.parametrize("layer", [dense, conv])
def test_scalings_of_deep_networks_are_right_at_any_magnitude(layer, p):
    shapes = jax.tree.map(lambda leaf: networks.spec(*leaf.shape), stack(1, 0))
    network = pathsgd.trace_network(
        functools.partial(deep, layer), shapes, networks.spec(1, WIDTH)
    )
    for gain in (0.2, 1, 5):
        for bias in (0, 0.1):
            params = stack(gain, bias)
            biases, kernels = map(np.float64, params.values())
            with np.errstate(divide="ignore"):
                scaling, phi = oracles.log_path_scaling(
                    list(zip(kernels, biases, strict=True)), p
                )
            found = pathsgd.log_path_norm(network, params, p)
            np.testing.assert_allclose(found, phi, rtol=1e-5, atol=1e-4)
            roots = network.scaling(params, p).roots
            for k, wanted in (
                (0, [b for _, b in scaling]),
                (1, [w for w, _ in scaling]),
            ):
                wanted = np.array(wanted) / 2
                logs = log_roots(roots[k], wanted.shape)
                # Two factors of sqrt(gamma) have twice a float's range.
                in_range = np.abs(wanted) < 240 * np.log(2)
                np.testing.assert_allclose(logs[in_range], wanted[in_range], atol=5e-5)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.5, 8.0, 32.0])
def test_the_scaling_of_an_outputs_bias_is_1(p):
    depth = 4

    def apply_fn(params, x):
        for kernel in params["kernels"]:
            x = jax.nn.relu(x) @ kernel
        return x + params["bias"][None]

    shapes = {"bias": networks.spec(1), "kernels": [networks.spec(1, 1)] * depth}
    network = pathsgd.trace_network(apply_fn, shapes, networks.spec(1, 1))
    for weight in (1e-12, 1e-5, 0.5, 3.0, 1e9):
        kernels = [jnp.full((1, 1), weight)] * depth
        params = {"bias": jnp.zeros(1), "kernels": kernels}
        [bias, *weights] = network.scaling(params, p).roots
        np.testing.assert_allclose(log_roots(bias, (1,)), 0, atol=1e-6)
        others = (depth - 1) * np.log(np.float32(weight))
        for factors in weights:
            np.testing.assert_allclose(log_roots(factors, (1, 1)), others, rtol=1e-5)


@pytest.mark.parametrize("p", [4.0, 8.0])
def test_scalings_at_flaxs_initialisation_are_those_of_double_precision(p):
    class CNN(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(6):
                x = nn.relu(nn.Conv(8, (3, 3))(x))
            return nn.Dense(2)(x.mean((1, 2)))

    x = networks.spec(1, 4, 4, 3)
    params = CNN().init(jax.random.key(0), jnp.zeros(x.shape))["params"]
    gamma = pathsgd.path_scaling(
        pathsgd.trace_linen(CNN(), {"params": params}, x), params, p
    )
    np.testing.assert_array_equal(gamma["Dense_0"]["bias"], 1)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        network = pathsgd.trace_linen(CNN(), {"params": wide}, x)
        wanted = pathsgd.path_scaling(network, wide, p)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), gamma, wanted
    )


def test_rows_of_a_stack_that_is_unrolled_have_exponents_of_their_own():
    params = jnp.float32([[[1e-30]], [[1e20]], [[1e25]]])

    def apply_fn(params, x):
        for k in range(3):
            x = jax.nn.relu(x @ params[k])
        return x

    network = pathsgd.trace_network(apply_fn, params, networks.spec(1, 1))
    [factors] = network.scaling(params, 1.0).roots
    logs = log_roots(factors, params.shape).ravel()
    np.testing.assert_allclose(logs, np.log([1e45, 1e-5, 1e-10]), rtol=1e-6)


@pytest.mark.parametrize("p, damping", [(2, 0), (3.5, 0.3)])
@pytest.mark.parametrize("zeros", [(0,), (1,), (0, 1), (0, 2)], ids=str)
def test_slopes_of_layers_of_zeros_are_those_of_what_leaves_them(zeros, p, damping):
    def apply_fn(params, x):
        for kernel, bias in params[:-1]:
            x = jax.nn.relu(x @ kernel + bias[None])
        return x @ params[-1][0] + params[-1][1][None]

    widths = (3, 4, 4, 2)
    shapes = [(np.ones(w), np.ones(w[1])) for w in itertools.pairwise(widths)]
    params = networks.random_like(shapes, seed=1)
    for layer in zeros:
        params[layer] = jax.tree.map(jnp.zeros_like, params[layer])
    network = pathsgd.trace_network(apply_fn, params, networks.spec(1, 3))
    transformation = pathsgd.scale_by_path_norm(network, p, damping=damping)
    ones = jax.tree.map(jnp.ones_like, params)
    state = transformation.init(params)
    updates, _ = jax.jit(transformation.update)(ones, state, params)
    gamma = oracles.path_scaling(params, p, damping=damping)
    pairs = zip(jax.tree.leaves(updates), jax.tree.leaves(gamma), strict=True)
    for update, wanted in pairs:
        live = np.asarray(wanted) > 0
        expected = np.where(live, 1 / np.where(live, wanted, 1), 0)
        np.testing.assert_allclose(update, expected, rtol=1e-4)


def test_orders_beyond_the_exponents_of_the_dtype_are_refused():
    def matmul(params, x):
        return x @ params

    params = jnp.ones((2, 2))
    network = pathsgd.trace_network(matmul, params, networks.spec(1, 2))
    assert pathsgd.path_norm(network, params, 32) > 0
    for p in (33, 64, 200):
        with pytest.raises(ValueError, match=r"p = \d+ is too large for float32"):
            pathsgd.path_norm(network, params, p)
        with pytest.raises(ValueError, match=r"p = \d+ is too large for float32"):
            pathsgd.path_scaling(network, params, p)
    with jax.enable_x64(True):
        wide = jnp.ones((2, 2), jnp.float64)
        network = pathsgd.trace_network(
            matmul, wide, networks.spec(1, 2, dtype=jnp.float64)
        )
        np.testing.assert_allclose(
            pathsgd.path_norm(network, wide, 200), 4 ** (1 / 200)
        )
        with pytest.raises(ValueError, match=r"Use p up to 256, or layered"):
            pathsgd.path_norm(network, wide, 257)


def test_the_slope_of_a_value_is_the_sum_over_its_uses():
    tape = Tape()
    x = tape.leaf(_mass.of_exponent(jnp.float32([1.0, 2.0]), 3))
    unused = tape.leaf(_mass.of_exponent(jnp.ones(3), 0))

    def scaled_by(factor, exponent):
        def pull(slopes):
            [slope] = slopes
            return [_mass.of_exponent(factor * slope.mantissa, exponent)]

        return tape.record([_mass.of_exponent(factor * x.mantissa, 3)], [x], pull)[0]

    one = _mass.of_exponent(jnp.ones(2), 0)
    ends = tape.ends([End(scaled_by(3, 300), one), End(scaled_by(5, 298), one)])
    slope, none = tape.slopes(ends, [x, unused])
    wanted = operator.add(3, 5 / 4)
    np.testing.assert_array_equal(
        np.ldexp(np.float64(slope.mantissa), slope.exponent), np.ldexp(wanted, 300)
    )
    np.testing.assert_array_equal(none.mantissa, 0)
