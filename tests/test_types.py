"""Arguments that are numbers: what is accepted, and what the messages say."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pathsgd_optax as pathsgd
from tests import networks


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
    with pytest.raises(ValueError, match=r"[pq] must be a Python number .*before jit"):
        call(p)


@pytest.mark.parametrize("call", TAKES_ORDER.values(), ids=TAKES_ORDER)
def test_an_order_that_is_a_jax_array_is_refused(call):
    with pytest.raises(ValueError, match=r"[pq] must be a Python number .*ArrayImpl"):
        call(jnp.float32(2))


def test_a_traced_order_is_refused():
    with pytest.raises(
        ValueError, match=r"p must be a Python number .*fixed before jit"
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
    with pytest.raises(ValueError, match=rf"{name} must be finite and at least 0.*got"):
        pathsgd.scale_by_path_norm(**{name: value})


@pytest.mark.parametrize("name", ["exponent", "damping"])
@pytest.mark.parametrize("value", [True, "1", None, jnp.float32(1)], ids=repr)
def test_an_exponent_or_damping_that_is_no_number_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be a Python number"):
        pathsgd.scale_by_path_norm(**{name: value})


def test_zoo_parameters_are_float32_without_x64():
    params = networks.dense_tree((2, 3, 1))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    assert not jax.config.jax_enable_x64
