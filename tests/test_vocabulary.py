"""Arguments that are numbers: what is accepted, and what the messages say."""

import functools
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn, nnx

import pathsgd_optax as pathsgd
from tests import networks
from tests.optimizers import ALIASES, TRANSFORMATIONS


PARAMS = {"Dense_0": {"kernel": np.ones((2, 3), np.float32)}}
NETWORK = pathsgd.layered_network(PARAMS)

TAKES_ORDER = {
    "path_norm": lambda p: pathsgd.path_norm(NETWORK, PARAMS, p),
    "log_path_norm": lambda p: pathsgd.log_path_norm(NETWORK, PARAMS, p),
    "path_scaling": lambda p: pathsgd.path_scaling(NETWORK, PARAMS, p),
    "group_norm": lambda p: pathsgd.group_norm(NETWORK, PARAMS, p),
    "group_norm of q": lambda q: pathsgd.group_norm(NETWORK, PARAMS, 2, q),
    "max_norm": lambda p: pathsgd.max_norm(NETWORK, PARAMS, p),
    "balance": lambda p: pathsgd.balance(NETWORK, PARAMS, p),
    "scale_by_path_norm": lambda p: pathsgd.scale_by_path_norm(p=p),
    "path_sgd": lambda p: pathsgd.path_sgd(0.1, p=p),
}


@pytest.mark.parametrize("call", TAKES_ORDER.values(), ids=TAKES_ORDER)
@pytest.mark.parametrize("p", [0.5, 0, -1, -float("inf"), float("nan")])
def test_an_order_below_one_is_refused(call, p):
    with pytest.raises(ValueError, match=r"[pq] must be at least 1 .*but got"):
        call(p)


@pytest.mark.parametrize("call", TAKES_ORDER.values(), ids=TAKES_ORDER)
@pytest.mark.parametrize("p", [True, "2", None, 2j], ids=repr)
def test_an_order_that_is_no_real_number_is_refused(call, p):
    with pytest.raises(ValueError, match=r"[pq] must be a Python number.*before jit"):
        call(p)


@pytest.mark.parametrize("call", TAKES_ORDER.values(), ids=TAKES_ORDER)
def test_an_order_that_is_a_jax_array_is_refused(call):
    with pytest.raises(
        ValueError, match=r"[pq] must be a Python number.*an array float32"
    ):
        call(jnp.float32(2))


def test_a_traced_order_is_refused():
    with pytest.raises(
        ValueError, match=r"p must be a Python number.*fixed before jit"
    ):
        jax.jit(lambda p: pathsgd.path_norm(NETWORK, PARAMS, p))(2.0)


@pytest.mark.parametrize(
    "p", [2, 2.0, np.float32(2), np.int64(2), Fraction(2)], ids=repr
)
def test_any_real_number_is_an_order(p):
    assert pathsgd.path_norm(NETWORK, PARAMS, p) == pytest.approx(6**0.5)


@pytest.mark.parametrize("name", ["exponent", "damping"])
@pytest.mark.parametrize("value", [-1.0, -1e-9, float("nan"), float("inf")])
def test_a_negative_exponent_or_damping_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be (finite|a number).*but got"):
        pathsgd.scale_by_path_norm(**{name: value})


@pytest.mark.parametrize("value", [True, "1", None, jnp.float32(1)], ids=repr)
def test_an_exponent_that_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match=r"exponent must be a Python number"):
        pathsgd.scale_by_path_norm(exponent=value)


@pytest.mark.parametrize("value", [True, "1", None, jnp.ones(2)], ids=repr)
def test_a_damping_that_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match=r"damping must be a number or a scalar"):
        pathsgd.scale_by_path_norm(damping=value)


# Arguments in the wrong places.

MODEL = nn.Dense(3)

TAKES_NETWORK = {
    **TRANSFORMATIONS,
    "path_norm": lambda network: pathsgd.path_norm(network, PARAMS),
    "log_path_norm": lambda network: pathsgd.log_path_norm(network, PARAMS),
    "path_scaling": lambda network: pathsgd.path_scaling(network, PARAMS),
    "group_norm": lambda network: pathsgd.group_norm(network, PARAMS),
    "max_norm": lambda network: pathsgd.max_norm(network, PARAMS),
    "balance": lambda network: pathsgd.balance(network, PARAMS),
    "rescale": lambda network: pathsgd.rescale(network, PARAMS, 0, 0, 2.0),
    "unbalance": lambda network: pathsgd.unbalance(network, PARAMS, jax.random.key(0)),
}
WRONG = {
    "order": (2, "2"),
    "model": (MODEL, "a Dense"),
    "params": (PARAMS, "a dict"),
    "function": (MODEL.apply, "a method"),
    "class": (pathsgd.LayeredNetwork, "the class LayeredNetwork"),
    "array": (PARAMS["Dense_0"]["kernel"], r"an array float32\[2, 3\]"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("call", TAKES_NETWORK.values(), ids=TAKES_NETWORK)
def test_what_is_no_network_is_refused_in_one_line(call, wrong):
    value, name = WRONG[wrong]
    with pytest.raises(ValueError, match=rf"network.* but got {name}\.") as error:
        call(value)
    assert "\n" not in str(error.value)


TAKES_NUMBER = {
    **ALIASES,
    "clip": pathsgd.clip_by_path_metric,
    "penalty": pathsgd.add_path_norm_penalty,
}


@pytest.mark.parametrize("call", TAKES_NUMBER.values(), ids=TAKES_NUMBER)
@pytest.mark.parametrize(
    "value", [NETWORK, PARAMS, None, "0.1", True, np.ones(2)], ids=lambda x: type(x)
)
def test_what_is_no_number_is_refused_in_one_line(call, value):
    with pytest.raises(ValueError, match=r"must be a number .*but got") as error:
        call(value, NETWORK)
    assert "\n" not in str(error.value)


HYPERPARAMETERS = {
    pathsgd.path_sgd: ("momentum", "weight_decay"),
    pathsgd.path_adagrad: ("initial_accumulator_value", "eps", "weight_decay"),
    pathsgd.path_rmsprop: ("decay", "eps", "momentum", "weight_decay"),
    pathsgd.path_adam: ("b1", "b2", "eps", "eps_root", "weight_decay"),
    pathsgd.path_lars: ("momentum", "weight_decay"),
    pathsgd.path_lamb: ("b1", "b2", "eps", "eps_root", "weight_decay"),
}
each_hyperparameter = pytest.mark.parametrize(
    "make, name", [(make, x) for make, names in HYPERPARAMETERS.items() for x in names]
)


@each_hyperparameter
@pytest.mark.parametrize("value", [NETWORK, "0.1", True, np.ones(2)], ids=type)
def test_a_hyperparameter_that_is_no_number_is_refused_when_made(make, name, value):
    with pytest.raises(ValueError, match=f"{name} must be a number .*but got") as error:
        make(0.1, NETWORK, **{name: value})
    assert "\n" not in str(error.value)


RANGES = {
    pathsgd.path_sgd: {"momentum": (-0.1,)},
    pathsgd.path_adagrad: {"initial_accumulator_value": (-1,), "eps": (-1e-9,)},
    pathsgd.path_rmsprop: {"decay": (1, 1.1, -0.1), "momentum": (-1,), "eps": (-1,)},
    pathsgd.path_adam: {
        "b1": (1, -0.1, float("inf")),
        "b2": (1.0, 2, -1),
        "eps": (-1e-9,),
        "eps_root": (-1,),
    },
    pathsgd.path_lars: {"momentum": (-0.1,)},
    pathsgd.path_lamb: {"b1": (1,), "b2": (1.0,), "eps": (-1e-9,), "eps_root": (-1,)},
}


@pytest.mark.parametrize(
    "make, name, value",
    [
        (make, name, value)
        for make, ranges in RANGES.items()
        for name, values in ranges.items()
        for value in values
    ],
)
def test_a_hyperparameter_out_of_its_range_is_refused_when_made(make, name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be (in \[0, 1\)|at least 0)"):
        make(0.1, NETWORK, **{name: value})
    make(0.1, NETWORK, **{name: 0.0})


def test_weight_decay_can_have_a_schedule():
    def decay(count):
        return jnp.where(count == 0, 0.5, 1.0)

    optimizer = pathsgd.path_sgd(1.0, NETWORK, weight_decay=decay)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    state = optimizer.init(PARAMS)
    for rate in (0.5, 1.0):
        updates, state = optimizer.update(zeros, state, PARAMS)
        np.testing.assert_allclose(updates["Dense_0"]["kernel"], -rate)


@pytest.mark.parametrize("value", [optax.adam, 0.1, PARAMS, NETWORK, "adam"], ids=type)
@pytest.mark.parametrize("name", ["inner", "fallback"])
def test_what_is_no_transformation_is_refused_when_made(name, value):
    make = {
        "inner": pathsgd.precondition_by_path_norm,
        "fallback": lambda fallback: pathsgd.path_adam(0.1, fallback=fallback),
    }
    with pytest.raises(ValueError, match=rf"{name}.* must be .*optax\.adam\(") as error:
        make[name](value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [-1, -0.1, -float("inf")])
def test_a_bound_below_zero_is_refused_when_made(value):
    with pytest.raises(ValueError, match=r"max_norm must be at least 0 .*but got"):
        pathsgd.clip_by_path_metric(value)


def test_a_network_in_the_place_of_the_learning_rate_is_refused():
    with pytest.raises(ValueError, match=r"learning_rate, the first.*a LayeredNetwork"):
        pathsgd.path_sgd(NETWORK, 0.1)


@pytest.mark.parametrize("call", TAKES_NUMBER.values(), ids=TAKES_NUMBER)
@pytest.mark.parametrize(
    "value", [1, 0.1, np.float32(0.1), np.array(0.1), jnp.array(0.1)], ids=repr
)
def test_numbers_and_scalar_arrays_are_numbers(call, value):
    call(value, NETWORK).init(PARAMS)
    jax.jit(lambda value: call(value, NETWORK).init(PARAMS))(value)


@pytest.mark.parametrize(
    "name, value", [("p", 2), ("update_every", 10), ("exponent", 1.0)]
)
def test_static_arguments_are_named_where_hyperparameters_are_injected(name, value):
    others = {"p", "exponent"} - {name}
    inject = optax.inject_hyperparams(pathsgd.scale_by_path_norm, others)
    message = rf'{name} must be .*inject_hyperparams.*static_args=\("{name}", \.\.\.'
    with pytest.raises(ValueError, match=message) as error:
        inject(**{name: value}).init(PARAMS)
    assert "\n" not in str(error.value)


# Flags, schedules and other functions.

PLAIN = nn.Dense(3, use_bias=False)

FLAGS = {
    pathsgd.path_sgd: ("nesterov", "relative_to_start", "monitor"),
    pathsgd.path_adagrad: ("relative_to_start", "monitor"),
    pathsgd.path_rmsprop: ("nesterov", "relative_to_start", "monitor"),
    pathsgd.path_adam: ("nesterov", "relative_to_start", "monitor"),
    pathsgd.path_lars: ("nesterov", "relative_to_start", "monitor"),
    pathsgd.path_lamb: ("relative_to_start", "monitor"),
    pathsgd.scale_by_path_norm: ("relative_to_start", "monitor"),
    pathsgd.precondition_by_path_norm: ("relative_to_start", "monitor"),
    pathsgd.layered_network: ("scanned",),
    pathsgd.trace_network: ("gates",),
    pathsgd.trace_linen: ("gates",),
    pathsgd.trace_nnx: ("gates",),
}
FIRST = {
    pathsgd.scale_by_path_norm: (NETWORK,),
    pathsgd.precondition_by_path_norm: (optax.identity(), NETWORK),
    pathsgd.layered_network: (PARAMS,),
    pathsgd.trace_network: (networks.apply, PARAMS, np.ones((1, 2))),
    pathsgd.trace_linen: (PLAIN, {"params": PARAMS["Dense_0"]}, np.ones((1, 2))),
    pathsgd.trace_nnx: (nnx.Linear(2, 3, rngs=nnx.Rngs(0)), np.ones((1, 2))),
}


@pytest.mark.parametrize(
    "make, name", [(make, name) for make, names in FLAGS.items() for name in names]
)
@pytest.mark.parametrize(
    "value", [1, 0.0, "yes", None, jnp.array(True), PARAMS, MODEL.apply], ids=type
)
def test_a_flag_that_is_no_bool_is_refused_when_made(make, name, value):
    first = FIRST.get(make, (0.1, NETWORK))
    with pytest.raises(ValueError, match=f"^{name} must be True or False") as error:
        make(*first, **{name: value})
    assert "\n" not in str(error.value)
    make(*first, **{name: np.bool_(False)})


def test_flags_can_be_among_injected_hyperparameters():
    optimizer = optax.inject_hyperparams(pathsgd.path_sgd, "p")(0.1, monitor=True)
    _, state = jax.jit(optimizer.update)(PARAMS, optimizer.init(PARAMS), PARAMS)
    assert optax.tree.get(state, "path_metric") > 0


@pytest.mark.parametrize("call", TAKES_NUMBER.values(), ids=TAKES_NUMBER)
@pytest.mark.parametrize("value", [float("nan"), np.float32("nan"), np.bool_(True)])
def test_what_is_not_a_number_or_a_truth_value_is_no_number(call, value):
    with pytest.raises(ValueError, match=r"must be a number .*but got"):
        call(value, NETWORK)


SCHEDULED = {
    "learning_rate": pathsgd.path_adam,
    "weight_decay": lambda value: pathsgd.path_sgd(0.1, NETWORK, weight_decay=value),
}


@pytest.mark.parametrize("name", SCHEDULED)
@pytest.mark.parametrize(
    "value", [lambda: 0.1, lambda count, params: 0.1, nn.Dense], ids=["0", "2", "type"]
)
def test_a_function_that_is_no_schedule_is_refused_when_made(name, value):
    message = f"^{name}.* must be a function of the number of updates, but got"
    with pytest.raises(ValueError, match=message) as error:
        SCHEDULED[name](value)
    assert "\n" not in str(error.value)


@pytest.mark.optax
@pytest.mark.parametrize("name", SCHEDULED)
@pytest.mark.parametrize(
    "value", [jnp.ones(3), "0.1", None, optax.sgd(0.1), jnp.array(True)], ids=type
)
def test_a_schedule_of_something_else_than_numbers_is_refused_at_update(name, value):
    optimizer = SCHEDULED[name](lambda count: value)
    state = optimizer.init(PARAMS)
    message = rf"^{name}\(count\) must be a number .*but got"
    with pytest.raises(ValueError, match=message) as error:
        optimizer.update(PARAMS, state, PARAMS)
    assert "\n" not in str(error.value)


@pytest.mark.optax
@pytest.mark.parametrize(
    "schedule",
    [
        optax.cosine_decay_schedule(0.1, 10),
        functools.partial(lambda rate, count: rate / (1 + count), 0.1),
        jax.jit(lambda count: 0.1 / (1 + count)),
        lambda count, scale=0.1: scale,
        np.cbrt,
    ],
)
def test_any_function_of_the_count_is_a_schedule(schedule):
    optimizer = pathsgd.path_sgd(schedule, NETWORK)
    optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)


@pytest.mark.parametrize("value", [lambda: True, lambda a, b: True, nn.Dense])
def test_a_function_that_is_no_mask_is_refused_when_made(value):
    with pytest.raises(ValueError, match="mask must be a function of the params, but"):
        pathsgd.scale_by_path_norm(mask=value)


# Other arguments, of other types.

HIDDEN = networks.dense_tree((2, 3, 1))
DEEP = pathsgd.layered_network(HIDDEN)
STATE = pathsgd.path_sgd(0.1, DEEP).init(HIDDEN)
KEY = jax.random.key(0)

OTHERS = {
    "layer": lambda value: pathsgd.rescale(DEEP, HIDDEN, value, 0, 2.0),
    "unit": lambda value: pathsgd.rescale(DEEP, HIDDEN, 0, value, 2.0),
    "c": lambda value: pathsgd.rescale(DEEP, HIDDEN, 0, 0, value),
    "key": lambda value: pathsgd.unbalance(DEEP, HIDDEN, value),
    "count": lambda value: pathsgd.unbalance(DEEP, HIDDEN, KEY, value),
    "scale": lambda value: pathsgd.unbalance(DEEP, HIDDEN, KEY, 2, value),
    "sigma": lambda value: pathsgd.unbalance(DEEP, HIDDEN, KEY, 2, 2.0, value),
    "x": lambda value: pathsgd.layered_network(
        HIDDEN, apply_fn=networks.apply, x=value
    ),
    "module": lambda value: pathsgd.trace_linen(value, {"params": {}}, np.ones((1, 2))),
    "variables": lambda value: pathsgd.trace_linen(MODEL, value, np.ones((1, 2))),
    "model": lambda value: pathsgd.trace_nnx(value, np.ones((1, 2))),
    "primitive": lambda value: pathsgd.register_path_rule(value, jnp.tanh),
    "constants": lambda value: pathsgd.set_constants(STATE, [value]),
    "logits": lambda value: pathsgd.truncated_softmax_cross_entropy(
        value, np.array([1])
    ),
    "labels": lambda value: pathsgd.truncated_softmax_cross_entropy(
        np.ones((1, 2), np.float32), value
    ),
}
TYPES = {"str": "1", "function": MODEL.apply, "class": nn.Dense, "object": object()}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("value", TYPES.values(), ids=TYPES)
def test_an_argument_of_another_type_is_refused_by_its_name_in_one_line(name, value):
    with pytest.raises(ValueError, match=rf"\b{name}\b") as error:
        OTHERS[name](value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250


@pytest.mark.parametrize("value", TYPES.values(), ids=TYPES)
def test_a_traced_network_tells_which_leaf_is_no_array(value):
    traced = pathsgd.trace_network(networks.apply, HIDDEN, np.ones((1, 2)))
    with pytest.raises(ValueError, match=r"^x\[0\] must be an array or a number, but"):
        pathsgd.trace_network(networks.apply, HIDDEN, [value])
    message = r"^constants\['a'\] must be an array or a number, but got"
    with pytest.raises(ValueError, match=message):
        pathsgd.trace_network(networks.apply, HIDDEN, np.ones((1, 2)), {"a": value})
    with pytest.raises(ValueError, match=message):
        pathsgd.path_norm(traced, HIDDEN, constants={"a": value})


def test_a_rule_that_is_no_function_is_refused():
    with pytest.raises(ValueError, match=r"takes a primitive, .*and a function, but"):
        pathsgd.register_path_rule(jax.extend.core.primitives.tanh_p, None)


@pytest.mark.parametrize("name", ["layer", "count", "scale", "sigma", "c", "unit"])
def test_a_truth_value_is_no_number(name):
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        OTHERS[name](True)


@pytest.mark.parametrize(
    "trace, module, remedy",
    [
        (pathsgd.trace_nnx, MODEL, "a linen module, .*trace_linen takes"),
        (
            lambda module, x: pathsgd.trace_linen(module, {"params": {}}, x),
            nnx.Linear(2, 3, rngs=nnx.Rngs(0)),
            "an nnx module, .*trace_nnx takes",
        ),
    ],
    ids=["linen", "nnx"],
)
def test_a_module_of_the_other_flax_is_told_apart(trace, module, remedy):
    with pytest.raises(ValueError, match=remedy):
        trace(module, np.ones((1, 2)))


class Transformed(NamedTuple):
    """A pair of functions, as haiku makes them."""

    init: Any
    apply: Any


@pytest.mark.parametrize(
    "apply_fn, remedy",
    [
        (PLAIN, "calls its apply"),
        (Transformed(PLAIN.init, PLAIN.apply), "a Transformed.*calls its apply"),
        (NETWORK, "a LayeredNetwork. Pass a function[.]"),
    ],
    ids=["linen", "haiku", "network"],
)
@pytest.mark.parametrize(
    "take",
    [
        lambda apply_fn, x: pathsgd.trace_network(apply_fn, PARAMS, x),
        lambda apply_fn, x: pathsgd.layered_network(PARAMS, apply_fn=apply_fn, x=x),
        lambda apply_fn, x: pathsgd.scale_symmetries(apply_fn, PARAMS, x),
    ],
    ids=["trace_network", "layered_network", "scale_symmetries"],
)
def test_what_is_no_function_is_refused_as_one(take, apply_fn, remedy):
    with pytest.raises(ValueError, match=f"must be a function of params.*{remedy}"):
        take(apply_fn, np.ones((1, 2), np.float32))


def test_params_in_the_place_of_variables_are_refused():
    with pytest.raises(ValueError, match=r'Give params as \{"params": params\}'):
        pathsgd.trace_linen(PLAIN, PARAMS["Dense_0"], np.ones((1, 2)))
    network = pathsgd.trace_linen(PLAIN, {"params": PARAMS["Dense_0"]}, np.ones((1, 2)))
    assert pathsgd.path_norm(network, PARAMS["Dense_0"]) == pytest.approx(6**0.5)


def test_zoo_parameters_are_float32_without_x64():
    params = networks.dense_tree((2, 3, 1))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    assert not jax.config.jax_enable_x64
