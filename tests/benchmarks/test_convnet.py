"""The residual network, its unbalanced start, and its command."""

import functools
import json

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest

import pathsgd_optax as pathsgd
from benchmarks import datasets, jobs, learning_curves, train
from benchmarks.convnet import main
from benchmarks.datasets import Dataset
from benchmarks.optimizers import OPTIMIZERS
from benchmarks.resnet import RESNET, unbalance


def points(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = np.eye(3, 64)[labels] + 0.5 * rng.random(size=(count, 64))
    return images.astype(np.float32), labels.astype(np.int32)


TINY = Dataset("digits", *points(60, 0), *points(24, 1), 3)

TASK = train.Task(TINY, 4, 0.0, 10, RESNET)


@functools.partial(jax.jit, static_argnames="training")
def outputs(variables, training=False):
    model = train.model_of(TASK)
    options = {"train": True, "mutable": ["batch_stats"]} if training else {}
    return model.apply(variables, TINY.train_images, **options)


@pytest.mark.parametrize("seed", [0, 1])
def test_an_unbalanced_start_is_of_the_same_function_in_training_as_well(seed):
    balanced, unbalanced = (train.initialize(TASK, i, seed) for i in train.INITS)
    for training in (False, True):
        first, second = (outputs(v, training) for v in (balanced, unbalanced))
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
            first,
            second,
        )


def test_a_quarter_of_the_inner_channels_are_unbalanced():
    wide = TASK._replace(width=32)
    balanced, unbalanced = (train.initialize(wide, i, 0)["params"] for i in train.INITS)
    scales, kernels = [], []
    for name in ("Block_0", "Block_1", "Block_2"):
        before, after = balanced[name], unbalanced[name]
        scales.append(after["inner_norm"]["scale"] / before["inner_norm"]["scale"])
        kernels.append(before["outer"]["kernel"] / after["outer"]["kernel"])
        for kept in ("inner", "outer_norm"):
            jax.tree.map(np.testing.assert_array_equal, before[kept], after[kept])
        expected = jnp.broadcast_to(scales[-1][None, None, :, None], kernels[-1].shape)
        np.testing.assert_allclose(kernels[-1], expected, rtol=1e-4)
    factors = np.concatenate(scales)
    assert 40 <= np.sum(factors != 1) <= 56  # of 224, 56 picks with replacement
    assert 7 < np.median(factors[factors != 1]) < 16


def test_the_shift_of_an_inner_channel_is_rescaled_with_its_scale():
    variables = train.initialize(TASK, "balanced", 0)
    shifted = jax.tree.map(lambda leaf: leaf + 0.3, variables)
    first, second = outputs(shifted), outputs(unbalance(shifted, jax.random.key(1)))
    np.testing.assert_allclose(first, second, rtol=1e-3)


def test_path_sgd_trains_alike_from_both_starts_and_sgd_does_not():
    paths = train.paths_of(TASK)

    def losses(name, rate, init):
        make = OPTIMIZERS[name].on(paths)
        runs = train.train(TASK, make, rate, init, seed=0, epochs=5)
        return np.array([run.train_loss for run in runs])

    path_sgd, sgd = (
        [losses(name, rate, init) for init in train.INITS]
        for name, rate in (("path_sgd", 1.0), ("sgd", 0.1))
    )
    np.testing.assert_allclose(*path_sgd, rtol=1e-3)
    assert path_sgd[0][-1] < 0.6 * path_sgd[0][0]
    assert np.max(np.abs(np.log(sgd[0] / sgd[1]))) > 0.1


def test_channels_are_dropped_in_training_only():
    variables = train.initialize(TASK, "balanced", 0)
    model = train.model_of(TASK._replace(dropout=0.5))

    @jax.jit
    def trained(key):
        logits, _ = model.apply(
            variables,
            TINY.train_images,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        return logits

    first, second = (trained(jax.random.key(seed)) for seed in range(2))
    assert np.max(np.abs(first - second)) > 0.1
    np.testing.assert_allclose(
        jax.jit(model.apply)(variables, TINY.train_images), outputs(variables)
    )


def test_an_update_knows_nothing_of_the_running_averages():
    """One step of training is one update by hand, from the parameters alone."""
    paths, model = train.paths_of(TASK), train.model_of(TASK)
    assert paths.constants is None
    make = OPTIMIZERS["path_sgd"].on(paths)
    variables = train.initialize(TASK, "balanced", 0)
    whole = {"model": model, "make_optimizer": make, "batch_size": len(TINY[1])}
    state = train.train_epoch(
        train.start(variables, make(0.1)), 0.1, jax.random.key(0), *TINY[1:3], **whole
    )
    variables = train.initialize(TASK, "balanced", 0)

    def objective(params):
        logits, changed = outputs({**variables, "params": params}, training=True)
        losses = pathsgd.truncated_softmax_cross_entropy(logits, TINY.train_labels)
        return jnp.mean(losses), changed

    params = variables["params"]
    grads, changed = jax.jit(jax.grad(objective, has_aux=True))(params)
    gamma = jax.jit(functools.partial(pathsgd.path_scaling, paths))(params)

    def check(after, before, grad, scaling):
        expected = before - 0.1 * jnp.where(scaling > 0, grad / scaling, 0)
        np.testing.assert_allclose(after, expected, rtol=1e-3, atol=1e-5)

    jax.tree.map(check, state.params, params, grads, gamma)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
        state.averages,
        changed,
    )


def command(folder, *more):
    arguments = ["--preset=smoke", "--batch-size=10", f"--output={folder}"]
    return main([*arguments, *more])


def test_it_leaves_curves_and_a_picture_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(datasets.EMBEDDED, "digits", lambda: TINY)
    rates = {"sgd": (0.3, 0.1), "path_sgd": (0.1,)}
    for name, own in rates.items():
        short = OPTIMIZERS[name]._replace(learning_rates=own)
        monkeypatch.setitem(OPTIMIZERS, name, short)
    monkeypatch.setattr(jobs, "beyond", lambda errors: [])
    assert command(tmp_path) == 0
    lines = (tmp_path / "curves.jsonl").read_text().splitlines()
    names = "optimizer", "init", "epoch"
    assert [tuple(map(json.loads(line).get, names)) for line in lines] == [
        (optimizer, init, epoch)
        for optimizer in ("sgd", "path_sgd")
        for init in train.INITS
        for epoch in (1, 2)
    ]
    tried = (tmp_path / "step_sizes.jsonl").read_text().splitlines()
    names = "optimizer", "learning_rate"
    assert [tuple(map(json.loads(line).get, names)) for line in tried] == [
        (optimizer, rate)
        for optimizer, sizes in rates.items()
        for _ in train.INITS
        for rate in sizes
    ]
    run = json.loads((tmp_path / "runs.jsonl").read_text())
    assert (run["command"], run["configuration"]["width"]) == ("convnet", 2)
    assert matplotlib.image.imread(tmp_path / "convnet.png").std() > 0.05
    monkeypatch.setattr(train, "train", pytest.fail)
    assert command(tmp_path) == 0
    capsys.readouterr()
    with pytest.raises(SystemExit):
        learning_curves.main(
            ["--preset=smoke", "--width=2", "--batch-size=10", f"--output={tmp_path}"]
        )
    assert (
        "holds the results of benchmarks.convnet, not those" in capsys.readouterr().err
    )
