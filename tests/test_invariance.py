"""Training doesn't depend on how weights are scaled: Theorem 5.1, for the family.

Every optimizer is trained on digits from a start and from a rescaling of it. Powers of
two must change no bit of the losses, of the weights but for the rescaling, and of the
state. The controls must fail that.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pathsgd_optax as pathsgd
from tests import networks
from tests.programs import as_users_do


pytestmark = pytest.mark.optax

WIDTHS = (64, 32, 24, 10)
STEPS = 100

THEOREM = {
    "path_sgd": pathsgd.path_sgd(0.2, monitor=True),
    "momentum": pathsgd.path_sgd(0.03, momentum=0.9),
    "nesterov": pathsgd.path_sgd(0.03, momentum=0.9, nesterov=True),
    "p = 1": pathsgd.path_sgd(2.0, p=1, momentum=0.5),
    "p = 3.5": pathsgd.path_sgd(0.02, p=3.5, momentum=0.5),
    "p = inf": pathsgd.path_sgd(0.02, p=jnp.inf, momentum=0.5),
}

FAMILY = {
    "damping": pathsgd.path_sgd(0.2, damping=0.1, monitor=True),
    "update_every": pathsgd.path_sgd(0.2, update_every=7),
    "path_adagrad": pathsgd.path_adagrad(0.1, monitor=True),
    "path_rmsprop": pathsgd.path_rmsprop(0.01, momentum=0.5),
    "path_adam": pathsgd.path_adam(0.01, monitor=True),
    "clip_by_path_metric": optax.chain(
        pathsgd.clip_by_path_metric(0.2), pathsgd.path_sgd(0.5)
    ),
    "add_path_norm_penalty": optax.chain(
        pathsgd.add_path_norm_penalty(1e-4), pathsgd.path_sgd(0.2)
    ),
}

VARIANTS = {
    "relative_to_start": pathsgd.path_sgd(5e-3, relative_to_start=True),
    "p = inf, damping": pathsgd.path_sgd(0.02, p=jnp.inf, damping=0.3),
    "weight_decay": pathsgd.path_sgd(0.2, weight_decay=1e-2),
    "schedule": pathsgd.path_sgd(optax.exponential_decay(0.2, 10, 0.9)),
    "path_adam, all": pathsgd.path_adam(
        1e-2, p=1, nesterov=True, weight_decay=1e-2, damping=0.1, update_every=3
    ),
    "path_lars": pathsgd.path_lars(0.01, momentum=0.5, weight_decay=1e-3),
    "path_lamb": pathsgd.path_lamb(0.01, weight_decay=1e-2),
    "adamw inside": pathsgd.precondition_by_path_norm(
        optax.adamw(0.01, weight_decay=0.1)
    ),
    "lion inside": pathsgd.precondition_by_path_norm(optax.lion(1e-3)),
    "lamb inside": pathsgd.precondition_by_path_norm(optax.lamb(1e-2)),
    "trace inside": pathsgd.precondition_by_path_norm(optax.sgd(0.03, momentum=0.9)),
    "schedule_free inside": pathsgd.precondition_by_path_norm(
        optax.contrib.schedule_free_adamw(0.01)
    ),
    "schedule_free outside": optax.contrib.schedule_free(
        pathsgd.path_sgd(0.3), learning_rate=0.3
    ),
}
"""The same with other numbers, or with other parts of Optax's: compiled quickly."""

ALL = THEOREM | FAMILY | VARIANTS


def _absolutely_damped(damping):
    """Divides gradients by gamma plus a number."""

    def update(gradients, state, params=None):
        gamma = pathsgd.path_scaling(pathsgd.layered_network(params), params)
        return jax.tree.map(lambda g, c: g / (c + damping), gradients, gamma), state

    return optax.GradientTransformation(optax.init_empty_state, update)


NAIVE = optax.chain(pathsgd.scale_by_path_norm(), optax.scale_by_adam())

CONTROLS = {
    "sgd": optax.sgd(2e-2),
    "adagrad": optax.adagrad(1e-2),
    "adam": optax.adam(1e-3),
    "the naive chain": optax.chain(NAIVE, optax.scale(-1e-3)),
    "clip_by_global_norm": optax.chain(
        optax.clip_by_global_norm(1.0), pathsgd.path_sgd(0.3)
    ),
    "coupled weight decay": optax.chain(
        optax.add_decayed_weights(1e-2), pathsgd.path_sgd(0.1)
    ),
    "lars": optax.chain(optax.scale_by_trust_ratio(), optax.scale(-0.03)),
    "lamb": optax.lamb(0.01),
    "absolute damping": optax.chain(_absolutely_damped(1.0), optax.scale(-0.1)),
}


def _trainer(optimizer, digits, dtype=np.float32, jit=as_users_do):
    """A jitted function from first weights to last weights, state and the losses."""
    images, labels = (jnp.asarray(x) for x in digits)
    images = images.astype(dtype)
    order = np.random.default_rng(0).integers(0, len(labels), (STEPS, 32))

    def loss(params, batch):
        logits = networks.apply(params, images[batch])
        losses = pathsgd.truncated_softmax_cross_entropy(logits, labels[batch])
        return losses.mean()

    def step(carry, batch):
        params, state = carry
        value, gradients = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), value

    @jit
    def train(params):
        carry = params, optimizer.init(params)
        (params, state), losses = jax.lax.scan(step, carry, jnp.asarray(order))
        return params, state, losses

    return train


FROM_ZEROS = {
    "update_every": pathsgd.path_sgd(0.1, damping=0.1, update_every=10),
    "path_adam": pathsgd.path_adam(0.003, damping=0.1),
    "path_lars": pathsgd.path_lars(0.1),
}


def _start(dtype=np.float32, last=1.0):
    params = networks.dense_tree(WIDTHS, seed=1, dtype=dtype)
    params["Dense_2"] = jax.tree.map(lambda leaf: last * leaf, params["Dense_2"])
    return params, pathsgd.layered_network(params)


def _rescaled(network, params, spread=8):
    """Rescales each hidden unit by a power of two from 2**-spread to 2**spread."""
    rng = np.random.default_rng(2)
    for layer, width in enumerate(WIDTHS[1:-1]):
        c = jnp.asarray(2.0 ** rng.integers(-spread, spread + 1, width), jnp.float32)
        params = pathsgd.rescale(network, params, layer, jnp.arange(width), c)
    return params


def _bits(tree):
    return jax.tree.map(
        lambda leaf: np.asarray(leaf).view(np.int32) if leaf.ndim else leaf, tree
    )


def _rescaled_state(network, state, spread):
    """The state with what is kept in the coordinates of the weights rescaled.

    That is the momentum after the scaling, and what is held of the scaling itself.
    """

    def is_kept(part):
        return isinstance(part, optax.TraceState | optax.contrib.ScheduleFreeState)

    def rescaled(part):
        if isinstance(part, optax.TraceState):
            return part._replace(trace=_rescaled(network, part.trace, spread))
        if isinstance(part, optax.contrib.ScheduleFreeState):
            return part._replace(z=_rescaled(network, part.z, spread))
        return part

    return jax.tree.map(rescaled, state, is_leaf=is_kept)


def _without_held_scaling(state):
    def is_paths(part):
        return isinstance(part, pathsgd.ScaleByPathNormState)

    return jax.tree.map(
        lambda part: part._replace(scaling=None) if is_paths(part) else part,
        state,
        is_leaf=is_paths,
    )


def _assert_same_bits(
    optimizer, digits, spreads=(8,), own_coordinates=False, last=1.0, jit=as_users_do
):
    params, network = _start(last=last)
    train = _trainer(optimizer, digits, jit=jit)
    balanced, state, losses = train(params)
    assert np.isfinite(losses).all()
    assert losses[-20:].mean() < 0.8 * losses[:20].mean()
    for spread in spreads:
        rescaled, same_state, same_losses = train(_rescaled(network, params, spread))
        chex.assert_trees_all_equal(_bits(same_losses), _bits(losses))
        expected = _rescaled(network, balanced, spread)
        chex.assert_trees_all_equal(_bits(rescaled), _bits(expected))
        same = state
        if not own_coordinates:
            same = _rescaled_state(network, state, spread)
        chex.assert_trees_all_equal(
            _bits(_without_held_scaling(same_state)), _bits(_without_held_scaling(same))
        )


def _spreads(name):
    """Powers of two that weights are rescaled by; for two optimizers large ones too."""
    return (8, 26) if name in ("path_sgd", "path_adam") else (8,)


@pytest.mark.parametrize("name", THEOREM)
def test_rescalings_by_powers_of_two_change_no_other_bit(name, digits):
    _assert_same_bits(THEOREM[name], digits, _spreads(name))


@pytest.mark.parametrize("name", FAMILY)
def test_they_change_no_other_bit_of_the_family_either(name, digits):
    _assert_same_bits(FAMILY[name], digits, _spreads(name))


@pytest.mark.parametrize("name", VARIANTS)
def test_nor_of_its_variants(name, digits):
    inside = name.endswith("inside")
    _assert_same_bits(VARIANTS[name], digits, own_coordinates=inside, jit=jax.jit)


@pytest.mark.parametrize("optimizer", FROM_ZEROS.values(), ids=FROM_ZEROS)
def test_they_change_no_other_bit_from_a_last_layer_of_zeros(optimizer, digits):
    _assert_same_bits(optimizer, digits, last=0.0)


@pytest.mark.parametrize("optimizer", CONTROLS.values(), ids=CONTROLS)
def test_the_controls_are_changed_by_rescalings(optimizer, digits):
    params, network = _start()
    train = _trainer(optimizer, digits, jit=jax.jit)
    balanced, _, losses = train(params)
    unbalanced, _, other_losses = train(_rescaled(network, params))
    assert losses[-20:].mean() < 0.8 * losses[:20].mean()
    assert losses[0] == other_losses[0]
    assert not np.allclose(losses[-20:], other_losses[-20:], rtol=0.1)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(
            unbalanced, _rescaled(network, balanced), rtol=1e-2, atol=1e-3
        )


@pytest.mark.x64
@pytest.mark.parametrize("name", ALL)
def test_any_rescaling_changes_training_by_rounding_only(name, digits):
    params, network = _start(np.float64)
    key = jax.random.key(3)
    train = _trainer(ALL[name], digits, np.float64, jax.jit)
    balanced, _, losses = train(params)
    unbalanced, _, same = train(pathsgd.unbalance(network, params, key, count=60))
    expected = pathsgd.unbalance(network, balanced, key, count=60)
    np.testing.assert_allclose(same, losses, rtol=1e-9)
    chex.assert_trees_all_close(unbalanced, expected, rtol=1e-7, atol=1e-9)
