"""Training: what the seed fixes, what is measured, and the choice of a step size."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pathsgd_optax as pathsgd
from benchmarks import train
from benchmarks.datasets import Dataset


def points(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = np.eye(3, 6)[labels] + 0.3 * rng.normal(size=(count, 6))
    return images.astype(np.float32), labels.astype(np.int32)


TINY = Dataset("tiny", *points(45, 0), *points(21, 1), 3)


def task(dataset=TINY, width=16, dropout=0.0, batch_size=10):
    return train.Task(dataset, width, dropout, batch_size)


def run(make=optax.sgd, rate=0.1, init="balanced", seed=0, epochs=3, **options):
    return list(train.train(task(**options), make, rate, init, seed, epochs))


def losses(*arguments, **options):
    return np.array([m.train_loss for m in run(*arguments, **options)])


def results(*arguments, **options):
    """The measurements without their times."""
    return [m[:-1] for m in run(*arguments, **options)]


def test_balanced_weights_are_gaussian_over_the_root_of_the_fan_in():
    params = train.initialize(task(width=400), "balanced", seed=0)["params"]
    for layer in params.values():
        kernel = np.asarray(layer["kernel"])
        scaled = kernel * np.sqrt(len(kernel))
        assert scaled.std() == pytest.approx(1, abs=0.06)
        # A Gaussian has a tail that a truncated or uniform distribution lacks.
        assert np.mean(np.abs(scaled) > 2) == pytest.approx(0.0455, abs=0.02)
        assert not np.any(layer["bias"])
    assert len(params) == 3


@pytest.mark.parametrize("seed", [0, 1])
def test_unbalanced_weights_are_of_the_same_function(seed):
    balanced, unbalanced = (
        train.initialize(task(width=40), init, seed)["params"] for init in train.INITS
    )
    logits = [
        train.model_of(task(width=40)).apply({"params": params}, TINY.train_images)
        for params in (balanced, unbalanced)
    ]
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-5)
    incoming = balanced["Dense_0"]["kernel"] != unbalanced["Dense_0"]["kernel"]
    outgoing = balanced["Dense_2"]["kernel"] != unbalanced["Dense_2"]["kernel"]
    picked = incoming.any(axis=0).sum() + outgoing.any(axis=1).sum()
    # 20 of 80 units, with replacement.
    assert 13 <= picked <= 20


def test_training_is_a_function_of_the_seed():
    assert results(seed=3, dropout=0.5) == results(seed=3, dropout=0.5)
    assert results(seed=3) != results(seed=4)


def test_more_epochs_begin_with_the_same_ones():
    assert results(epochs=4, dropout=0.5)[:2] == results(epochs=2, dropout=0.5)


def test_the_minibatches_are_those_of_the_seed_alone():
    """With one-hot inputs, the rows of the first gradient name the points."""
    count = 45
    labels = (np.arange(count) % 3).astype(np.int32)
    images = np.eye(count, dtype=np.float32)
    dataset = Dataset("one hot", images, labels, images, labels, 3)
    seen = []

    def spying(make):
        def record(updates):
            kernel = updates["Dense_0"]["kernel"]
            jax.debug.callback(
                lambda rows: seen.append(set(np.flatnonzero(rows))),
                jnp.any(kernel != 0, axis=1),
                ordered=True,
            )
            return updates

        spy = optax.stateless(lambda updates, params: record(updates))
        return lambda rate: optax.chain(spy, make(rate))

    batches = []
    sgd, path_sgd = spying(optax.sgd), spying(pathsgd.path_sgd)
    for make, init, seed in [
        (sgd, "balanced", 0),
        (path_sgd, "unbalanced", 0),
        (sgd, "balanced", 1),
    ]:
        run(make, 1e-3, init, seed, epochs=2, dataset=dataset, width=64)
        jax.effects_barrier()
        batches.append(list(seen))
        seen.clear()
    assert batches[0] == batches[1] != batches[2]
    first, second = batches[0][:4], batches[0][4:]
    assert [len(batch) for batch in batches[0]] == [10] * 8
    assert len(set.union(*first)) == len(set.union(*second)) == 40
    assert first != second


def test_path_sgd_trains_alike_from_both_starts_and_sgd_does_not():
    starts = [
        {init: losses(make, rate, init, epochs=8) for init in train.INITS}
        for make, rate in ((pathsgd.path_sgd, 0.1), (optax.sgd, 0.01))
    ]
    path_sgd, sgd = starts
    np.testing.assert_allclose(path_sgd["balanced"], path_sgd["unbalanced"], rtol=1e-3)
    assert path_sgd["balanced"][-1] < 0.2 * path_sgd["balanced"][0]
    assert np.max(np.abs(np.log(sgd["balanced"] / sgd["unbalanced"]))) > 0.1


@pytest.mark.parametrize("at_once", [7, 45, 1000])
def test_measurements_are_means_over_all_points(monkeypatch, at_once):
    monkeypatch.setattr(train, "MEASURED_AT_ONCE", at_once)
    # A width of its own, so that it is compiled for this test.
    own = task(width=at_once % 100 + 20)
    params = train.initialize(own, "balanced", seed=0)["params"]
    model = train.model_of(own)
    loss, error = train.measure(model, params, TINY.train_images, TINY.train_labels)
    logits = model.apply({"params": params}, TINY.train_images)
    expected = optax.softmax_cross_entropy_with_integer_labels(
        logits, TINY.train_labels
    )
    assert loss == pytest.approx(float(jnp.mean(expected)), rel=1e-4)
    assert error == np.mean(np.argmax(logits, axis=1) != TINY.train_labels)


def test_measurements_are_of_the_whole_sets_without_dropout():
    still = run(rate=0.0, dropout=0.5, epochs=1)[0]
    params = train.initialize(task(), "balanced", seed=0)["params"]
    model = train.model_of(task())
    trained, tested = (
        train.measure(model, params, *data) for data in (TINY[1:3], TINY[3:5])
    )
    assert (still.train_loss, still.train_error) == trained
    assert still.test_error == tested[1]
    assert still.epoch == 1 and still.seconds > 0


def test_dropout_drops_units():
    kept, dropped = losses(dropout=0.0), losses(dropout=0.5)
    assert np.max(np.abs(np.log(kept / dropped))) > 0.01


def test_a_diverged_network_errs_on_every_point():
    last = run(rate=1e30)[-1]
    assert not np.isfinite(last.train_loss)
    assert last.train_error == last.test_error == 1


def test_step_sizes_share_one_compilation():
    made = itertools.count()

    def make(rate):
        next(made)
        return optax.sgd(rate)

    for rate in (0.1, 0.01, 0.001):
        run(make, rate, epochs=2)
    # One optimizer a run for its first state, and one for the compilation.
    assert next(made) == 3 + 1
