"""The command that compares dampings: what it leaves, prints and goes on with."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pathsgd_optax as pathsgd
from benchmarks import damping, datasets, small_starts, train
from benchmarks.architectures import PERCEPTRON
from benchmarks.damping import main


@pytest.fixture
def short(monkeypatch):
    rates = {"sgd": (0.1,), "path_sgd": (0.1, 0.3)}
    monkeypatch.setattr(damping, "LEARNING_RATES", rates)
    starts = {"usual": small_starts.STARTS["mlp"]["usual"]}
    starts["last layer 0"] = small_starts.STARTS["mlp"]["last layer 0"]
    monkeypatch.setitem(small_starts.STARTS, "mlp", starts)


def command(folder, *more):
    return main(["--preset=smoke", f"--output={folder}", *more])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_leaves_records_and_prints_them(short, tmp_path, capsys):
    assert command(tmp_path) == 0
    records = lines(tmp_path / "damping.jsonl")
    cases = [(r["optimizer"], r["damping"], r["learning_rate"]) for r in records]
    path_sgd = [("path_sgd", x, rate) for x in (0.0, 0.1) for rate in (0.1, 0.3)]
    expected = [("sgd", 0.0, 0.1), *path_sgd]
    assert sorted(cases) == sorted(2 * expected)
    assert {r["start"] for r in records} == {"usual", "last layer 0"}
    [run] = lines(tmp_path / "runs.jsonl")
    assert run["command"] == "damping" and run["configuration"]["steps"] == 20
    printed = capsys.readouterr().out
    assert "Path-SGD, mlp of width 16" in printed and "last layer 0" in printed


def test_it_goes_on_with_what_is_recorded(short, tmp_path, monkeypatch, capsys):
    command(tmp_path, "--dampings", "0.1")
    first = lines(tmp_path / "damping.jsonl")
    ran = []
    outcome = small_starts.Outcome(2.0, 3.0, 1.0, 0.1)
    monkeypatch.setattr(small_starts, "run", lambda *_: ran.append(1) or outcome)
    command(tmp_path, "--dampings", "0.1", "0.3")
    assert lines(tmp_path / "damping.jsonl")[: len(first)] == first
    assert len(ran) == 4  # two step sizes, two starts
    with pytest.raises(SystemExit):
        command(tmp_path, "--steps=30")
    assert "steps 20, not 30" in capsys.readouterr().err


def test_a_run_is_that_of_the_optimizer_by_itself():
    digits = datasets.load("digits")
    task = train.Task(digits, 8, 0.0, 100, PERCEPTRON)
    start = small_starts.STARTS["mlp"]["last layer x 0.1"]
    outcome = small_starts.run(task, start, optax.sgd, 0.1, 0, 20)
    params = start(train.initialize(task, "balanced", 0)["params"])
    usual = train.initialize(task, "balanced", 0)["params"]
    np.testing.assert_allclose(
        params["Dense_2"]["kernel"], 0.1 * usual["Dense_2"]["kernel"], rtol=1e-6
    )
    model = train.model_of(task)

    @jax.jit
    @jax.value_and_grad
    def loss(params, chosen):
        images = jnp.asarray(digits.train_images)[chosen]
        logits = model.apply({"params": params}, images)
        labels = jnp.asarray(digits.train_labels)[chosen]
        return pathsgd.truncated_softmax_cross_entropy(logits, labels).mean()

    orders = jax.random.split(jax.random.key(0), 2)
    points = len(digits.train_labels)
    order = [jax.random.permutation(key, points)[:1500] for key in orders]
    losses = []
    for chosen in jnp.concatenate(order).reshape(-1, 100)[:20]:
        value, grads = loss(params, chosen)
        losses.append(value)
        params = jax.tree.map(lambda w, g: w - 0.1 * g, params, grads)
    expected = losses[0], max(losses), np.mean(losses[-15:])
    np.testing.assert_allclose(outcome[:3], expected, rtol=1e-4)


@pytest.mark.parametrize("network", small_starts.NETWORKS)
def test_starts_are_those_of_their_names(network):
    make = small_starts.NETWORKS[network]
    task = train.Task(datasets.load("digits"), 4, 0.0, 100, make)
    usual = train.initialize(task, "balanced", 0)["params"]
    paths = jax.tree_util.tree_leaves_with_path(usual)
    for name, start in small_starts.STARTS[network].items():
        changed = {
            jax.tree_util.keystr(path)
            for (path, leaf), other in zip(
                paths, jax.tree.leaves(start(usual)), strict=True
            )
            if not np.array_equal(leaf, other)
        }
        assert (not changed) == (name == small_starts.USUAL)
        assert all(("Dense" in x or "last" in x) == ("layer" in name) for x in changed)
