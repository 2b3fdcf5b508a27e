"""What all transformations share: the scaling of a step, its state, and the mask."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import pathsgd_optax as pathsgd
from tests import networks, oracles


MAKERS = {
    "scale": pathsgd.scale_by_path_norm,
    "precondition": lambda *args, **options: pathsgd.precondition_by_path_norm(
        optax.identity(), *args, **options
    ),
}

both = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def _problem(dtype=np.float32, seed=1):
    params = networks.dense_tree((3, 4, 2), seed=seed, dtype=dtype)
    return params, networks.random_like(params, seed=seed + 1, dtype=dtype)


def _updated(transformation, gradients, *several):
    """The updates at several parameters in turn, and the states."""
    update, state = jax.jit(transformation.update), transformation.init(several[0])
    results = []
    for params in several:
        updates, state = update(gradients, state, params)
        results.append((updates, state))
    return results


def _gamma(params, p=2, damping=0.0):
    gamma = oracles.path_scaling(networks.layers(params), p, damping)
    return networks.tree_like(params, gamma)


# What the state tells.


@pytest.mark.x64
@pytest.mark.parametrize(
    "p, make",
    [
        *[(p, MAKERS["scale"]) for p in (1, 2, 3.5, jnp.inf)],
        (3.5, MAKERS["precondition"]),
    ],
)
def test_the_state_has_the_path_norm_and_the_metric_of_the_last_update(make, p):
    first, gradients = _problem(np.float64)
    second, _ = _problem(np.float64, seed=3)
    results = _updated(make(p=p, monitor=True), gradients, first, second)
    for params, (_, state) in zip((first, second), results, strict=True):
        phi = oracles.path_norm(networks.layers(params), p)
        np.testing.assert_allclose(
            optax.tree.get(state, "log_path_norm"), np.log(phi), rtol=1e-12
        )
        metric = oracles.path_metric(gradients, _gamma(params, p))
        np.testing.assert_allclose(
            optax.tree.get(state, "path_metric"), metric, rtol=1e-12
        )


@pytest.mark.x64
@both
def test_the_metric_is_that_of_the_gamma_that_is_divided_by(make):
    params, gradients = _problem(np.float64)
    [(_, state)] = _updated(make(damping=0.3, monitor=True), gradients, params)
    gamma = _gamma(params, damping=0.3)
    metric = optax.tree.get(state, "path_metric")
    np.testing.assert_allclose(
        metric, oracles.path_metric(gradients, gamma), rtol=1e-12
    )


@both
def test_the_metric_is_computed_on_request_only(make):
    params, gradients = _problem()
    [(_, state)] = _updated(make(), gradients, params)
    assert optax.tree.get(state, "path_metric") == 0
    assert optax.tree.get(state, "log_path_norm") != 0


@both
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("options", [{}, {"update_every": 2}], ids=["each", "every"])
def test_states_are_of_float32_and_keep_their_dtypes(make, dtype, options):
    params, gradients = jax.tree.map(lambda leaf: leaf.astype(dtype), _problem())
    transformation = make(monitor=True, **options)
    results = _updated(transformation, gradients, params, params)
    for _, state in results:
        assert optax.tree.get(state, "log_path_norm").dtype == jnp.float32
        chex.assert_trees_all_equal_shapes_and_dtypes(
            state, transformation.init(params)
        )


@pytest.mark.x64
@both
def test_states_are_of_float64_if_a_parameter_is(make):
    params, _ = _problem()
    params["Dense_1"] = jax.tree.map(lambda w: w.astype(jnp.float64), params["Dense_1"])
    transformation = make(monitor=True)
    [(_, state)] = _updated(transformation, params, params)
    assert optax.tree.get(state, "log_path_norm").dtype == jnp.float64
    chex.assert_trees_all_equal_shapes_and_dtypes(state, transformation.init(params))


# Units of the path norm at the start.


@pytest.mark.parametrize(
    "kind, traced, options",
    [
        ("scale", False, {}),
        ("scale", True, {"update_every": 2}),
        ("precondition", True, {}),
        ("precondition", False, {"update_every": 2}),
    ],
    ids=str,
)
def test_scalings_are_relative_to_the_first_path_norm_for_good(kind, traced, options):
    start, gradients = _problem()
    first, second = (jax.tree.map(lambda leaf, c=c: c * leaf, start) for c in (16, 64))
    network = pathsgd.layered_network(first)
    if traced:
        network = pathsgd.trace_network(networks.apply, first, networks.spec(1, 3))
    several = [first, second, second]
    relative = MAKERS[kind](network, relative_to_start=True, **options)
    steps = _updated(relative, gradients, *several)
    plain = _updated(MAKERS[kind](network, **options), gradients, *several)
    unit = int(optax.tree.get(steps[0][1], "unit"))
    phi = float(pathsgd.path_norm(network, first))
    assert 0.5 <= phi / 2**unit < 1 and unit != 0
    for (updates, state), (others, _) in zip(steps, plain, strict=True):
        assert optax.tree.get(state, "unit") == unit
        expected = jax.tree.map(lambda u: u * 4.0**unit, others)
        chex.assert_trees_all_equal(updates, expected)


def test_the_unit_is_1_where_no_path_runs_at_the_start():
    params, gradients = _problem()
    params["Dense_1"] = jax.tree.map(jnp.zeros_like, params["Dense_1"])
    relative = pathsgd.scale_by_path_norm(relative_to_start=True)
    [(updates, state)] = _updated(relative, gradients, params)
    assert state.unit == 0
    [(plain, _)] = _updated(pathsgd.scale_by_path_norm(), gradients, params)
    chex.assert_trees_all_equal(updates, plain)


# A scaling for several updates.


@both
def test_a_scaling_is_held_for_so_many_updates(make):
    first, gradients = _problem()
    second, _ = _problem(seed=3)
    several = [first, second, second, second, first]
    results = _updated(make(update_every=3), gradients, *several)
    fresh = [_updated(make(), gradients, params)[0][0] for params in (first, second)]
    held = [updates for updates, _ in results]
    for k, of in enumerate([0, 0, 0, 1, 1]):
        chex.assert_trees_all_close(held[k], fresh[of], rtol=1e-6)
    norms = [optax.tree.get(state, "log_path_norm") for _, state in results]
    assert norms[0] == norms[1] == norms[2] != norms[3] == norms[4]


@both
def test_a_scaling_held_once_is_a_new_one_each_time(make):
    first, gradients = _problem()
    second, _ = _problem(seed=3)
    held = _updated(make(update_every=1), gradients, first, second)
    each = _updated(make(), gradients, first, second)
    chex.assert_trees_all_close(held[1][0], each[1][0], rtol=1e-6)


@both
def test_a_held_scaling_is_computed_once_in_so_many_updates(make, monkeypatch):
    params, gradients = _problem()
    transformation = make(update_every=3)
    state, calls = transformation.init(params), []
    compute = pathsgd.LayeredNetwork.scaling

    def counted(self, *args, **options):
        calls.append(args)
        return compute(self, *args, **options)

    monkeypatch.setattr(pathsgd.LayeredNetwork, "scaling", counted)
    with jax.disable_jit():
        for _ in range(7):
            _, state = transformation.update(gradients, state, params)
    assert len(calls) == 3


@pytest.mark.parametrize("count", [0, -1, 2.0, True])
@both
def test_a_count_that_is_no_positive_int_is_refused(make, count):
    with pytest.raises(ValueError, match=r"update_every must be"):
        make(update_every=count)


# Coordinates.


class _Recorder:
    """A transformation whose state is what it was given."""

    @staticmethod
    def make():
        def update(updates, state, params):
            del state
            return updates, (updates, params)

        return optax.GradientTransformation(lambda params: (params, params), update)


@pytest.mark.x64
def test_the_inner_transformation_sees_natural_coordinates():
    params, gradients = _problem(np.float64)
    sandwich = pathsgd.precondition_by_path_norm(_Recorder.make())
    roots = jax.tree.map(np.sqrt, _gamma(params))
    natural = jax.tree.map(jnp.multiply, params, roots)
    chex.assert_trees_all_close(
        sandwich.init(params).inner_state[0], natural, rtol=1e-12
    )
    [(updates, state)] = _updated(sandwich, gradients, params)
    slopes, weights = state.inner_state
    chex.assert_trees_all_close(weights, natural, rtol=1e-12)
    chex.assert_trees_all_close(
        slopes, jax.tree.map(jnp.divide, gradients, roots), rtol=1e-12
    )
    expected = jax.tree.map(jnp.divide, gradients, _gamma(params))
    chex.assert_trees_all_close(updates, expected, rtol=1e-12)


def test_what_a_mask_leaves_out_is_seen_as_it_is():
    params, gradients = _problem()
    mask = {"Dense_0": False, "Dense_1": True}
    sandwich = pathsgd.precondition_by_path_norm(_Recorder.make(), mask=mask)
    [(updates, state)] = _updated(sandwich, gradients, params)
    slopes, weights = state.inner_state
    chex.assert_trees_all_equal(weights["Dense_0"], params["Dense_0"])
    chex.assert_trees_all_equal(slopes["Dense_0"], gradients["Dense_0"])
    chex.assert_trees_all_equal(updates["Dense_0"], gradients["Dense_0"])
    scaled, _ = _updated(pathsgd.scale_by_path_norm(), gradients, params)[0]
    chex.assert_trees_all_close(updates["Dense_1"], scaled["Dense_1"], rtol=1e-6)


class _Normed(nn.Module):
    """A network with running averages."""

    @nn.compact
    def __call__(self, x):
        """The outputs."""
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Dense(4)(x)))
        return nn.Dense(2)(x)


@both
@pytest.mark.parametrize("options", [{}, {"update_every": 1}], ids=["each", "every"])
def test_constants_are_passed_on(make, options):
    x = jnp.ones((1, 3))
    variables = _Normed().init(jax.random.key(0), x)
    network = pathsgd.trace_linen(_Normed(), variables, x)
    params, averages = variables["params"], variables["batch_stats"]
    transformation = make(network, **options)
    state, update = transformation.init(params), jax.jit(transformation.update)
    norms = []
    for scale in (1.0, 4.0):
        constants = {"batch_stats": jax.tree.map(lambda v, s=scale: s * v, averages)}
        updates, after = update(params, state, params, constants=constants)
        norms.append(optax.tree.get(after, "log_path_norm"))
        gamma = pathsgd.path_scaling(network, params, constants=constants)
        expected = params["Dense_0"]["kernel"] / gamma["Dense_0"]["kernel"]
        np.testing.assert_allclose(updates["Dense_0"]["kernel"], expected, rtol=1e-5)
    np.testing.assert_allclose(norms[0] - norms[1], np.log(2), rtol=1e-3)
    with pytest.raises(ValueError, match=r"constants=constants"):
        transformation.update(params, state, params)


def test_further_arguments_go_to_the_inner_transformation():
    params, gradients = _problem()
    backtracking = optax.scale_by_backtracking_linesearch(3)
    sandwich = pathsgd.precondition_by_path_norm(backtracking)

    def loss(params):
        return jnp.sum(networks.apply(params, jnp.ones((1, 3))) ** 2)

    state = sandwich.init(params)
    updates, _ = sandwich.update(
        gradients,
        state,
        params,
        value=loss(params),
        grad=gradients,
        value_fn=loss,
    )
    chex.assert_trees_all_equal_structs(updates, params)
