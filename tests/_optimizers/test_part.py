"""Optimizers of a part of an nnx model: the rest are fixed edges of its paths."""

import functools

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import pathsgd_optax as pathsgd


pytestmark = pytest.mark.optax

X = jax.random.normal(jax.random.key(0), (3, 4))
HEAD = nnx.All(nnx.Param, nnx.PathContains("head"))
BODY = nnx.All(nnx.Param, nnx.Not(nnx.PathContains("head")))
MAKERS = [
    functools.partial(pathsgd.path_sgd, 0.1),
    functools.partial(pathsgd.path_sgd, 0.1, update_every=2, monitor=True),
    functools.partial(pathsgd.path_adam, 0.1),
    functools.partial(
        pathsgd.path_sgd,
        0.1,
        mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
        fallback=optax.sgd(0.1),
    ),
    pathsgd.scale_by_path_norm,
    functools.partial(pathsgd.add_path_norm_penalty, 0.1),
]


class Probe(nnx.Module):
    """A head on a body with running averages."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.body = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs, use_running_average=True)
        self.dropout = nnx.Dropout(0.5, rngs=rngs, deterministic=True)
        self.head = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(nnx.relu(self.norm(self.body(x)))))


def _gradients(model, wrt=nnx.Param):
    wrt = nnx.DiffState(0, wrt)
    return nnx.grad(lambda model: (model(X) ** 2).mean(), argnums=wrt)(model)


def _step(model, optimizer, wrt, **constants):
    optimizer.update(model, _gradients(model, wrt), **constants)


def _params(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def _move_body(model):
    model.body.kernel[...] = 2 * model.body.kernel[...]


@pytest.mark.parametrize(
    "make, jitted",
    [(MAKERS[0], True), (MAKERS[1], False), (MAKERS[2], True), (MAKERS[3], False)],
)
def test_the_scaling_of_a_part_is_that_of_the_whole(make, jitted):
    model, whole = Probe(), Probe()
    network = pathsgd.trace_nnx(model, X)
    optimizer = nnx.Optimizer(model, make(network), wrt=HEAD)
    transformation = make(network)
    state = transformation.init(nnx.state(whole, nnx.Param))
    step = nnx.jit(functools.partial(_step, wrt=HEAD))
    for k in range(3):
        gradients = nnx.state(_gradients(whole), nnx.Param)
        params = nnx.state(whole, nnx.Param)
        constants = nnx.state(whole, nnx.BatchStat)
        updates, state = transformation.update(
            gradients, state, params, constants=constants
        )
        head = nnx.to_pure_dict(optax.apply_updates(params, updates))["head"]
        nnx.update(whole, {"head": head})
        if jitted:
            step(model, optimizer, constants=nnx.state(model))
        else:
            _step(model, optimizer, HEAD)
        chex.assert_trees_all_close(_params(model), _params(whole), rtol=1e-4)
        if k == 0:  # what else moves counts with the values that it has
            _move_body(model)
            _move_body(whole)


def test_optimizers_of_two_parts_are_one_of_all():
    model, whole = Probe(), Probe()
    network = pathsgd.trace_nnx(model, X)
    parts = [nnx.Optimizer(model, MAKERS[0](network), wrt=wrt) for wrt in (HEAD, BODY)]

    @nnx.jit
    def step(model, parts):
        gradients = _gradients(model)
        constants = jax.tree.map(lambda leaf: leaf, nnx.state(model))
        for optimizer in parts:
            optimizer.update(model, gradients, constants=constants)

    one = nnx.Optimizer(whole, MAKERS[0](pathsgd.trace_nnx(whole, X)), wrt=nnx.Param)
    for _ in range(2):
        step(model, nnx.List(parts))
        constants = nnx.state(whole, nnx.BatchStat)
        one.update(whole, _gradients(whole), constants=constants)
        chex.assert_trees_all_close(_params(model), _params(whole), rtol=1e-4)


class Adapted(nnx.Module):
    """A frozen layer with an adapter of low rank."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.frozen = nnx.Linear(4, 8, rngs=rngs)
        self.adapter = nnx.LoRA(
            4, 2, 8, b_initializer=nnx.initializers.normal(), rngs=rngs
        )
        self.last = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.frozen(x) + self.adapter(x)))


def test_adapters_of_low_rank_are_a_part():
    model = Adapted()
    network = pathsgd.trace_nnx(model, X)
    gamma = pathsgd.path_scaling(network, nnx.state(model, nnx.Param))
    optimizer = nnx.Optimizer(model, MAKERS[0](network), wrt=nnx.LoRAParam)
    gradients = _gradients(model, nnx.LoRAParam)
    before, slopes = _params(model), nnx.to_pure_dict(nnx.state(gradients))
    optimizer.update(model, gradients)
    after = _params(model)
    expected = jax.tree.map(
        lambda w, g, c: w - 0.1 * g / c,
        before.pop("adapter"),
        slopes["adapter"],
        nnx.to_pure_dict(gamma)["adapter"],
    )
    chex.assert_trees_all_close(after.pop("adapter"), expected, rtol=1e-5)
    chex.assert_trees_all_equal(after, before)


RECIPE = r"constants=nnx\.state\(model\)"


@pytest.mark.parametrize("make", MAKERS[3:])
def test_values_that_may_not_be_the_present_ones_are_refused(make):
    model = Probe()
    network = pathsgd.trace_nnx(model, X)
    optimizer = nnx.Optimizer(model, make(network), wrt=HEAD)
    with pytest.raises(ValueError, match=RECIPE) as error:
        nnx.jit(functools.partial(_step, wrt=HEAD))(model, optimizer)
    assert "\n" not in str(error.value)
    other = Probe()
    with pytest.raises(ValueError, match=RECIPE):
        _step(other, nnx.Optimizer(other, make(network), wrt=HEAD), HEAD)
    del model
    with pytest.raises(ValueError, match=RECIPE):
        _step(other, nnx.Optimizer(other, make(network), wrt=HEAD), HEAD)


def test_constants_that_lack_a_fixed_edge_are_refused():
    model = Probe()
    network = pathsgd.trace_nnx(model, X)
    optimizer = nnx.Optimizer(model, MAKERS[0](network), wrt=HEAD)
    with pytest.raises(ValueError, match=r"missing \['body'\]\['bias'\] and 3 more"):
        _step(model, optimizer, HEAD, constants=nnx.state(model, nnx.BatchStat))


def test_params_of_no_part_are_refused():
    network = pathsgd.trace_nnx(Probe(), X)
    with pytest.raises(ValueError, match=r"unknown \['tail'\].*Make a network"):
        MAKERS[0](network).init({"tail": jnp.ones(2)})
