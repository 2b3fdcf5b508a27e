"""What Path-SGD costs through trace_network, as ratios to a network's own gradient.

Run with ``python -m pytest benchmarks/test_trace_time.py --benchmark-only -n 0 -s``.

The two passes over path masses are those of a gradient with a single example, and with
sums in place of BatchNorm and of ReLU's masks. At a batch of 128 they add 1/128 of the
operations; besides they read the weights twice and write as many slopes, which for the
11.7 million weights of ResNet-18 is 140 MB, against the some 60 GFLOP of the step.

A compiler does the work of a gradient too, and that of the magnitudes: an exponent for
each convolution, and for each sum the power of two that brings both sides to one. The
network's own gradient is compiled twice for comparison: with the running averages, as
gamma sees the network, and with those of the batch, as a training step does.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pathsgd_optax as pathsgd
from benchmarks.reports import interleaved, ratios, report
from tests import resnets


ROUNDS = 10
BATCH, SIZE = 128, 64


def _loss(model, params, statistics, images, labels):
    variables = {"params": params, "batch_stats": statistics}
    logits, changed = model.apply(variables, images, mutable=["batch_stats"])
    loss = jnp.mean(pathsgd.truncated_softmax_cross_entropy(logits, labels))
    return loss, changed["batch_stats"]


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 2, 3))
def _step(optimizer, params, state, statistics, images, labels):
    loss = functools.partial(_loss, resnets.ResNet(18, train=True))
    grads, changed = jax.grad(loss, has_aux=True)(params, statistics, images, labels)
    constants = {"batch_stats": statistics}
    updates, state = optimizer.update(grads, state, params, constants=constants)
    return optax.apply_updates(params, updates), state, changed


def _network(depth, variables, size):
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return pathsgd.trace_linen(resnets.ResNet(depth), variables, x)


@pytest.mark.benchmark(group="training step")
def test_resnet_18_steps_interleaved(benchmark):
    variables = resnets.he_variables(18, SIZE)
    network = _network(18, variables, SIZE)
    images = jax.random.normal(jax.random.key(0), (BATCH, SIZE, SIZE, 3))
    labels = jnp.arange(BATCH)
    optimizers = {
        "sgd": optax.with_extra_args_support(optax.sgd(1e-3)),
        "adam": optax.with_extra_args_support(optax.adam(1e-3)),
        "path_sgd": pathsgd.path_sgd(1e-3, network),
    }
    steps, states = {}, {}
    for name, optimizer in optimizers.items():
        params, statistics = jax.tree.map(jnp.copy, tuple(variables.values()))[::-1]
        step = functools.partial(_step, optimizer)
        steps[name] = functools.partial(step, images=images, labels=labels)
        states[name] = (params, optimizer.init(params), statistics)
    times = interleaved(benchmark, steps, states, ROUNDS, warmup_rounds=1)
    seconds = {"sgd, s": np.median(times["sgd"])}
    report(benchmark, seconds | ratios(times, "sgd"))


@pytest.mark.benchmark(group="compilation")
@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("depth", [18, 50, 152])
def test_compilation_of_gamma(benchmark, depth, p):
    shapes = jax.eval_shape(lambda: resnets.he_variables(depth))
    params, statistics = shapes["params"], shapes["batch_stats"]
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((2,), jnp.int32)
    start = time.perf_counter()
    network = _network(depth, shapes, 224)
    trace = time.perf_counter() - start

    def seconds(function, *arguments):
        jax.clear_caches()
        start = time.perf_counter()
        jax.jit(function).lower(*arguments).compile()
        return time.perf_counter() - start

    def of_gamma():
        gamma = functools.partial(pathsgd.path_scaling, network, p=p)
        constants = {"batch_stats": statistics}
        return seconds(lambda params, c: gamma(params, constants=c), params, constants)

    def of_gradient(train):
        loss = functools.partial(_loss, resnets.ResNet(depth, train))
        gradient = jax.grad(loss, has_aux=True)
        return seconds(gradient, params, statistics, images, labels)

    def quotients():
        gamma = of_gamma()
        return gamma / of_gradient(train=False), gamma / of_gradient(train=True)

    name = f"ResNet-{depth}, p = {p}"
    report(benchmark, {f"{name}, trace, s": trace})
    of_gradient(train=False)
    found = [quotients() for _ in range(2)]
    found.append(benchmark.pedantic(quotients, rounds=1))
    own, training = np.median(found, axis=0)
    report(benchmark, {f"{name}, gamma / gradient": own})
    report(benchmark, {f"{name}, gamma / training gradient": training})
