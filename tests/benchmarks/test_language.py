"""Training of the small language model, and its optimizers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import language, text
from benchmarks.decoder import CONTEXT
from benchmarks.language import OPTIMIZERS
from benchmarks.optimizers import Optimizer


TEXT = text.tokenize("a text", "no rose is a rose but a nose " * 100)

TASK = language.Task(TEXT, heads=1, blocks=1, batch_size=4, steps=60)


def test_pieces_are_of_the_text_and_of_the_seed():
    found = language.windows(CONTEXT, TEXT.train, 0, 5, 2)
    assert found.shape == (5, 2, CONTEXT + 1)
    windows = np.lib.stride_tricks.sliding_window_view(TEXT.train, CONTEXT + 1)
    assert {*map(bytes, found.reshape(10, -1))} <= {*map(bytes, windows)}
    np.testing.assert_array_equal(found, language.windows(CONTEXT, TEXT.train, 0, 5, 2))
    assert np.any(found != language.windows(CONTEXT, TEXT.train, 1, 5, 2))


def test_the_last_piece_of_a_text_is_found_and_nothing_beyond():
    tokens = np.arange(CONTEXT + 2, dtype=np.int32)
    starts = language.windows(CONTEXT, tokens, 0, 100)[:, 0]
    assert {*starts.tolist()} == {0, 1}


def by_hand(make, rate):
    """The objective of every step, and the parameters after the last."""
    model = language.model_of(TASK)
    params = language.initialize(TASK, "unbalanced", 3)["params"]
    optimizer = make(rate)
    state, losses = optimizer.init(params), []

    @jax.jit
    @jax.value_and_grad
    def gradient(params, batch):
        scores = jax.nn.log_softmax(model.apply({"params": params}, batch[:, :-1]))
        following = jax.nn.one_hot(batch[:, 1:], TEXT.vocabulary)
        return -jnp.mean(jnp.sum(scores * following, -1))

    update = jax.jit(optimizer.update)
    for batch in language.windows(CONTEXT, TEXT.train, 3, TASK.steps, TASK.batch_size):
        loss, grads = gradient(params, batch)
        losses.append(loss)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    unseen = language.windows(CONTEXT, TEXT.validation, 0, language.UNSEEN)
    return np.array(losses), gradient(params, unseen)[0]


@pytest.mark.optax
def test_a_run_is_that_of_the_optimizer_by_itself(monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "sgd", Optimizer("SGD", optax.sgd))
    make = language.maker(TASK, "sgd")
    # A large step size would make much of the roundings' differences.
    outcome = language.run(TASK, make, 0.005, "unbalanced", 3)
    losses, validation = by_hand(make, 0.005)
    np.testing.assert_allclose(outcome.train_loss, losses[-50:].mean(), rtol=1e-3)
    np.testing.assert_allclose(outcome.validation_loss, validation, rtol=1e-3)
    np.testing.assert_allclose(outcome.losses, losses.reshape(6, 10).mean(1), rtol=1e-3)
    assert outcome.losses[-1] < 0.8 * outcome.losses[0]


@pytest.mark.optax
def test_the_step_size_rises_for_a_tenth_and_falls_to_nothing(monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "sgd", Optimizer("SGD", optax.sgd))
    optimizer = language.maker(TASK, "sgd")(0.5)
    params = state = jnp.ones(())
    state, steps = optimizer.init(params), []
    for _ in range(TASK.steps + 1):
        update, state = optimizer.update(params, state)
        steps.append(-float(update))
    np.testing.assert_allclose(steps[:7], 0.5 * np.arange(7) / 6, rtol=1e-6)
    np.testing.assert_allclose(steps[33], 0.25, rtol=1e-6)
    assert np.all(np.diff(steps[6:]) < 0) and steps[-1] == pytest.approx(0, abs=1e-7)


@pytest.mark.optax
def test_a_run_that_diverges_says_so(monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "sgd", Optimizer("SGD", optax.sgd))
    short = TASK._replace(steps=5)
    make = language.maker(short, "sgd")
    outcome = language.run(short, make, 1e30, "balanced", 0)
    assert not np.isfinite(outcome.train_loss)
    assert outcome.losses == []


@pytest.mark.optax
def test_muon_makes_the_matrices_of_the_blocks_orthogonal():
    rng = np.random.default_rng(0)
    params = language.initialize(TASK, "balanced", 0)["params"]
    grads = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params
    )
    optimizer = OPTIMIZERS["muon"].make(1.0)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    block = updates["block_0"]
    matrices = [block[name]["kernel"] for name in ("inner", "outer")]
    heads = block["attention"]
    matrices += [heads[name]["kernel"].reshape(16, 16) for name in heads]
    for matrix in matrices:
        sizes = np.linalg.svd(matrix, compute_uv=False)
        assert sizes.max() < 2 * sizes.min() < 6
    for leaf in (updates["positions"], updates["head"]["kernel"]):
        assert np.ptp(np.abs(leaf)) < 1e-3  # Adam's first step


@functools.cache
def maker(name):
    return language.maker(TASK, name)


@functools.cache
def losses(name, init):
    return language.run(TASK, maker(name), 0.02, init, 0).losses


@pytest.mark.parametrize("name", ["lamb", "path_adam"])
@pytest.mark.optax
def test_the_optimizers_learn(name):
    assert losses(name, "unbalanced")[-1] < 0.8 * losses(name, "unbalanced")[0]


@pytest.mark.parametrize("name", ["path_adam", "path_muon"])
@pytest.mark.optax
def test_paths_make_both_starts_alike_to_the_bit(name):
    assert losses(name, "balanced") == losses(name, "unbalanced")


@pytest.mark.parametrize("name", ["lamb", "muon"])
@pytest.mark.optax
def test_other_optimizers_tell_the_starts_apart(name):
    assert losses(name, "balanced") != losses(name, "unbalanced")
