"""In the loops that people write: Flax, jit, scan, vmap, grad, and checkpoints."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.training import train_state
from jax.sharding import NamedSharding, PartitionSpec

import pathsgd_optax as pathsgd
from tests import networks


pytestmark = pytest.mark.optax

FAMILY = {
    "path_sgd": lambda rate=0.01, network=None, **options: pathsgd.path_sgd(
        rate, network, momentum=0.9, monitor=True, **options
    ),
    "update_every": lambda rate=0.01, network=None, **options: pathsgd.path_sgd(
        rate, network, update_every=2, **options
    ),
    "path_adam": lambda rate=0.01, network=None, **options: pathsgd.path_adam(
        rate, network, eps_root=1e-8, weight_decay=0.1, **options
    ),
}

family = pytest.mark.parametrize("make", FAMILY.values(), ids=FAMILY)

X = jnp.asarray(np.random.default_rng(0).normal(size=(16, 4)), jnp.float32)


def _loss(params, x=X):
    return jnp.mean((networks.apply(params, x) - 1) ** 2)


def _params(seed=1, widths=(4, 8, 3)):
    return networks.dense_tree(widths, seed=seed)


def _step(optimizer, params, state):
    updates, state = optimizer.update(jax.grad(_loss)(params), state, params)
    return optax.apply_updates(params, updates), state


@functools.cache
def _jitted_step(optimizer):
    return jax.jit(functools.partial(_step, optimizer))


def _trained_on(optimizer, params, state, count=2):
    step = _jitted_step(optimizer)
    for _ in range(count):
        params, state = step(params, state)
    return params, state


def _trained(optimizer, params, count=4):
    return _trained_on(optimizer, params, optimizer.init(params), count)


# Flax.


@family
def test_a_linen_train_state_trains(make):
    model = networks.MLP((8, 3))
    params = networks.linen_tree(model, 4)

    def loss(params):
        return jnp.mean((model.apply({"params": params}, X) - 1) ** 2)

    @jax.jit
    def step(state):
        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    first = state = train_state.TrainState.create(
        apply_fn=model.apply, params=params, tx=make()
    )
    for _ in range(4):
        state = step(state)
    assert loss(state.params) < loss(params)
    chex.assert_trees_all_equal_structs(state, first)
    expected, _ = _trained(make(), params)
    chex.assert_trees_all_close(state.params, expected, rtol=1e-4, atol=1e-6)


class Model(nnx.Module):
    """A network with a parameter that its outputs don't depend on."""

    def __init__(self, rngs):
        """Makes the parameters."""
        self.body = networks.NnxMLP((4, 8, 4), rngs)
        self.temperature = nnx.Param(jnp.ones(()))

    def __call__(self, x):
        """The outputs."""
        return self.body(x)


def _nnx_loss(model):
    return jnp.mean((model(X) - 1) ** 2) + model.temperature[...] ** 2


@nnx.jit
def _nnx_step(model, optimizer):
    value, gradients = nnx.value_and_grad(_nnx_loss)(model)
    optimizer.update(model, gradients)
    return value


@pytest.mark.parametrize(
    "options", [{}, {"fallback": optax.adam(0.1)}], ids=["plain", "fallback"]
)
@family
def test_an_nnx_optimizer_trains_a_model(make, options):
    model = Model(nnx.Rngs(0))
    network = pathsgd.trace_nnx(model, X)
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    optimizer = nnx.Optimizer(model, make(0.01, network, **options), wrt=nnx.Param)
    losses = [_nnx_step(model, optimizer) for _ in range(4)]
    assert losses[-1] < losses[0]
    state = nnx.to_pure_dict(nnx.state(optimizer))
    assert np.isfinite(_named(state, "log_path_norm"))
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    layers = before["body"]["layers"].items()
    params = {f"layer_{k}": layer for k, layer in layers}
    expected, _ = _trained(make(0.01), params)
    layers = after["body"]["layers"].items()
    chex.assert_trees_all_close(
        {f"layer_{k}": layer for k, layer in layers}, expected, rtol=1e-4, atol=1e-6
    )
    assert after["temperature"] < before["temperature"]


def _named(tree, name):
    """The entry of this name, at any depth."""
    if not isinstance(tree, dict):
        return None
    if name in tree:
        return tree[name]
    found = [_named(part, name) for part in tree.values()]
    return next((value for value in found if value is not None), None)


@family
def test_an_nnx_optimizer_partitions_by_labels(make):
    model = Model(nnx.Rngs(0))
    network = pathsgd.trace_nnx(model, X)
    parts = {"path": make(0.01, network), "no path": optax.set_to_zero()}
    transformation = optax.partition(parts, network.labels)
    optimizer = nnx.Optimizer(model, transformation, wrt=nnx.Param)
    losses = [_nnx_step(model, optimizer) for _ in range(4)]
    assert losses[-1] < losses[0]
    assert model.temperature[...] == 1


# JAX's transformations.


@family
def test_steps_in_a_donated_jit_and_in_a_scan_are_those_of_a_loop(make):
    optimizer, params = make(), _params()
    expected, last = _trained(optimizer, params)
    donated = jax.jit(functools.partial(_step, optimizer), donate_argnums=(0, 1))
    carry = jax.tree.map(jnp.array, params), optimizer.init(params)
    for _ in range(4):
        given, carry = carry, donated(*carry)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given[0]))
    chex.assert_trees_all_close(carry[0], expected, rtol=1e-6)
    assert donated._cache_size() == 1

    @jax.jit
    def scanned(params):
        def step(carry, _):
            return _step(optimizer, *carry), None

        return jax.lax.scan(step, (params, optimizer.init(params)), length=4)[0]

    carry = scanned(params)
    chex.assert_trees_all_close(carry[0], expected, rtol=1e-5)
    chex.assert_trees_all_equal_shapes_and_dtypes(carry[1], last)


@family
def test_an_ensemble_over_seeds_and_learning_rates_is_one_program(make):
    starts = [_params(seed) for seed in (1, 2, 3)]
    rates = [0.01, 0.003]
    network = pathsgd.layered_network(starts[0])

    def train(params, rate):
        optimizer = make(rate, network)
        carry = params, optimizer.init(params)
        return jax.lax.fori_loop(0, 3, lambda _, c: _step(optimizer, *c), carry)[0]

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    over_rates = jax.vmap(train, in_axes=(None, 0))
    ensemble = jax.jit(jax.vmap(over_rates, in_axes=(0, None)))(
        stacked, jnp.array(rates)
    )
    alone = jax.jit(train)
    for k, j in np.ndindex(len(starts), len(rates)):
        one = jax.tree.map(lambda leaf, k=k, j=j: leaf[k, j], ensemble)
        expected = alone(starts[k], rates[j])
        chex.assert_trees_all_close(one, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.x64
@family
def test_the_loss_after_steps_has_a_derivative_in_rate_and_start(make):
    params = networks.dense_tree((4, 5, 2), seed=1, dtype=np.float64)
    direction = networks.random_like(params, seed=2, dtype=np.float64)
    x = X.astype(jnp.float64)

    @jax.jit
    def outcome(rate, shift):
        start = jax.tree.map(lambda w, d: w + shift * d, params, direction)
        optimizer = make(rate)

        def step(carry, _):
            params, state = carry
            gradients = jax.grad(_loss)(params, x)
            updates, state = optimizer.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), None

        carry = start, optimizer.init(start)
        return _loss(jax.lax.scan(step, carry, length=3)[0][0], x)

    slopes = jax.jit(jax.grad(outcome, argnums=(0, 1)))(0.01, 0.1)
    for slope, (rate, shift) in zip(slopes, 1e-6 * np.eye(2), strict=True):
        above = outcome(0.01 + rate, 0.1 + shift)
        below = outcome(0.01 - rate, 0.1 - shift)
        np.testing.assert_allclose(slope, (above - below) / 2e-6, rtol=1e-5)


# Checkpoints.


def _mesh(shape):
    devices = np.array(jax.devices()[: np.prod(shape)]).reshape(shape)
    return jax.sharding.Mesh(devices, ("rows", "columns"))


def _shard(tree, mesh):
    def placed(leaf):
        axes = ("rows", "columns")[: leaf.ndim] if leaf.ndim == 2 else ()
        spec = PartitionSpec(*axes) if _divides(leaf, mesh) else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(placed, tree)


def _divides(leaf, mesh):
    return leaf.ndim == 2 and not any(np.remainder(leaf.shape, mesh.devices.shape))


@family
def test_a_restored_checkpoint_goes_on_bit_for_bit(make, tmp_path):
    optimizer, params = make(), _params()
    first = _trained_on(optimizer, params, optimizer.init(params))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "one", first)
    blank = jax.tree.map(jnp.zeros_like, (params, optimizer.init(params)))
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "one", blank)
    chex.assert_trees_all_equal(restored, first)
    expected = _trained_on(optimizer, *first)
    chex.assert_trees_all_equal(_trained_on(optimizer, *restored), expected)


@family
def test_a_checkpoint_is_restored_onto_another_mesh(make, tmp_path):
    optimizer, params = make(), _params()
    saved = _shard((params, optimizer.init(params)), _mesh((4, 2)))
    saved = _trained_on(optimizer, *saved)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "one", saved)
    mesh = _mesh((2, 2))
    blank = _shard(jax.tree.map(jnp.zeros_like, jax.device_get(saved)), mesh)
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "one", blank)
    chex.assert_trees_all_equal(jax.device_get(restored), jax.device_get(saved))
    leaves = jax.tree.leaves(restored)
    assert {len(leaf.sharding.device_set) for leaf in leaves} == {4}
    alone = _trained_on(optimizer, *jax.device_get(saved))
    chex.assert_trees_all_close(
        jax.device_get(_trained_on(optimizer, *restored)), alone, rtol=1e-5, atol=1e-6
    )


# Layers that start at zero.

ZERO_STARTS = ({"Dense_2": 0.0}, {"Dense_2": 1e-3}, {"Dense_1": 0.0})
"""What kernels are multiplied by."""


def _small_start(factors):
    """He's initialisation with these layers' kernels multiplied, and biases of 0.1.

    (With none, units behind zeros would never learn, whatever trains them.)
    """
    params = networks.dense_tree((64, 128, 128, 10), bias=False, seed=1)
    return {
        name: {
            "kernel": 2**0.5 * factors.get(name, 1.0) * layer["kernel"],
            "bias": jnp.full(layer["kernel"].shape[1], 0.1),
        }
        for name, layer in params.items()
    }


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(pathsgd.path_sgd, 0.1),
        functools.partial(pathsgd.path_sgd, 0.1, update_every=10),
        functools.partial(pathsgd.path_adam, 0.003),
    ],
    ids=["path_sgd", "update_every", "path_adam"],
)
def test_damping_trains_layers_of_zeros(make, digits):
    images, labels = jnp.asarray(digits[0], jnp.float32), jnp.asarray(digits[1])
    batches = np.random.default_rng(0).integers(0, len(labels), (150, 50))

    @jax.jit
    def losses(params, damping):
        optimizer = make(damping=damping)

        def loss(params, batch):
            logits = networks.apply(params, images[batch])
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, labels[batch]
            ).mean()

        def step(carry, batch):
            params, state = carry
            value, gradients = jax.value_and_grad(loss)(params, batch)
            updates, state = optimizer.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), value

        carry = params, optimizer.init(params)
        return jax.lax.scan(step, carry, jnp.asarray(batches))[1]

    exploded = []
    for factors in ZERO_STARTS:
        damped, undamped = (losses(_small_start(factors), x) for x in (0.1, 0.0))
        assert damped.max() < 4 * damped[0]
        assert damped[-20:].mean() < damped[0] / 4
        exploded.append(undamped.max() > 10 * undamped[0])
    assert any(exploded)
