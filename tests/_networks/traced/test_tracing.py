"""Traced networks, against the network itself run on masses."""

import dataclasses
import functools
import itertools
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax import lax

import pathsgd_optax as pathsgd
from tests import networks, oracles, resnets, zoo
from tests.programs import as_users_do


NODES = np.arange(5)
FORWARD = np.array([-25 / 12, 4, -3, 4 / 3, -1 / 4])
"""Coefficients of the forward difference that is exact for polynomials of degree 4."""


def mass_and_slopes(case):
    """Of p: phi and its derivatives by the parameters' masses, finite differences."""
    x = jnp.ones((1, *case.x.shape[1:]))

    @jax.jit
    def compute(params, p):
        masses = jax.tree.map(lambda w: jnp.abs(w) ** p, params)
        flat, unflatten = jax.flatten_util.ravel_pytree(masses)

        def phi(masses):
            token = zoo.EDGE.set(p)
            outputs = case.on_masses(masses, x)
            zoo.EDGE.reset(token)
            return jnp.sum(outputs)

        def slope(direction):
            moved = jax.vmap(lambda k: phi(unflatten(flat + k * direction)))
            return jnp.dot(moved(NODES * 1.0), FORWARD)

        slopes = jax.lax.map(slope, jnp.eye(flat.size), batch_size=64)
        return phi(masses), unflatten(slopes)

    return functools.partial(compute, case.params)


def measures(network, params, orders):
    """The path norms and the scalings for several p, compiled together."""

    @jax.jit
    def measure(params):
        return [
            (
                pathsgd.path_norm(network, params, p),
                pathsgd.path_scaling(network, params, p),
            )
            for p in orders
        ]

    return measure(params)


@pytest.mark.x64
@pytest.mark.parametrize("p, name", [*zip(itertools.cycle((1, 4)), zoo.CASES)])
def test_the_path_norm_and_scaling_are_those_of_the_network_run_on_masses(p, name):
    """Of every network with p = 2, and with one of 1 and 4."""
    case = zoo.CASES[name]()
    network = pathsgd.trace_network(case.apply, case.params, case.x)
    compute, orders = mass_and_slopes(case), (2, p)
    found = measures(network, case.params, orders)
    for p, (norm, scaling) in zip(orders, found, strict=True):
        phi, slopes = compute(float(p))
        np.testing.assert_allclose(norm, phi ** (1 / p), rtol=1e-10)
        slopes = jax.tree.map(lambda x, e=1e-14 * phi: np.where(x > e, x, 0), slopes)
        wanted = jax.tree.map(lambda x, p=p: x ** (2 / p), slopes)
        chex.assert_trees_all_close(
            scaling, wanted, rtol=1e-10, atol=1e-10 * phi ** (2 / p)
        )


class Pooled(nn.Module):
    """BatchNorm, max-pooling and a skip connection, on (batch, 4, 2)."""

    options: dict[str, bool] = dataclasses.field(default_factory=dict)

    @nn.compact
    def __call__(self, x):
        """Two blocks, and a maximum over what is left."""
        norm = functools.partial(nn.BatchNorm, True, **self.options)
        x = nn.max_pool(
            nn.relu(norm(name="n0")(nn.Conv(2, (3,), name="c0")(x))), (2,), (2,)
        )
        y = norm(name="n1")(nn.Conv(2, (3,), name="c1", use_bias=False)(x))
        return nn.Dense(2, name="d")(jnp.max(nn.relu(x + y), 1))


def pooled_graph(variables):
    """The edges of `Pooled`, with its inputs and outputs."""
    params, statistics = (variables.get(k) for k in ("params", "batch_stats"))
    graph, norm = (
        oracles.Graph(),
        lambda name, nodes: graph.normalize(
            name, params.get(name, {}), statistics[name], nodes
        ),
    )
    inputs = graph.nodes(4, 2)
    x = graph.convolve("c0", *weights(params["c0"]), inputs)
    x = norm("n0", x)
    x = graph.gather(x[::2], x[1::2])
    y = norm("n1", graph.convolve("c1", *weights(params["c1"]), x))
    x = graph.gather(x, y)
    x = graph.gather(*x[:, None])
    return graph, inputs, graph.dense("d", *weights(params["d"]), x)


def weights(module):
    return (np.asarray(module["kernel"]), module.get("bias"))


@pytest.mark.x64
@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize(
    "options", [{}, {"use_scale": False}, {"use_bias": False}], ids=str
)
def test_batch_norm_pooling_and_skips_against_every_path(options, p):
    model = Pooled(options)
    shapes = jax.eval_shape(model.init, jax.random.key(0), networks.spec(3, 4, 2))
    variables = zoo.random_params(shapes)
    x = networks.spec(3, 4, 2, dtype=jnp.float64)
    variables["batch_stats"] = jax.tree.map(jnp.abs, variables["batch_stats"])
    constants = {"batch_stats": variables["batch_stats"]}
    network = pathsgd.trace_linen(model, variables, x)
    graph, inputs, outputs = pooled_graph(variables)
    phi, others = graph.masses(inputs, outputs, p)
    params = variables["params"]
    np.testing.assert_allclose(
        pathsgd.path_norm(network, params, p, constants), phi ** (1 / p), rtol=1e-10
    )
    scaling = pathsgd.path_scaling(network, params, p, constants)
    for path, leaf in jax.tree_util.tree_leaves_with_path(scaling):
        names = tuple(key.key for key in path)
        for place, found in np.ndenumerate(leaf):
            wanted = others[(*names, *place)] ** (2 / p)
            np.testing.assert_allclose(found, wanted, rtol=1e-10)


def dense_case():
    params = networks.dense_tree((3, 4, 5, 2))
    traced = pathsgd.trace_network(networks.apply, params, networks.spec(7, 3))
    return params, traced


@pytest.mark.parametrize("p", [1, 2, 3.5])
def test_a_layered_network_and_the_traced_one_agree(p):
    params, traced = dense_case()
    layered = pathsgd.layered_network(params)
    for measure in (pathsgd.path_norm, pathsgd.path_scaling):
        chex.assert_trees_all_close(
            measure(traced, params, p), measure(layered, params, p), rtol=1e-5
        )
    updates = [
        scaled(pathsgd.scale_by_path_norm(network, p, exponent=0.5), params)
        for network in (traced, layered)
    ]
    chex.assert_trees_all_close(*updates, rtol=1e-4)


def scaled(transformation, params, **extra):
    updates, _ = transformation.update(
        params, transformation.init(params), params, **extra
    )
    return updates


def test_path_norms_are_differentiable():
    params, traced = dense_case()
    layered = pathsgd.layered_network(params)
    slopes = [jax.grad(pathsgd.log_path_norm, 1)(n, params) for n in (traced, layered)]
    chex.assert_trees_all_close(*slopes, rtol=1e-4)


@pytest.mark.x64
def test_the_path_norm_of_batch_norm_is_differentiable():
    model, params, statistics = batch_norm_case()
    network = pathsgd.trace_linen(model, {"params": params, **statistics}, ones(3))
    flat, unflatten = jax.flatten_util.ravel_pytree(params)
    chex.assert_numerical_grads(
        lambda w: pathsgd.log_path_norm(network, unflatten(w), 2, statistics),
        (flat,),
        1,
    )


def ones(*shape):
    return jnp.ones((1, *shape))


def batch_norm_case():
    model = nn.Sequential([nn.Dense(4), nn.BatchNorm(True), nn.relu, nn.Dense(2)])
    shapes = jax.eval_shape(model.init, jax.random.key(0), networks.spec(1, 3))
    variables = zoo.random_params(shapes)
    statistics = {"batch_stats": jax.tree.map(jnp.abs, variables["batch_stats"])}
    return model, variables["params"], statistics


@pytest.mark.x64
def test_constants_are_those_of_the_call_without_recompiling():
    model, params, statistics = batch_norm_case()
    network = pathsgd.trace_linen(model, {"params": params, **statistics}, ones(3))
    transformation = pathsgd.scale_by_path_norm(network)
    traces = []

    @jax.jit
    def update(params, constants):
        traces.append(params)
        return scaled(transformation, params, constants=constants)

    for factor in (1.0, 2.0):
        constants = jax.tree.map(lambda x, f=factor: f * x, statistics)
        closed = pathsgd.trace_network(
            lambda w, x, c=constants: model.apply({"params": w, **c}, x),
            params,
            ones(3),
        )
        wanted = scaled(pathsgd.scale_by_path_norm(closed), params)
        chex.assert_trees_all_close(update(params, constants), wanted, rtol=1e-12)
    assert len(traces) == 1


def test_wrong_constants_and_params_are_refused():
    model, params, statistics = batch_norm_case()
    params, statistics = jax.tree.map(jnp.float32, (params, statistics))
    network = pathsgd.trace_linen(model, {"params": params, **statistics}, ones(3))
    with pytest.raises(
        ValueError, match=r"constants are not .*mean.* is missing.*Pass `const"
    ):
        pathsgd.path_norm(network, params)
    with pytest.raises(ValueError, match=r"has constants, but the update got none"):
        scaled(pathsgd.path_sgd(0.1, network), params)
    wrong = jax.tree.map(lambda x: x[None], statistics)
    with pytest.raises(ValueError, match=r"constants are .*traced with"):
        pathsgd.path_scaling(network, params, constants=wrong)
    with pytest.raises(ValueError, match="params are not those"):
        pathsgd.path_norm(network, params["layers_0"], constants=statistics)
    layered = pathsgd.layered_network(networks.dense_tree((3, 2)))
    with pytest.raises(ValueError, match="has no constants"):
        pathsgd.path_norm(layered, networks.dense_tree((3, 2)), constants=statistics)


def test_neither_the_batch_nor_the_arrays_of_the_example_matter():
    params = networks.dense_tree((3, 4, 2))
    shapes = jax.tree.map(lambda w: networks.spec(*w.shape), params)
    examples = (jnp.full((5, 3), jnp.nan), networks.spec(1, 3), networks.spec(2, 3))
    scalings = [
        pathsgd.path_scaling(pathsgd.trace_network(networks.apply, tree, x), params)
        for tree, x in zip((params, params, shapes), examples, strict=True)
    ]
    chex.assert_trees_all_equal(*scalings)


def test_a_network_of_several_inputs():
    params = {"v": jnp.ones((2, 4)), "w": jnp.ones((3, 4))}
    x = {"v": networks.spec(5, 2), "w": networks.spec(5, 3)}
    network = pathsgd.trace_network(
        lambda params, x: jnp.maximum(x["v"] @ params["v"], x["w"] @ params["w"]),
        params,
        x,
    )
    assert pathsgd.path_norm(network, params, 1) == 4 * (2 + 3)


def test_a_trace_allocates_nothing_and_keeps_no_parameters():
    """A network of 4 TB, described by shapes."""
    size = 1_000_000
    shapes = {"w": networks.spec(size, size)}
    network = pathsgd.trace_network(
        lambda params, x: jax.nn.relu(x @ params["w"]), shapes, networks.spec(1, size)
    )
    assert not any(isinstance(x, jax.Array) for x in network.jaxpr.consts)
    params = networks.dense_tree((3, 2))
    kernel = params["Dense_0"]["kernel"]
    before = sys.getrefcount(kernel)
    network = pathsgd.trace_network(networks.apply, params, networks.spec(1, 3))
    assert sys.getrefcount(kernel) == before


@pytest.mark.x64
def test_uses_are_counted():
    case = zoo.CASES["nn.RNN"]()
    network = pathsgd.trace_network(case.apply, case.params, case.x)
    uses = {p.path.split("']['", 1)[1]: (p.role, p.uses) for p in network.parameters}
    assert uses == {
        "bias']": ("bias", 1),
        "kernel']": ("weight", 1),
        "i']['kernel']": ("weight", 3),
        "i']['bias']": ("bias", 3),
        "h']['kernel']": ("weight", 3),
    }
    case = zoo.CASES["tied"]()
    network = pathsgd.trace_network(case.apply, case.params, case.x)
    assert network.summary().splitlines()[1].split() == "['w'] (3, 4) weight 2".split()


@pytest.mark.x64
def test_the_summary_tells_the_shares_of_the_paths():
    params = {"v": jnp.ones((2, 1)), "w": jnp.ones((2, 1)) * 3, "unused": jnp.ones(1)}
    network = pathsgd.trace_network(
        lambda params, x: x @ params["v"] + x @ params["w"], params, ones(2)
    )
    assert network.summary(params, 1).splitlines() == [
        "parameter   shape   role     uses  share",
        "['unused']  (1,)    no path  0     0.0%",
        "['v']       (2, 1)  weight   1     25.0%",
        "['w']       (2, 1)  weight   1     75.0%",
    ]
    layered = pathsgd.layered_network(networks.dense_tree((3, 2), bias=False))
    assert "100.0%" in layered.summary(networks.dense_tree((3, 2), bias=False))


SHARED = {
    "twice on each path": (lambda w, x: x * w["a"] * w["a"], 1),
    "on one path of two": (lambda w, x: x * w["a"] * w["a"] + x * w["b"], 16 / 25),
    "on two paths of three": (lambda w, x: x * w["a"] + x * w["b"] + w["a"], 8 / 17),
    "in a scan": (
        lambda w, x: lax.scan(lambda h, _: (h * w["a"] + w["b"], None), x, None, 2)[0],
        (16 + 9 * 4) / (16 + 9 * 4 + 9),
    ),
    "in a shift": (lambda w, x: (x * w["b"] - 1.0) + w["a"], 0),
    "in a shift that grows": (lambda w, x: (x * w["b"] + 1.0) + w["a"], 8 / 18),
    "nowhere": (lambda w, x: x * w["a"] * 0.0, 0),
}


@pytest.mark.x64
@pytest.mark.parametrize("name", SHARED)
def test_a_share_is_what_is_gone_without_the_parameter(name):
    function, share = SHARED[name]
    params = {"a": jnp.full((1, 1), 2.0), "b": jnp.full((1, 1), 3.0)}
    network = pathsgd.trace_network(
        function, params, networks.spec(1, 1, dtype=jnp.float64)
    )
    row = network.summary(params).splitlines()[1].split()
    assert row[0] == "['a']" and row[-1] == f"{share:.1%}"


@pytest.mark.x64
def test_a_parameter_on_no_path_keeps_its_gradient():
    case = zoo.CASES["PReLU"]()
    network = pathsgd.trace_network(case.apply, case.params, case.x)
    labels = network.labels()
    assert labels["PReLU_0"] == {"negative_slope": "no path"}
    assert labels["Dense_0"] == {"kernel": "path", "bias": "path"}
    for options in ({}, {"exponent": 0.5}):
        updates = scaled(pathsgd.scale_by_path_norm(network, **options), case.params)
        chex.assert_trees_all_equal(updates["PReLU_0"], case.params["PReLU_0"])
        assert (updates["Dense_0"]["kernel"] != case.params["Dense_0"]["kernel"]).all()


@pytest.mark.x64
def test_labels_part_the_parameters_between_optimizers():
    case = zoo.CASES["PReLU"]()
    network = pathsgd.trace_network(case.apply, case.params, case.x)
    parts = {"path": pathsgd.path_sgd(0.1, network), "no path": optax.sgd(0.5)}
    updates = scaled(optax.partition(parts, network.labels()), case.params)
    alone = scaled(pathsgd.path_sgd(0.1, network), case.params)
    chex.assert_trees_all_equal(updates["Dense_0"], alone["Dense_0"])
    chex.assert_trees_all_equal(
        updates["PReLU_0"], jax.tree.map(lambda g: -0.5 * g, case.params["PReLU_0"])
    )
    mask = jax.tree.map(jnp.ndim, case.params)  # biases are hidden
    mask = jax.tree.map(lambda ndim: ndim == 2, mask)
    masked = optax.masked(pathsgd.path_sgd(0.1, network), mask)
    with pytest.raises(ValueError, match="params are masked"):
        masked.init(case.params)


def test_p_infinity_is_refused():
    params, network = dense_case()
    with pytest.raises(ValueError, match="p = inf has no scaling in a traced network"):
        pathsgd.path_norm(network, params, jnp.inf)


@pytest.mark.parametrize("name", ["group_norm", "max_norm", "balance"])
def test_what_needs_layers_says_so(name):
    params, network = dense_case()
    with pytest.raises(ValueError, match="needs the layers of a layered_network"):
        getattr(pathsgd, name)(network, params)


def test_half_precision_parameters_get_float32_scalings():
    params, network = dense_case()
    for dtype in (jnp.bfloat16, jnp.float16):
        half = jax.tree.map(lambda w, dtype=dtype: w.astype(dtype), params)
        scaling = pathsgd.path_scaling(network, half)
        chex.assert_trees_all_equal_dtypes(scaling, params)
        wide = jax.tree.map(jnp.float32, half)
        chex.assert_trees_all_equal(scaling, pathsgd.path_scaling(network, wide))
        chex.assert_trees_all_equal_dtypes(
            scaled(pathsgd.scale_by_path_norm(network), half), half
        )


class Small(nn.Module):
    """A convolutional network with biases, max-pooling and a residual block."""

    @nn.compact
    def __call__(self, x):
        """Returns the logits."""
        x = nn.relu(nn.Conv(8, (3, 3))(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        y = nn.relu(nn.Conv(6, (3, 3))(x))
        x = nn.relu(x + nn.Conv(8, (3, 3))(y))
        return nn.Dense(10)(jnp.mean(x, (1, 2)))


def rescaled(params, rng):
    """Equivalent weights: the channels of the stream, and those in the block."""
    stream, inner = (2.0 ** rng.integers(-9, 10, n).astype(np.float32) for n in (8, 6))
    ends = {
        "Conv_0": (np.ones(1, np.float32), stream),
        "Conv_1": (stream, inner),
        "Conv_2": (inner, stream),
    }
    ends["Dense_0"] = (stream, np.ones(10, np.float32))
    return {
        name: {
            "kernel": params[name]["kernel"] * np.outer(1 / source, target),
            "bias": params[name]["bias"] * target,
        }
        for name, (source, target) in ends.items()
    }


def trained(optimizer, starts, x, y, jit=as_users_do, steps=50):
    """The last weights and the losses from each start."""

    def loss(params):
        logits = Small().apply({"params": params}, x)
        return jnp.mean(pathsgd.truncated_softmax_cross_entropy(logits, y))

    @jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    def train(params):
        state, losses = optimizer.init(params), []
        for _ in range(steps):
            params, state, value = step(params, state)
            losses.append(value)
        return params, np.array(losses)

    return [train(params) for params in starts]


def test_convolutional_training_is_invariant_bit_for_bit(digits):
    x = jnp.float32(digits[0][:32].reshape(-1, 8, 8, 1))
    y = digits[1][:32]
    params = Small().init(jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda w: w + 0.01, params)
    network = pathsgd.trace_linen(Small(), {"params": params}, x)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        starts = params, rescaled(params, np.random.default_rng(0))
        optimizer = pathsgd.path_sgd(0.2, network, momentum=0.5)
        (straight, losses), (found, others) = trained(optimizer, starts, x, y)
        wanted = rescaled(straight, np.random.default_rng(0))
        chex.assert_trees_all_equal(found, wanted)
        np.testing.assert_array_equal(others, losses)
        assert losses[-1] < losses[0] - 0.1
        for control in (optax.sgd(0.02), optax.adam(0.001)):
            (_, losses), (_, others) = trained(control, starts, x, y, jax.jit)
            assert np.abs(others - losses).max() > 0.1


@pytest.mark.parametrize("depth, p", [(18, 2), (50, 4), (152, 1)])
def test_resnets_have_finite_path_norms(depth, p):
    size = 64
    variables = resnets.he_variables(depth, size)
    x = networks.spec(1, size, size, 3)
    network = pathsgd.trace_linen(resnets.ResNet(depth), variables, x)
    wanted = resnets.log_path_norm(depth, variables, p, size)
    params, statistics = variables.pop("params"), variables
    found = pathsgd.log_path_norm(network, params, p, statistics)
    np.testing.assert_allclose(found, wanted, atol=1e-3)


ERRORS = {
    "tanh in Lambda at test_tracing.py:[0-9]+ has no path semantics: .*relu": jnp.tanh,
    "exp .*leave it to the loss and return the logits": jax.nn.softmax,
    "logistic .*register_path_rule": jax.nn.silu,
    "min .*clips at a constant that isn't known to be 0, as relu6": jax.nn.relu6,
    "mul .*multiplies two values that depend on the inputs": lambda x: x * (x + 1),
    "dot_general .*multiplies two values": lambda x: jnp.einsum("bi,bi->b", x, x),
    "square in Lambda/LayerNorm_0 .*statistics of LayerNorm": lambda x: nn.LayerNorm()(
        x
    ),
    "BatchNorm_0.* squares .*Run BatchNorm on its running averages": (
        lambda x: nn.BatchNorm(False, name="BatchNorm_0")(x)
    ),
    "select_n in .*Dropout_0 .*dropout is active": lambda x: nn.Dropout(
        0.5, deterministic=False
    )(x),
    "select_n .*computes with a comparison": lambda x: jnp.where(x > 0, x, x + 1),
    "select_n .*as gates do": lambda x: jnp.where(x > 0, x, x[:, ::-1]),
    "select_n .*gates": lambda x: lax.scan(
        lambda c, _: ((c[1], jnp.where(c[0] > 0, c[0], c[1])), None),
        (x, x + 1),
        None,
        2,
    )[0][1],
    "mul .*write relu as jax.nn.relu": lambda x: x * (x[:, ::-1] > 0).astype(x.dtype),
    "cond .*its course depends": lambda x: lax.cond(x[0, 0] > 0, lambda: x, lambda: -x),
    "gt .*computes with a comparison": lambda x: jnp.where(x > 1, x, 0),
    "div .*divides by a value that depends on the inputs": lambda x: 1 / x,
    "lt of jnp.take.* uses the order of values": lambda x: jnp.take_along_axis(
        x, jnp.argsort(x), 1
    ),
    "while .*Close over what decides": lambda x: lax.while_loop(
        lambda x: True, lambda x: x + x, x
    ),
    "rsqrt .*root of parameters, as WeightNorm": lambda x: nn.WeightNorm(nn.Dense(2))(
        x
    ),
    "a row for each example": lambda x: jnp.sum(x),
    "apply_fn fails on these params and x, .*AttributeError": lambda x: x.undefined,
    "not floating values that depend on x": lambda x: jnp.ones_like(x),
}


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype:UserWarning")
@pytest.mark.parametrize("message", ERRORS)
def test_errors_teach(message):
    class Lambda(nn.Module):
        @nn.compact
        def __call__(self, x):
            return ERRORS[message](nn.Dense(3)(x))

    x, key = jnp.ones((2, 3)), jax.random.key(0)
    params = {"Dense_0": nn.Dense(3).init(key, x)["params"]}
    if "WeightNorm" in message:
        params = Lambda().init(key, x)["params"]
    if "BatchNorm_0" in message:
        params["BatchNorm_0"] = {"scale": jnp.ones(3), "bias": jnp.ones(3)}
    if "LayerNorm_0" in message:
        params["LayerNorm_0"] = {"scale": jnp.ones(3), "bias": jnp.ones(3)}

    def apply_fn(params, x):
        outputs = Lambda().apply(
            {"params": params}, x, rngs={"dropout": key}, mutable=["batch_stats"]
        )
        return outputs[0]

    with pytest.raises(ValueError, match=message):
        pathsgd.trace_network(apply_fn, params, x)


@pytest.mark.parametrize(
    "message, params, x",
    [
        ("one leading batch axis", networks.spec(3, 2), networks.spec()),
        (
            "x, the single leaf: float32.5, 4.* dot_general requires",
            networks.spec(3, 2),
            networks.spec(5, 4),
        ),
        (
            "x, the single leaf: float32.3,.*dot_general",
            networks.spec(3, 2),
            networks.spec(3),
        ),
        ("have no leaves", {}, networks.spec(4, 3)),
        (
            "single leaf is int32, not floating",
            networks.spec(3, 2, dtype=jnp.int32),
            networks.spec(4, 3),
        ),
    ],
)
def test_wrong_examples_are_refused(message, params, x):
    with pytest.raises(ValueError, match=message):
        pathsgd.trace_network(lambda w, x: x.astype(jnp.float32) @ w, params, x)


NO_REMEDY = {
    "exp of jax.nn.softmax.*With gates=True: outputs of apply_fn are a gate's": (
        jax.nn.softmax
    ),
    "tanh .*With gates=True: outputs .*exponential": lambda h: jnp.exp(jnp.tanh(h) * h),
    "tanh .*Or trace with gates=True: ": jnp.tanh,
}


@pytest.mark.parametrize("message", NO_REMEDY)
def test_gates_are_recommended_where_they_help(message):
    def apply_fn(w, x):
        return NO_REMEDY[message](x @ w)

    with pytest.raises(ValueError, match=message) as error:
        pathsgd.trace_network(apply_fn, networks.spec(3, 2), networks.spec(4, 3))
    assert ("Or trace" in str(error.value)) == ("Or trace" in message)


@pytest.mark.parametrize("inputs", ["params", "ids", "floats"])
def test_shard_map_is_refused_by_its_name(inputs):
    mesh = jax.make_mesh((1,), ("data",))

    def apply_fn(w, x):
        ids = x[:, 0].astype(jnp.int32)
        function, *arguments = {
            "params": (lambda w: w, w),
            "ids": (lambda w, ids: w[ids], w, ids),
            "floats": (lambda w, x: x @ w, w, x),
        }[inputs]
        places = jax.sharding.PartitionSpec()
        sharded = jax.shard_map(
            function, mesh=mesh, in_specs=(places,) * len(arguments), out_specs=places
        )
        return sharded(*arguments) if len(arguments) > 1 else x @ sharded(*arguments)

    with pytest.raises(ValueError, match=r"shard_map.*as for a single device"):
        pathsgd.trace_network(apply_fn, networks.spec(3, 2), networks.spec(4, 3))
