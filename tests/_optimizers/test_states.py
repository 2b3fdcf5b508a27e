"""States: donated, saved, restored, exported; the constants that they hold."""

import functools
import pickle

import chex
import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
import pytest
from flax import linen as nn, serialization
from flax.training import train_state
from jax import export

import pathsgd_optax as pathsgd
from tests import networks
from tests.optimizers import ALIASES, TRANSFORMATIONS


pytestmark = pytest.mark.optax

PARAMS = networks.dense_tree((3, 4, 2), seed=1)
GRADIENTS = networks.random_like(PARAMS, seed=2)
NETWORK = pathsgd.layered_network(PARAMS)

OPTIONS = {
    "plain": {},
    "monitor": {"monitor": True},
    "update_every": {"update_every": 2},
}

every = pytest.mark.parametrize("make", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS)
each_kind = pytest.mark.parametrize("make", [pathsgd.path_sgd, pathsgd.path_adam])


# Donation.


def _check_buffers(state):
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(buffers) == len(set(buffers))


def _donated_steps(transformation):
    state = transformation.init(PARAMS)
    _check_buffers(state)

    @functools.partial(jax.jit, donate_argnames="state")
    def step(state):
        return transformation.update(GRADIENTS, state, PARAMS)

    for _ in range(2):
        updates, state = step(state)
    chex.assert_tree_all_finite(updates)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_a_state_holds_each_buffer_once(name, options):
    options = {} if name in {"clip", "penalty"} else options
    transformation = TRANSFORMATIONS[name](NETWORK, **options)
    _check_buffers(transformation.init(PARAMS))
    _check_buffers(jax.jit(transformation.init)(PARAMS))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@each_kind
def test_a_state_can_be_donated(make, options):
    _donated_steps(make(0.01, NETWORK, **options))


@pytest.mark.parametrize("wrap", ["multi-steps", "injected", "fallback"])
@each_kind
def test_a_state_within_another_can_be_donated(make, wrap):
    if wrap == "multi-steps":
        transformation = optax.MultiSteps(make(0.01, NETWORK, monitor=True), 2)
    elif wrap == "injected":
        inject = optax.inject_hyperparams(make, static_args="p")
        transformation = inject(0.01, NETWORK, monitor=True)
    else:
        mask = {"Dense_0": True, "Dense_1": False}
        transformation = make(0.01, NETWORK, mask=mask, fallback=optax.adam(0.1))
    _donated_steps(transformation)


# Constants.


class Normalised(nn.Module):
    """A layer of units with running averages."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4, use_bias=False)(x))
        return nn.Dense(2)(nn.relu(x))


X = jax.random.normal(jax.random.key(0), (5, 3))
MODEL = Normalised()
VARIABLES = MODEL.init(jax.random.key(1), X)
TRACED = pathsgd.trace_linen(MODEL, VARIABLES, X)
CONSTANTS = {
    "batch_stats": jax.tree.map(lambda leaf: leaf + 2, VARIABLES["batch_stats"])
}


class TrainState(train_state.TrainState):
    """As in Flax's examples."""

    batch_stats: dict


def _objective(params, batch_stats):
    variables = {"params": params, "batch_stats": batch_stats}
    outputs, new = MODEL.apply(variables, X, train=True, mutable=["batch_stats"])
    return (outputs**2).mean(), new["batch_stats"]


def _gradients(params, batch_stats):
    return jax.grad(_objective, has_aux=True)(params, batch_stats)


@every
def test_constants_in_the_state_are_those_of_an_update_that_gets_none(make):
    params, batch_stats = VARIABLES["params"], CONSTANTS["batch_stats"]
    gradients, _ = _gradients(params, batch_stats)
    transformation = make(TRACED)
    state = transformation.init(params)
    given, _ = transformation.update(gradients, state, params, constants=CONSTANTS)
    state = pathsgd.set_constants(state, CONSTANTS)
    held, after = transformation.update(gradients, state, params)
    chex.assert_trees_all_equal(held, given)
    chex.assert_trees_all_equal(optax.tree.get(after, "constants"), CONSTANTS)
    others = jax.tree.map(lambda leaf: 2 * leaf, CONSTANTS)
    state = pathsgd.set_constants(state, others)
    again, _ = transformation.update(gradients, state, params, constants=CONSTANTS)
    chex.assert_trees_all_equal(again, given)
    changed, _ = transformation.update(gradients, state, params)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(changed, given)


@every
def test_an_update_without_constants_tells_how_to_set_them(make):
    transformation = make(TRACED)
    params = VARIABLES["params"]
    with pytest.raises(ValueError, match=r"pathsgd\.set_constants\(opt_state") as error:
        transformation.update(params, transformation.init(params), params)
    assert "\n" not in str(error.value)


def test_constants_of_another_shape_are_refused():
    optimizer, params = pathsgd.path_sgd(0.1, TRACED), VARIABLES["params"]
    state = pathsgd.set_constants(optimizer.init(params), {"batch_stats": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"constants are .*traced with"):
        optimizer.update(params, state, params)


def test_a_state_without_paths_has_no_place_for_constants():
    with pytest.raises(ValueError, match=r"no path-normalised transformation in it"):
        pathsgd.set_constants(optax.adam(0.1).init(PARAMS), CONSTANTS)


def test_a_network_without_constants_ignores_those_of_another():
    optimizer = pathsgd.path_sgd(0.1, NETWORK)
    state = pathsgd.set_constants(optimizer.init(PARAMS), CONSTANTS)
    updates, _ = optimizer.update(GRADIENTS, state, PARAMS)
    plain, _ = optimizer.update(GRADIENTS, optimizer.init(PARAMS), PARAMS)
    chex.assert_trees_all_equal(updates, plain)


def _by_hand(optimizer, count):
    """Steps that pass the constants."""
    params, batch_stats = VARIABLES["params"], VARIABLES["batch_stats"]
    state = optimizer.init(params)
    for _ in range(count):
        gradients, new = _gradients(params, batch_stats)
        constants = {"batch_stats": batch_stats}
        updates, state = optimizer.update(gradients, state, params, constants=constants)
        params, batch_stats = optax.apply_updates(params, updates), new
    return params


@each_kind
def test_the_recipe_for_train_states_in_a_scan_with_donation(make):
    optimizer = make(0.01, TRACED, monitor=True)
    variables = jax.tree.map(jnp.array, VARIABLES)
    state = TrainState.create(apply_fn=MODEL.apply, tx=optimizer, **variables)

    def recall(state):
        constants = {"batch_stats": state.batch_stats}
        opt_state = pathsgd.set_constants(state.opt_state, constants)
        return state.replace(opt_state=opt_state)

    def step(state, _):
        gradients, batch_stats = _gradients(state.params, state.batch_stats)
        state = recall(state)
        return state.apply_gradients(grads=gradients, batch_stats=batch_stats), None

    @functools.partial(jax.jit, donate_argnames="state")
    def train(state):
        return jax.lax.scan(step, state, length=3)[0]

    after = train(recall(state))
    chex.assert_trees_all_close(after.params, _by_hand(optimizer, 3), atol=1e-6)


@pytest.mark.parametrize("wrapper", ["multi-steps", "lookahead", "sam"])
def test_wrappers_that_pass_no_arguments_use_constants_of_the_state(wrapper):
    params = VARIABLES["params"]
    gradients, _ = _gradients(params, CONSTANTS["batch_stats"])
    optimizer = pathsgd.path_sgd(0.01, TRACED)
    plain, _ = optimizer.update(
        gradients, optimizer.init(params), params, constants=CONSTANTS
    )
    wrapped, given = {
        "multi-steps": lambda: (optax.MultiSteps(optimizer, 1), params),
        "lookahead": lambda: (
            optax.lookahead(optimizer, 5, 0.5),
            optax.LookaheadParams.init_synced(params),
        ),
        "sam": lambda: (
            optax.contrib.sam(optimizer, optax.sgd(0.1), sync_period=1),
            params,
        ),
    }[wrapper]()
    state = pathsgd.set_constants(wrapped.init(given), CONSTANTS)
    updates, _ = wrapped.update(gradients, state, given)
    updates = updates.fast if wrapper == "lookahead" else updates
    chex.assert_trees_all_close(updates, plain, rtol=1e-6)


# Saving.


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@each_kind
def test_states_are_restored_from_pickles_and_state_dicts(make, options):
    optimizer = make(0.01, NETWORK, **options)
    empty = optimizer.init(PARAMS)
    _, state = optimizer.update(GRADIENTS, empty, PARAMS)
    restored = pickle.loads(pickle.dumps(state))
    chex.assert_trees_all_equal(restored, state)
    chex.assert_trees_all_equal_structs(restored, state)
    restored = serialization.from_state_dict(empty, serialization.to_state_dict(state))
    chex.assert_trees_all_equal(restored, state)
    chex.assert_trees_all_equal_structs(restored, state)


@each_kind
def test_monitoring_can_be_switched_between_checkpoints(make, tmp_path):
    plain, monitored = (make(0.01, NETWORK, monitor=on) for on in (False, True))
    _, state = monitored.update(GRADIENTS, monitored.init(PARAMS), PARAMS)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", plain.init(PARAMS))
    updates, after = plain.update(GRADIENTS, restored, PARAMS)
    expected, _ = monitored.update(GRADIENTS, state, PARAMS)
    chex.assert_trees_all_close(updates, expected, rtol=1e-6)
    assert optax.tree.get(state, "path_metric") > 0
    assert optax.tree.get(after, "path_metric") == 0


def _lists(tree):
    """What a checkpoint without types gives back."""
    if isinstance(tree, dict):
        return {key: _lists(value) for key, value in tree.items()}
    return [*map(_lists, tree)] if isinstance(tree, list | tuple) else tree


WRONG = {
    "state dict": serialization.to_state_dict,
    "lists": _lists,
    "leaves": jax.tree.leaves,
    "tuple": lambda state: tuple(_lists(state)),
    "none": lambda state: None,
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
@every
def test_a_state_of_another_type_is_refused_in_one_line(make, change):
    transformation = make(NETWORK)
    state = transformation.init(PARAMS)
    message = r"the state is .*, but should be .*from_state_dict\(tx\.init\(params\)"
    with pytest.raises(ValueError, match=message) as error:
        transformation.update(GRADIENTS, change(state), PARAMS)
    assert "\n" not in str(error.value)


OTHERS = {
    "momentum": (functools.partial(pathsgd.path_sgd, momentum=0.9), pathsgd.path_sgd),
    "rmsprop": (pathsgd.path_adam, pathsgd.path_rmsprop),
    "adam": (pathsgd.path_rmsprop, pathsgd.path_adam),
    "adagrad": (pathsgd.path_adagrad, pathsgd.path_adam),
}


@pytest.mark.parametrize("make, other", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("fallback", [None, optax.sgd(0.1)], ids=["alone", "fallback"])
def test_the_state_of_another_optimizer_is_refused(make, other, fallback):
    optimizers = (kind(0.01, NETWORK, fallback=fallback) for kind in (make, other))
    optimizer, state = next(optimizers), next(optimizers).init(PARAMS)
    with pytest.raises(
        ValueError, match=r"the state is .*, but should be a .*State, as"
    ):
        optimizer.update(GRADIENTS, state, PARAMS)


# jax.export.


def _namedtuples(state):
    found = set()

    def visit(node):
        if hasattr(node, "_fields"):
            found.add(type(node))
        children = node.values() if isinstance(node, dict) else node
        if isinstance(node, dict | tuple):
            for child in children:
                visit(child)

    visit(state)
    return found


FALLBACK = {"fallback": optax.adam(0.1), "mask": {"Dense_0": True, "Dense_1": False}}


@pytest.mark.parametrize("options", [{"update_every": 2}, FALLBACK], ids=len)
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_every_tuple_of_a_state_is_known_to_export(name, options):
    if name not in ALIASES:
        options = {}
    state = TRANSFORMATIONS[name](NETWORK, **options).init(PARAMS)
    for kind in _namedtuples(state):
        with pytest.raises(ValueError, match=r"[Dd]uplicate"):
            export.register_namedtuple_serialization(kind, serialized_name="another")


def test_an_exported_update_can_be_serialized():
    pytest.importorskip("flatbuffers")
    schedule = optax.constant_schedule(0.01)
    optimizer = pathsgd.path_adam(schedule, update_every=2, weight_decay=0.1)
    state = optimizer.init(PARAMS)
    update = jax.jit(optimizer.update)
    written = export.export(update)(GRADIENTS, state, PARAMS).serialize()
    read = export.deserialize(written).call(GRADIENTS, state, PARAMS)
    chex.assert_trees_all_close(read, update(GRADIENTS, state, PARAMS), rtol=1e-6)
