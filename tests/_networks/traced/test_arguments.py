"""What `trace_network` and its networks say of trees that are not what they take."""

import copy
import dataclasses
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn, nnx

import pathsgd_optax as pathsgd
from tests import networks


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Whole:
    """A module whose leaves are not all arrays, as those of equinox."""

    weight: Any
    other: Any

    def __call__(self, x):
        """Applies it."""
        return x @ self.weight


WEIGHT = np.ones((3, 2), np.float32)


def traced(params, apply_fn=lambda module, x: module(x), constants=None):
    return pathsgd.trace_network(apply_fn, params, networks.spec(4, 3), constants)


@pytest.mark.parametrize(
    "other, message",
    [
        (
            jax.nn.relu,
            r"\.other is a custom_jvp, not an array\. Take it out .*partition",
        ),
        (np.tanh, r"\.other is a ufunc, not an array\. Take it out"),
        ("relu", r"\.other is 'relu', not an array\. Take it out"),
        (3, r"\.other is 3, a number, .*jnp.asarray\(3\).* close over"),
        (True, r"\.other is True, a number, "),
        (0.5, r"\.other is 0.5, a number, .*jnp.asarray\(0.5\)"),
        (np.float64(0.5), r"\.other is np.float64\(0.5\), a number, "),
        (np.arange(2), r"\.other is int64, not floating.*close over .*`constants`"),
        (np.array([True]), r"\.other is bool, not floating"),
        (np.ones(2, np.complex64), r"\.other is complex64, not floating"),
    ],
)
def test_leaves_that_are_no_weights_are_named(other, message):
    with pytest.raises(ValueError, match=message):
        traced(Whole(WEIGHT, other))


def test_what_is_said_of_whole_modules_is_true():
    """Parted into arrays and the rest, and put together again in the function."""
    leaves, treedef = jax.tree.flatten(Whole(WEIGHT, jax.nn.relu))
    params = {k: leaf for k, leaf in enumerate(leaves) if isinstance(leaf, np.ndarray)}

    def apply_fn(params, x):
        module = treedef.unflatten(
            [params.get(k, leaf) for k, leaf in enumerate(leaves)]
        )
        return module.other(module(x))

    assert pathsgd.path_norm(traced(params, apply_fn), params, 1) == 6


class Training(nn.Module):
    """A module that is told whether it is training."""

    axis: str | None = None

    @nn.compact
    def __call__(self, x, train):
        """BatchNorm and dropout."""
        norm = nn.BatchNorm(use_running_average=not train, axis_name=self.axis)
        x = norm(nn.Dense(2)(x))
        return nn.Dropout(0.5, deterministic=not train)(x)


def fails(x):
    raise TypeError(
        "the shapes are wrong\nand here is a long story about mutable state"
    )


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda v, x: Training().apply(v, x), r"TypeError: .*'train' Networks are "),
        (
            lambda v, x: Training().apply(v, x, train=True),
            r"ModifyScopeVariableError: .*batch_stats.* Networks are traced as",
        ),
        (
            lambda v, x: Training().apply(v, x, train=True, mutable=["batch_stats"])[0],
            r"InvalidRngError: .*dropout.* Networks are traced as they are evaluated",
        ),
        (
            lambda v, x: Training("batch").apply(
                v, x, train=True, mutable=["batch_stats"]
            )[0],
            r"NameError: .*unbound axis name: batch.*none on its running averages",
        ),
        (lambda v, x: fails(x), r"with TypeError: the shapes are wrong$"),
        (
            lambda v, x: x.reshape(4, 3),
            r"^apply_fn fails on one example \(the first",
        ),
    ],
)
def test_an_error_of_the_function_is_told_in_one_line(call, message):
    x = networks.spec(4, 3)
    variables = Training().init(jax.random.key(0), jnp.ones((4, 3)), train=False)
    with pytest.raises(ValueError, match=message) as error:
        pathsgd.trace_network(
            lambda params, x: call(variables | {"params": params}, x),
            variables["params"],
            x,
        )
    assert len(error.value.args[0].splitlines()) == 1


def test_what_is_said_of_axes_is_true():
    x, model = networks.spec(4, 3), Training("batch")
    variables = model.init(jax.random.key(0), jnp.ones((4, 3)), train=False)
    network = pathsgd.trace_linen(model, variables, x, train=False)
    constants = {"batch_stats": variables["batch_stats"]}
    assert pathsgd.path_norm(network, variables["params"], 1, constants) > 0


def test_an_axis_of_batchnorm_is_none_with_gates():
    """Neither in training nor in evaluation, in linen as in nnx."""
    x, model = networks.spec(4, 3), Training("batch")
    variables = model.init(jax.random.key(0), jnp.ones((4, 3)), train=False)
    params = variables["params"]
    found = [
        pathsgd.path_norm(
            pathsgd.trace_linen(module, variables, x, train, gates=True), params
        )
        for module, train in ((model, True), (model, False), (Training(), True))
    ]
    assert len({*map(float, found)}) == 1
    rngs = nnx.Rngs(0)
    norm = nnx.BatchNorm(2, axis_name="batch", rngs=rngs)
    model = nnx.Sequential(nnx.Linear(3, 2, rngs=rngs), norm)
    network = pathsgd.trace_nnx(model, x, gates=True)
    np.testing.assert_allclose(
        pathsgd.path_norm(network, nnx.state(model, nnx.Param)), found[0], rtol=1e-6
    )
    assert norm.axis_name == "batch"


def test_a_key_that_is_missing_is_asked_for():
    class Drawing(nn.Module):
        @nn.compact
        def __call__(self, x):
            """Projects on features that are drawn by a key of their own."""
            features = jax.random.normal(self.make_rng("features"), (2, 4))
            return nn.Dense(2)(x) @ features

    x, keys = networks.spec(4, 3), {"params": jax.random.key(0)}
    rngs = {"features": jax.random.key(0)}
    variables = Drawing().init(keys | rngs, jnp.ones((4, 3)))
    with pytest.raises(
        ValueError, match=r'Pass a key for it: rngs=\{"features": jax'
    ) as e:
        pathsgd.trace_linen(Drawing(), variables, x)
    assert "deterministic" not in str(e.value)
    pathsgd.trace_linen(Drawing(), variables, x, rngs=rngs)


def test_float64_weights_are_traced_without_x64():
    params = {"w": np.ones((3, 2)), "b": np.ones(2)}
    network = pathsgd.trace_network(
        lambda params, x: x @ params["w"] + params["b"][None], params, np.ones((4, 3))
    )
    assert pathsgd.path_norm(network, params, 1) == 8
    narrow = jax.tree.map(jnp.float32, params)
    assert pathsgd.path_norm(network, narrow, 1) == 8


def test_a_model_without_params_is_told_so():
    class Model(nnx.Module):
        def __init__(self):
            self.weight = nnx.Variable(jnp.ones((3, 2)))

        def __call__(self, x):
            return x @ self.weight[...]

    with pytest.raises(ValueError, match=r"has no nnx\.Param.*Make its weights nnx\."):
        pathsgd.trace_nnx(Model(), networks.spec(4, 3))


LAYERS = {f"layer_{k}": {"mean": jnp.ones(2), "var": jnp.ones(2)} for k in range(200)}


def shifted(params, x, constants):
    return x @ params - sum(layer["mean"][None] for layer in constants.values())


@pytest.mark.parametrize(
    "constants, message",
    [
        (None, r"\['layer_0'\]\['mean'\] is missing, .* float32\(2,\) \(400 leaves"),
        (LAYERS | {"layer_7": {}}, r"\['layer_7'\]\['mean'\] is missing, .*\(2 leaves"),
        (
            LAYERS | {"layer_8": {"mean": jnp.ones((1, 2)), "var": jnp.ones(2)}},
            r"\['layer_8'\]\['mean'\] is float32\(1, 2\), and was float32\(2,\) \(1 ",
        ),
        (
            LAYERS | {"more": jnp.ones(2)},
            r"\['more'\] is float32\(2,\), and was not",
        ),
    ],
)
def test_of_many_constants_the_first_that_differs_is_named(constants, message):
    network = traced(WEIGHT, shifted, LAYERS)
    with pytest.raises(ValueError, match=message) as error:
        pathsgd.path_norm(network, WEIGHT, constants=constants)
    assert len(str(error.value)) < 300


def test_of_many_inputs_a_few_are_listed():
    with pytest.raises(ValueError, match=r"\['a'\]: .*, and 96 more\. Pass") as error:
        pathsgd.trace_network(
            lambda w, x: x["a"] @ w,
            WEIGHT,
            {"a": networks.spec(4, 3)} | {f"b{k}": networks.spec() for k in range(99)},
        )
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_network_is_itself(copied):
    params = networks.dense_tree((3, 4, 2))
    for network in (
        pathsgd.layered_network(params),
        pathsgd.trace_network(networks.apply, params, networks.spec(1, 3)),
    ):
        assert copied({"network": network})["network"] is network


def test_a_traced_network_says_what_to_do_instead_of_pickling_it():
    network = traced(WEIGHT, lambda w, x: x @ w)
    with pytest.raises(pickle.PicklingError, match="save params, and trace the"):
        pickle.dumps({"network": network})


def test_a_layered_network_is_pickled():
    network = pathsgd.layered_network(networks.dense_tree((3, 4, 2)))
    again = pickle.loads(pickle.dumps(network))
    assert again == network and hash(again) == hash(network)


def test_a_network_shows_no_program():
    params = {f"w{k}": WEIGHT for k in range(100)}
    network = traced(params, lambda params, x: sum(x @ w for w in params.values()))
    assert len(repr(network)) < 300
