"""The registry of path rules, and rules that no network of the zoo needs."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Primitive, primitives
from jax.interpreters import mlir

import pathsgd_optax as pathsgd
from tests import networks, paths


largest = Primitive("largest_of_two")
largest.def_impl(jnp.maximum)
largest.def_abstract_eval(lambda x, y, **_: x)
mlir.register_lowering(largest, mlir.lower_fun(jnp.maximum, multiple_results=False))


FIRST_TWO = np.arange(4)[None] < 2


def spec_of_one():
    return networks.spec(1, 1)


def norm(apply_fn, params, x, p=1):
    network = pathsgd.trace_network(apply_fn, params, x)
    return pathsgd.path_norm(network, params, p), network


def test_a_rule_is_for_masses_of_one_scale():
    pathsgd.register_path_rule(largest, lambda x, y: x + y)
    params = {"v": jnp.float32([[3.0], [1e-20]]), "w": jnp.float32([[4.0], [1e20]])}

    def apply_fn(params, x):
        return largest.bind(x @ params["v"], x @ params["w"])

    phi, network = norm(apply_fn, params, networks.spec(1, 2))
    np.testing.assert_allclose(phi, 1e20, rtol=1e-6)
    assert [parameter.role for parameter in network.parameters] == ["weight"] * 2


def test_a_rule_that_was_registered_is_replaced():
    """As when a notebook's cell is run again."""
    params = jnp.float32([[3.0]])
    for factor in (1, 1, 2):
        pathsgd.register_path_rule(largest, lambda x, y, k=factor: k * (x + y))
        phi, _ = norm(
            lambda w, x: largest.bind(x @ w, x @ w), params, networks.spec(1, 1)
        )
        assert phi == 6 * factor


def test_a_network_keeps_the_rules_that_it_was_traced_with():
    params, found = jnp.float32([[3.0]]), []
    for factor in (1, 2):
        pathsgd.register_path_rule(largest, lambda x, y, k=factor: k * (x + y))
        network = pathsgd.trace_network(
            lambda w, x: largest.bind(x @ w, x @ w), params, spec_of_one()
        )
        found.append(network)
    assert [pathsgd.path_norm(network, params, 1) for network in found] == [6, 12]


def test_a_rule_of_ones_own_may_make_weights():
    pathsgd.register_path_rule(largest, lambda x, y: x + y)
    params = {"v": jnp.float32([[3.0]]), "w": jnp.float32([[4.0]])}
    phi, network = norm(
        lambda params, x: jax.nn.relu(x @ largest.bind(params["v"], params["w"])),
        params,
        networks.spec(1, 1),
    )
    assert phi == 7
    assert [parameter.uses for parameter in network.parameters] == [1, 1]


@pytest.mark.parametrize(
    "primitive",
    [
        primitives.mul_p,
        primitives.sub_p,
        primitives.jit_p,
        primitives.scan_p,
        primitives.cond_p,
        primitives.random_bits_p,
    ],
    ids=str,
)
def test_rules_of_the_library_cannot_be_replaced(primitive):
    with pytest.raises(
        ValueError, match=f"the primitive {primitive.name} has a path rule"
    ):
        pathsgd.register_path_rule(primitive, lambda x, y: x)


def test_only_operations_that_may_have_a_rule_are_sent_to_register_path_rule():
    """What an error of a built-in rule says to do must be true."""
    functions = {
        primitives.tan_p: jnp.tan,
        primitives.mul_p: lambda x: x * x,
        primitives.div_p: lambda x: 1 / x,
        primitives.integer_pow_p: lambda x: x**3,
        primitives.clamp_p: lambda x: jnp.clip(x, -1, 1),
        primitives.dot_general_p: lambda x: jnp.einsum("ab,ab->a", x, x)[:, None],
        primitives.convert_element_type_p: lambda x: x.astype(int).astype(x.dtype),
    }
    with jax.numpy_dtype_promotion("standard"):
        for primitive, function in functions.items():
            with pytest.raises(ValueError, match="has no path semantics") as error:
                norm(lambda w, x, f=function: f(x @ w), jnp.ones((1, 2)), spec_of_one())
            assert ("register_path_rule" in str(error.value)) == (
                primitive is primitives.tan_p
            )


@pytest.mark.parametrize(
    "function, wanted",
    [
        (lambda x: jnp.maximum(x, 0), 10),
        (lambda x: jnp.minimum(0, x), 10),
        (lambda x: -jnp.maximum(-x, jnp.zeros_like(x)), 10),
        (lambda x: jnp.maximum(x, -jnp.inf), 10),
        (lambda x: jnp.maximum(x, np.zeros(4, np.float32)[None]), 10),
        (lambda x: jnp.maximum(x, 0.5 * x), 10),
        (lambda x: jnp.minimum(x, 3 * x), 30),
        (lambda x: jnp.maximum(x, -x), 10),
        (lambda x: (jnp.abs(x - 2.0) + (x - 2.0)) / 2, 10 + 4 * 2),
        (lambda x: jnp.where(x - 2.0 > 0, x - 2.0, 0), 10 + 4 * 2),
        (lambda x: jnp.maximum(x, 0.5 * x[:, ::-1]), 15),
        (
            lambda x: jnp.max(x, 1, where=jnp.arange(4)[None] < 2, initial=-jnp.inf)[
                :, None
            ],
            3,
        ),
        (lambda x: jnp.where(x > 0, 2 * x, 0.25 * x), 20),
        (lambda x: jnp.where(-x > 0, 0.25 * x, x), 10),
        (lambda x: jnp.max(x, -1, keepdims=True), 10),
        (lambda x: jnp.min(x.reshape(-1, 2, 2), -1), 10),
        (lambda x: lax.cummax(x, 1), 1 + 3 + 6 + 10),
        (lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2), (1, 1), "SAME"), 19),
        (lambda x: jnp.where(x > 0, x, 0.25 * x), 10),
        (lambda x: jnp.where(x < 0, 0.25 * x, x), 10),
        (lambda x: jnp.where(0 > x, 0, x), 10),
        (lambda x: jnp.where(x >= 0, 0, x), 10),
        (lambda x: jnp.where(FIRST_TWO, x, 0), 3),
        (lambda x: jnp.where(FIRST_TWO, x, -x), 10),
        (lambda x: jnp.where(FIRST_TWO, x, 5.0), 3 + 2 * 5),
        (lambda x: x.at[:, 1:3].set(0), 5),
        (lambda x: x.at[:, 0].add(-x[:, 3]), 14),
        (lambda x: lax.dynamic_update_slice(x, -x[:, :1], (0, 3)), 7),
        (lambda x: lax.dynamic_slice(x, (0, 1), (1, 2)), 5),
        (lambda x: jnp.pad(x, ((0, 0), (1, 1))), 10),
        (lambda x: jnp.roll(x[:, ::-1], 1, 1), 10),
        (lambda x: jnp.split(x, 2, 1)[1], 7),
        (lambda x: jnp.repeat(x, 2, 1), 20),
        (lambda x: jnp.tile(x, 3), 30),
        (lambda x: x - 2.0, 10 + 4 * 2),
        (lambda x: 2.0 - x, 10 + 4 * 2),
        (lambda x: (x - 2.0) * 3.0 + 6.0, 30),
        (lambda x: (x - 2.0) / 4.0, (10 + 4 * 2) / 4),
        (lambda x: jnp.sum(x - 2.0, -1, keepdims=True), 10 + 4 * 2),
        (lambda x: lax.optimization_barrier((x, x))[1], 10),
        (lambda x: checkpoint_name(jax.device_put(jnp.copy(x)), "x"), 10),
        (lambda x: lax.reduce_precision(x, 8, 7), 10),
        (lambda x: lax.stop_gradient(x).astype(jnp.bfloat16).astype(jnp.float32), 10),
        (lambda x: lax.fori_loop(0, 3, lambda _, y: 2 * y, x), 80),
        (lambda x: jax.vmap(jnp.cumsum)(x), 1 + 3 + 6 + 10),
        (lambda x: x @ jnp.ones((4, 3)) / 3, 10),
        (jnp.nan_to_num, 10),
        (lambda x: jnp.where(jnp.isnan(x) | jnp.isinf(x), 0, x), 10),
        (lambda x: jnp.where(jnp.isfinite(x), x, 0), 10),
        (lambda x: jnp.median(x, 1, keepdims=True), 10),
    ],
)
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype:UserWarning")
def test_the_path_norm_of(function, wanted):
    params = jnp.float32([[1, -2, 3, -4]])
    phi, _ = norm(lambda w, x: function(x @ w), params, networks.spec(1, 1))
    np.testing.assert_allclose(phi, wanted, rtol=1e-6)


def test_biases_beside_each_other_are_edges_of_their_own():
    params = {"a": jnp.float32([3.0]), "b": jnp.float32([-3.0])}

    def apply_fn(params, x):
        return x + params["a"][None] + params["b"][None]

    assert norm(apply_fn, params, networks.spec(1, 1))[0] == 1 + 3 + 3


def test_a_bias_and_the_constant_before_it_are_one_edge():
    params = {"b": jnp.float32([3.0]), "w": jnp.ones((1, 1))}
    phi, network = norm(
        lambda params, x: (x @ params["w"] - 1.0) * 2.0 + params["b"][None],
        params,
        networks.spec(1, 1),
    )
    assert phi == 2 + 1
    assert pathsgd.path_scaling(network, params)["b"] == 1


def test_weights_may_be_made_of_weights():
    params = {"s": jnp.float32([[2.0]]), "t": jnp.float32([[-3.0]])}

    def apply_fn(params, x):
        return x * ((1.0 + params["s"]) * (1.0 - params["t"]))

    assert norm(apply_fn, params, networks.spec(1, 1))[0] == (1 + 2) * (1 + 3)


@pytest.mark.parametrize(
    "function, product",
    [
        (lambda w: w**2, lambda w: w * w),
        (jnp.square, lambda w: w * w),
        (lambda w: w**2.0, lambda w: w * w),
        (lambda w: w**3, lambda w: w * w * w),
        (lambda w: (1 + w) ** 2, lambda w: (1 + w) * (1 + w)),
        (lambda w: lax.integer_pow(w, 5), lambda w: w * w * w * w * w),
    ],
)
def test_a_power_of_a_weight_is_a_product(function, product):
    measures = map(paths.of_weight, (function, product))
    chex.assert_trees_all_close(*measures, rtol=1e-6)


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda w: w**-1, "integer_pow .* divides by a parameter.*train the inverse"),
        (lambda w: w**-1.5, "pow .*a parameter enters it"),
        (lambda w: 2.0**w, "pow .*a parameter enters it"),
        (lambda w: 1 / w, "div .* divides by a parameter.*train the inverse"),
        (lambda w: w / jnp.sqrt((w * w).sum()), "sqrt .*WeightNorm.*the normalised"),
        (jax.nn.softplus, "jax.nn.softplus .*a parameter enters it.*train what it ret"),
        (jnp.exp, "exp .*a parameter enters it.*train what it returns"),
    ],
)
def test_weights_that_are_no_products_are_refused(function, message):
    with pytest.raises(ValueError, match=message):
        norm(lambda w, x: x @ function(w), jnp.ones((1, 2)), spec_of_one())


@pytest.mark.parametrize(
    "function",
    [
        lambda w: jnp.maximum(w, 0),
        lambda w: jnp.where(w > 0, w, 0),
        lambda w: jnp.maximum(w, w[:, ::-1]),
        lambda w: jnp.max(w, 1, keepdims=True),
    ],
)
def test_weights_are_linear_in_parameters(function):
    with pytest.raises(ValueError, match="a parameter enters it, and it isn't linear"):
        norm(lambda w, x: x @ function(w), jnp.ones((1, 2)), networks.spec(1, 1))


def test_a_weight_in_a_maximum_is_a_bias():
    params = {"w": jnp.ones((1, 1)), "b": jnp.ones((1, 1))}
    _, network = norm(
        lambda w, x: jnp.maximum(x @ w["w"], w["b"]), params, networks.spec(1, 1)
    )
    assert [(x.role, x.uses) for x in network.parameters] == [
        ("bias", 1),
        ("weight", 1),
    ]
