"""From linen modules and nnx models to their networks, and through their training."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn, nnx

import pathsgd_optax as pathsgd
from tests import networks


class Normalized(nnx.Module):
    """Convolution, BatchNorm, dropout and a head."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 3, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        """Returns the logits."""
        x = nnx.relu(self.norm(self.conv(x)))
        return self.head(self.dropout(jnp.mean(x, (1, 2))))


class Linen(nn.Module):
    """The same in linen."""

    @nn.compact
    def __call__(self, x, train):
        """Returns the logits."""
        x = nn.relu(nn.BatchNorm(not train)(nn.Conv(3, (3, 3))(x)))
        x = nn.Dropout(0.5, deterministic=not train)(jnp.mean(x, (1, 2)))
        return nn.Dense(2)(x)


IMAGES = networks.spec(2, 4, 4, 1)


def models():
    """An nnx model, and the linen one with its weights."""
    model = Normalized(nnx.Rngs(0))
    model.norm.bias[...] = jnp.float32([1, 2, 3])
    model.norm.mean[...] = jnp.float32([0.5, -1, 2])
    state = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    names = {"Conv_0": "conv", "BatchNorm_0": "norm", "Dense_0": "head"}
    params = {name: state[other] for name, other in names.items()}
    statistics = {"mean": model.norm.mean[...], "var": model.norm.var[...]}
    return model, params, {"batch_stats": {"BatchNorm_0": statistics}}


def test_linen_and_nnx_agree():
    model, params, statistics = models()
    linen = pathsgd.trace_linen(
        Linen(), {"params": params, **statistics}, IMAGES, False
    )
    traced = pathsgd.trace_nnx(model, IMAGES)
    state, batch_stats = nnx.state(model, nnx.Param), nnx.state(model, nnx.BatchStat)
    wanted = pathsgd.path_scaling(linen, params, constants=statistics)
    found = pathsgd.path_scaling(traced, state, constants=batch_stats)
    chex.assert_trees_all_close(nnx.to_pure_dict(found)["conv"], wanted["Conv_0"])
    chex.assert_trees_all_close(nnx.to_pure_dict(found)["norm"], wanted["BatchNorm_0"])
    chex.assert_trees_all_close(nnx.to_pure_dict(found)["head"], wanted["Dense_0"])
    assert not jnp.allclose(
        wanted["BatchNorm_0"]["bias"], wanted["BatchNorm_0"]["scale"]
    )


def test_a_traced_nnx_model_stays_in_its_mode():
    model = models()[0]
    model.train()
    pathsgd.trace_nnx(model, IMAGES)
    assert not model.dropout.deterministic and not model.norm.use_running_average


def test_a_linen_module_without_state_has_no_constants():
    model, x = nn.Dense(2), jnp.ones((1, 3))
    variables = model.init(jax.random.key(0), x)
    network = pathsgd.trace_linen(model, variables, x)
    layered = pathsgd.layered_network(variables["params"])
    np.testing.assert_allclose(
        pathsgd.path_norm(network, variables["params"]),
        pathsgd.path_norm(layered, variables["params"]),
    )


def test_dropout_in_training_is_refused():
    model = nn.Sequential([nn.Dense(3), nn.Dropout(0.5, deterministic=False)])
    params = {"layers_0": {"kernel": jnp.ones((3, 3)), "bias": jnp.ones(3)}}
    with pytest.raises(
        ValueError, match=r"random_bits in .*/layers_1 .*dropout is active"
    ):
        pathsgd.trace_linen(
            model,
            {"params": params},
            networks.spec(2, 3),
            rngs={"dropout": jax.random.key(0)},
        )


def test_nnx_optimizer_trains_with_running_averages():
    model = models()[0]
    network = pathsgd.trace_nnx(model, IMAGES)
    optimizer = nnx.Optimizer(model, pathsgd.path_sgd(0.1, network), wrt=nnx.Param)
    x = jax.random.normal(jax.random.key(0), (8, 4, 4, 1))
    y = jnp.arange(8) % 2

    @nnx.jit
    def step(model, optimizer):
        def objective(model):
            return pathsgd.truncated_softmax_cross_entropy(model(x), y).mean()

        loss, grads = nnx.value_and_grad(objective)(model)
        constants = nnx.state(model, nnx.BatchStat)
        optimizer.update(model, grads, constants=constants)
        return loss

    before = model.norm.mean[...]
    losses = [step(model, optimizer) for _ in range(40)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    assert not jnp.allclose(before, model.norm.mean[...])


def test_nnx_labels_part_the_parameters():
    model = nnx.Sequential(
        nnx.Linear(3, 4, rngs=nnx.Rngs(0)),
        nnx.PReLU(),
        nnx.Linear(4, 2, rngs=nnx.Rngs(1)),
    )
    network = pathsgd.trace_nnx(model, networks.spec(1, 3))
    parts = {"path": pathsgd.path_sgd(0.1, network), "no path": optax.sgd(0.5)}
    transformation = optax.partition(parts, network.labels)
    optimizer = nnx.Optimizer(model, transformation, wrt=nnx.Param)
    before = model.layers[1].negative_slope[...]
    optimizer.update(model, nnx.state(model, nnx.Param))
    np.testing.assert_allclose(model.layers[1].negative_slope[...], before / 2)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_nnx_recurrent_networks_are_traced(bidirectional):
    rngs = nnx.Rngs(0)
    rnns = [
        nnx.RNN(nnx.SimpleCell(2, 3, activation_fn=nnx.relu, rngs=rngs)) for _ in "ab"
    ]
    model = nnx.Bidirectional(*rnns) if bidirectional else rnns[0]
    network = pathsgd.trace_nnx(model, networks.spec(1, 4, 2))
    assert {parameter.uses for parameter in network.parameters} == {4}
