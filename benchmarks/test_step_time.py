"""What Path-SGD costs, as ratios to the optimizers of Optax.

Run with ``python -m pytest benchmarks/test_step_time.py --benchmark-only -n 0 -s``.

A step of 784-4000-4000-10 at a batch of 100 takes 11.5 GFLOP for the gradients. It
must read the 76.7 MB of weights for the forward pass and the 64 MB of the second
kernel for the backward one, write and read 76.7 MB of gradients, and read and write
the weights to update them: about 450 MB. Path-SGD must read the weights once more,
76.7 MB, or 17% of that: the forward pass needs the first two kernels, the backward one
the last two, and both meet at the second kernel, which one loop reads for both. Adam
must read and write its two moments, 307 MB.

Measured alone on two cores, reading 64 MB takes 1.5 ms, the whole path scaling 2.9 ms.
A step of SGD takes 50 ms and one of Path-SGD 54 ms, 17 ms of either for page faults:
the C library gives temporary arrays back after every step.

XLA copies donated weights first where an update might overwrite them before they have
been read for the last time: in the steps of all these the second kernel. It orders a
program breadth first. The path scaling is a single instruction of it and comes first,
or else weights and gradients would be kept until its many small ones end: 83 MB of
temporary memory instead of 71. Where gradients are read several times, for the path
metric and in Path-Adam, the updates wait for the gradients of the biases, and no
kernel is copied.
"""

import functools
import itertools
import time
from concurrent import futures

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import pathsgd_optax as pathsgd
from benchmarks.reports import interleaved, ratios, report


WIDTHS = (784, 4000, 4000, 10)
BATCHES = (100, 1000)
ROUNDS = 40

STEPS = 1 if jax.default_backend() == "cpu" else 20
"""Taken before the clock is read: an accelerator's are shorter than their launch."""

UPDATES = 10 * STEPS

OPTIMIZERS = {
    "sgd": optax.sgd(0.01),
    "sgd, momentum": optax.sgd(0.01, momentum=0.9),
    "adagrad": optax.adagrad(0.01),
    "adam": optax.adam(0.001),
    "path_sgd": pathsgd.path_sgd(0.01),
    "path_sgd, damping": pathsgd.path_sgd(0.01, damping=0.1),
    "path_sgd, p = 1": pathsgd.path_sgd(0.01, p=1),
    "path_sgd, momentum": pathsgd.path_sgd(0.01, momentum=0.9),
    "path_sgd, update_every = 10": pathsgd.path_sgd(0.01, update_every=10),
    "path_sgd, monitor": pathsgd.path_sgd(0.01, monitor=True),
    "path_adam": pathsgd.path_adam(0.001),
}


def _params(widths):
    kernels = [
        jax.random.normal(jax.random.key(k), ends) / np.sqrt(ends[0])
        for k, ends in enumerate(itertools.pairwise(widths))
    ]
    return {
        f"Dense_{k}": {"kernel": kernel, "bias": jnp.zeros(kernel.shape[1])}
        for k, kernel in enumerate(kernels)
    }


def _logits(params, images):
    *hidden, last = params.values()
    for layer in hidden:
        images = jax.nn.relu(images @ layer["kernel"] + layer["bias"])
    return images @ last["kernel"] + last["bias"]


def _loss(params, images, labels):
    logits = _logits(params, images)
    return jnp.mean(pathsgd.truncated_softmax_cross_entropy(logits, labels))


def _optimizers():
    """Those above, and Path-SGD on the network as it is traced."""
    params = jax.eval_shape(lambda: _params(WIDTHS))
    image = jax.ShapeDtypeStruct((1, WIDTHS[0]), jnp.float32)
    traced = pathsgd.trace_network(_logits, params, image)
    return OPTIMIZERS | {"path_sgd, traced": pathsgd.path_sgd(0.01, traced)}


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def _step(optimizer, params, state, images, labels):
    grads = jax.grad(_loss)(params, images, labels)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def _batch(size):
    images = jax.random.normal(jax.random.key(0), (size, WIDTHS[0]))
    return images, jnp.arange(size) % WIDTHS[-1]


def _compiled(optimizers, size):
    """The step of each optimizer, compiled beside one another."""
    params, batch = _params(WIDTHS), _batch(size)

    def compiled(optimizer):
        state = optimizer.init(params)
        return _step.lower(optimizer, params, state, *batch).compile()

    with futures.ThreadPoolExecutor() as pool:
        steps = pool.map(compiled, optimizers.values())
        return dict(zip(optimizers, steps, strict=True))


def _seconds(function):
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


@pytest.mark.benchmark(group="training step")
@pytest.mark.parametrize("size", BATCHES)
def test_training_steps_interleaved(benchmark, size):
    optimizers, batch = _optimizers(), _batch(size)
    steps, states = {}, {}
    for name, step in _compiled(optimizers, size).items():
        params = _params(WIDTHS)
        states[name] = params, optimizers[name].init(params)
        steps[name] = functools.partial(_repeated, step, batch)
    times = interleaved(benchmark, steps, states, ROUNDS, warmup_rounds=2)
    milliseconds = {"sgd, ms": 1000 * np.median(times["sgd"]) / STEPS}
    report(benchmark, milliseconds | ratios(times, "sgd"))


def _repeated(step, batch, *state):
    for _ in range(STEPS):
        state = step(*state, *batch)
    return state


@pytest.mark.benchmark(group="memory")
@pytest.mark.parametrize("size", BATCHES)
def test_memory_of_a_training_step(benchmark, size):
    chosen = ("sgd", "adam", "path_sgd", "path_sgd, traced")
    optimizers = {name: _optimizers()[name] for name in chosen}

    def megabytes(step):
        return step.memory_analysis().temp_size_in_bytes / 1e6

    steps = benchmark.pedantic(lambda: _compiled(optimizers, size), rounds=1)
    sizes = {f"{name}, temporary MB": megabytes(step) for name, step in steps.items()}
    report(benchmark, sizes)


@pytest.mark.benchmark(group="update")
def test_updates_against_the_bandwidth_of_sgd(benchmark):
    """SGD's update reads weights and gradients, and writes the weights: no less."""
    chosen = ("sgd", "path_sgd", "path_sgd, traced")
    optimizers = {name: _optimizers()[name] for name in chosen}
    steps, states = {}, {}
    for name, optimizer in optimizers.items():
        params, grads = _params(WIDTHS), _params(WIDTHS)
        states[name] = params, optimizer.init(params)
        steps[name] = functools.partial(_updates, optimizer, grads)
    times = interleaved(benchmark, steps, states, ROUNDS, warmup_rounds=2)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(_params(WIDTHS)))
    seconds = np.median(times["sgd"]) / UPDATES
    speed = {"sgd, GB / s": 3 * weights / seconds / 1e9, "sgd, ms": 1000 * seconds}
    report(benchmark, speed | ratios(times, "sgd"))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(2, 3))
def _updates(optimizer, grads, params, state):
    def update(_, state):
        params, state = state
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return lax.fori_loop(0, UPDATES, update, (params, state))


@pytest.mark.benchmark(group="compilation")
@pytest.mark.parametrize("p", [1, 2])
def test_compilation_of_gamma(benchmark, p):
    def first_call(depth):
        jax.clear_caches()
        params = _params((64,) * (depth + 1))
        network = pathsgd.layered_network(params)
        return _seconds(lambda: pathsgd.path_scaling(network, params, p))

    def ratio():
        return first_call(100) / first_call(10)

    ratios = [ratio() for _ in range(4)]
    benchmark.pedantic(ratio, rounds=1)
    report(benchmark, {f"100 layers / 10 layers, p = {p}": np.median(ratios)})
