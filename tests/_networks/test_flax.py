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
        ValueError, match=r"select_n in .*/layers_1 .*dropout is active"
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


class Critic(nn.Module):
    """The value of an action in a state."""

    @nn.compact
    def __call__(self, state, action, *, mask=None, train=False, scale=1.0):
        """Returns the value."""
        x = nn.Dense(4)(jnp.concatenate([state, action], -1)) * scale
        x = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
        x = x if mask is None else jnp.where(mask[:, None], x, 0)
        return nn.Dense(1)(x)


class NnxCritic(nnx.Module):
    """The same in nnx."""

    def __init__(self, rngs):
        self.body = nnx.Linear(5, 4, rngs=rngs)
        self.head = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, state, action, *, mask=None, scale=1.0):
        """Returns the value."""
        x = self.body(jnp.concatenate([state, action], -1)) * scale
        x = nnx.relu(x)
        return self.head(x if mask is None else jnp.where(mask[:, None], x, 0))


def critic(batch):
    """A linen module, its variables, and a state with an action."""
    x = jnp.ones((batch, 3)), jnp.full((batch, 2), 0.3)
    return Critic(), Critic().init(jax.random.key(0), *x), x


@pytest.mark.parametrize("batch", [1, 4])
def test_all_arrays_with_a_batch_axis_are_inputs(batch):
    model, variables, (state, action) = critic(batch)
    params = variables["params"]
    layered = pathsgd.layered_network(params)
    network = pathsgd.trace_linen(model, variables, state, action)
    scalings = [pathsgd.path_scaling(n, params) for n in (network, layered)]
    chex.assert_trees_all_close(*scalings, rtol=1e-6)


@pytest.mark.parametrize(
    "count, kwargs",
    [
        (2, {}),
        (3, {"mask": jnp.ones(4, bool)}),
        (2, {"train": False, "scale": jnp.ones(())}),
        (2, {"scale": jnp.ones((1, 4))}),
        (2, {"rngs": {"dropout": jax.random.PRNGKey(0)}}),
        (2, {"rngs": jax.random.split(jax.random.key(0), 4)[0]}),
        (2, {"method": "__call__"}),
    ],
)
def test_flags_and_keys_and_arrays_without_the_batch_axis_are_fixed(count, kwargs):
    model, variables, (state, action) = critic(4)
    for args, more in (((state, action), {}), ((state,), {"action": action})):
        network = pathsgd.trace_linen(model, variables, *args, **more, **kwargs)
        assert len(network.inputs) == count


@pytest.mark.parametrize("batch", [1, 4])
def test_all_arrays_with_a_batch_axis_are_inputs_of_nnx_models(batch):
    model = NnxCritic(nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    state, action = jnp.ones((batch, 3)), jnp.full((batch, 2), 0.3)
    wanted = pathsgd.trace_network(
        lambda params, x: nnx.merge(nnx.graphdef(model), params)(x[:, :3], x[:, 3:]),
        params,
        jnp.ones((batch, 5)),
    )
    for kwargs in ({}, {"mask": jnp.ones(batch, bool), "scale": jnp.ones(())}):
        network = pathsgd.trace_nnx(model, state, action, **kwargs)
        chex.assert_trees_all_close(
            pathsgd.path_scaling(network, params), pathsgd.path_scaling(wanted, params)
        )


def test_arrays_without_the_batch_axis_are_fixed():
    model, variables, (state, action) = critic(4)
    params = variables["params"]
    scale = jnp.float32([0, 1, 2, 3, 4, 5])[1:5]
    found = pathsgd.trace_linen(model, variables, state, action, scale=scale[None])
    scaled = jax.tree.map(lambda w: w, params)
    scaled["Dense_0"] = jax.tree.map(
        lambda w: w * jnp.broadcast_to(scale, w.shape), params["Dense_0"]
    )
    plain = pathsgd.trace_linen(model, variables, state, action)
    np.testing.assert_allclose(
        pathsgd.path_norm(found, params), pathsgd.path_norm(plain, scaled), rtol=1e-6
    )


def test_keys_are_no_inputs():
    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, x, key):
            """Returns the outputs, whatever the key is."""
            return nn.Dense(2)(x)

    keys = jax.random.split(jax.random.key(0), 4)
    x = jnp.ones((4, 3))
    variables = Noisy().init(jax.random.key(0), x, keys)
    network = pathsgd.trace_linen(Noisy(), variables, x, keys)
    assert len(network.inputs) == 1


@pytest.mark.parametrize("where", ["call", "attribute"])
def test_dropout_within_attention_drops_nothing_with_gates(where):
    class Attention(nn.Module):
        rate: float

        @nn.compact
        def __call__(self, x, train=False):
            how = {"deterministic": not train}
            made, called = (how, {}) if where == "attribute" else ({}, how)
            attention = nn.MultiHeadDotProductAttention(
                2, dropout_rate=self.rate, **made
            )
            return nn.Dense(2)(nn.LayerNorm()(x + attention(x, **called)))

    x = jnp.ones((1, 3, 4))
    variables = Attention(0.0).init(jax.random.key(0), x)
    gammas = [
        pathsgd.path_scaling(
            pathsgd.trace_linen(Attention(rate), variables, x, gates=True, train=train),
            variables["params"],
        )
        for rate, train in ((0.0, False), (0.5, True), (0.5, False))
    ]
    chex.assert_trees_all_equal(*gammas)
