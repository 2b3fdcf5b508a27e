"""Networks with one hidden layer: the small images, the schedule and the training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pathsgd_optax as pathsgd
from benchmarks import datasets, one_layer
from benchmarks.datasets import Dataset


def points(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = np.eye(3, 4)[labels] + 0.3 * rng.normal(size=(count, 4))
    return images.astype(np.float32), labels.astype(np.int32)


TINY = Dataset("tiny", *points(72, 0), *points(20, 1), 3)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(one_layer, "BATCH_SIZE", 10)


def run(size=8, seed=0, epochs=3, dataset=TINY):
    data = one_layer.prepare(dataset)
    return [m[:-1] for m in one_layer.train_network(data, size, seed, epochs)]


def test_the_schedule_is_that_of_the_caption():
    """mu <- 0.99 mu and m <- min(0.9, m + 0.02) after each epoch, from 0.1 and 0.5."""
    step_size, momentum = 0.1, 0.5
    for epoch in range(60):
        assert one_layer.schedule(epoch) == pytest.approx((step_size, momentum))
        step_size, momentum = 0.99 * step_size, min(0.9, momentum + 0.02)
    assert momentum == 0.9


def test_the_points_are_split_in_three():
    data = one_layer.prepare(TINY)
    sizes = [len(part.labels) for part in data[:3]]
    assert sizes == [60, 12, 20]
    held_out = datasets.hold_out(TINY)
    for part, labels in zip(
        data[:3],
        (held_out.train_labels, held_out.test_labels, TINY.test_labels),
        strict=True,
    ):
        np.testing.assert_array_equal(part.labels, labels)


def test_all_parts_are_scaled_as_the_training_points():
    data, held_out = one_layer.prepare(TINY), datasets.hold_out(TINY)
    mean, deviation = held_out.train_images.mean(), held_out.train_images.std()
    for part, images in zip(
        data[:3],
        (held_out.train_images, held_out.test_images, TINY.test_images),
        strict=True,
    ):
        expected = (images - mean) / deviation
        np.testing.assert_allclose(part.images, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3)])
def test_images_become_gray_and_100_pixels(shape):
    middles = (np.arange(shape[0], dtype=np.float32) + 0.5) / shape[0]
    ramp = middles[:, None, None]
    images = np.stack([np.broadcast_to(ramp, shape), np.full(shape, 0.25, np.float32)])
    small = np.asarray(one_layer.shrink(images))
    assert small.shape == (2, 100)
    np.testing.assert_allclose(small[1], 0.25, rtol=1e-5)
    rows = small[0].reshape(10, 10)
    np.testing.assert_allclose(rows, np.broadcast_to(rows[:, :1], (10, 10)), rtol=1e-5)
    # The middles of ten equal stripes; at the borders the filter is cut off.
    np.testing.assert_allclose(rows[1:-1, 0], np.arange(1, 9) / 10 + 0.05, atol=0.005)


def test_fine_detail_is_averaged_away():
    board = np.indices((40, 40)).sum(axis=0) % 2
    small = one_layer.shrink(board[None, :, :, None].astype(np.float32))
    np.testing.assert_allclose(small, 0.5, atol=0.01)


def test_green_is_brighter_than_blue():
    pure = np.zeros((3, 12, 12, 3), np.float32)
    for colour in range(3):
        pure[colour, ..., colour] = 1
    levels = np.asarray(one_layer.shrink(pure))
    np.testing.assert_allclose(
        levels, np.repeat([[0.299], [0.587], [0.114]], 100, axis=1), rtol=1e-5
    )


def test_small_images_keep_their_pixels():
    images = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    np.testing.assert_allclose(
        one_layer.shrink(images), images.reshape(2, 64), rtol=1e-6
    )


def test_the_network_has_as_many_weights_as_in_the_paper():
    model = one_layer.OneLayer(400, 10)
    params = model.init(jax.random.key(0), jnp.ones((1, 100)))["params"]
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    assert sum(sizes) == 400 * (10 + 100)
    for kernel in jax.tree.leaves(params):
        scaled = np.asarray(kernel) * np.sqrt(len(kernel))
        assert scaled.std() == pytest.approx(1, abs=0.06)
        # A Gaussian has a tail that a truncated or uniform distribution lacks.
        assert np.mean(np.abs(scaled) > 2) == pytest.approx(0.0455, abs=0.02)


def test_training_is_a_function_of_the_seed():
    assert run(seed=1) == run(seed=1) != run(seed=2)
    assert run(epochs=4)[:2] == run(epochs=2)


def test_it_is_sgd_with_the_momentum_and_step_size_of_each_epoch(monkeypatch):
    """With one minibatch an epoch, its order doesn't matter."""
    monkeypatch.setattr(one_layer, "BATCH_SIZE", 60)
    data = one_layer.prepare(TINY)
    model = one_layer.OneLayer(8, 3)
    key, _ = jax.random.split(jax.random.key(0))
    params = model.init(key, data.train.images)["params"]

    def objective(params):
        logits = model.apply({"params": params}, data.train.images)
        losses = pathsgd.truncated_softmax_cross_entropy(logits, data.train.labels)
        return losses.mean()

    trace = jax.tree.map(jnp.zeros_like, params)
    losses = []
    for epoch in range(30):
        gradients = jax.grad(objective)(params)
        decay = min(0.9, 0.5 + 0.02 * epoch)
        trace = jax.tree.map(lambda m, g, d=decay: d * m + g, trace, gradients)
        step = jax.tree.map(lambda m, r=0.1 * 0.99**epoch: -r * m, trace)
        params = optax.apply_updates(params, step)
        losses.append(float(objective(params)))
    measured = [measurement[1] for measurement in run(epochs=30)]
    np.testing.assert_allclose(measured, losses, rtol=1e-4)


def test_measurements_are_of_the_three_parts():
    data = one_layer.prepare(TINY)
    same = data._replace(validation=data.train, test=data.train)
    *_, last = one_layer.train_network(same, 8, seed=0, epochs=20)
    assert last.epoch == 20 and last.seconds > 0
    assert last.train_error == last.validation_error == last.test_error < 0.1
    apart = run(epochs=20)[-1]
    assert apart[1:3] == (last.train_loss, last.train_error)
    assert len(set(apart[2:])) > 1


def test_lbfgs_reaches_a_lower_objective_in_as_many_steps_than_descent():
    data = one_layer.prepare(TINY)
    found = [m.train_loss for m in one_layer.train_on_all_points(data, 8, 0, 8)]
    model = one_layer.OneLayer(8, data.classes)
    start, _ = jax.random.split(jax.random.key(0))
    params = model.init(start, data.train.images[:1])["params"]

    @jax.jit
    @jax.value_and_grad
    def objective(params):
        scores = model.apply({"params": params}, data.train.images)
        losses = pathsgd.truncated_softmax_cross_entropy(scores, data.train.labels)
        return jnp.mean(losses)

    first, _ = objective(params)
    for _ in range(8):
        _, grads = objective(params)
        params = jax.tree.map(lambda w, g: w - 0.1 * g, params, grads)
    assert found[-1] < 0.5 * objective(params)[0] < first
    assert found == sorted(found, reverse=True)
