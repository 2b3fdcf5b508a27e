"""The command that looks for one step size: what it trains, leaves and prints."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import families, transfer
from benchmarks.results import TransferRecord
from benchmarks.transfer import Case, main


BESTS = {"dense, 64 x 2": 0.1, "dense, 512 x 2": 0.01, "dense, 64 x 8": 0.01}


@pytest.fixture
def ran(monkeypatch):
    """The step sizes of runs whose objective grows with the distance from the best."""
    runs = []

    def trainer(network, name):
        def train(rate, params, batches):
            runs.append((network, rate))
            return jnp.full(20, 2 ** abs(np.log10(rate / BESTS[network])))

        return train

    nothing = families.Problem(lambda seed: None, None, lambda *_: None, None)
    monkeypatch.setattr(transfer, "_trainer", trainer)
    monkeypatch.setattr(transfer, "_problem", lambda network: nothing)
    return runs


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_finds_the_best_and_one_for_all_and_goes_on(ran, tmp_path, capsys):
    command = ["--preset=smoke", f"--output={tmp_path}"]
    assert main(command) == 0
    first = lines(tmp_path / "transfer.jsonl")
    assert len(ran) == len(first) == len({*ran})
    for network, best in BESTS.items():
        tried = {rate for name, rate in ran if name == network}
        assert tried >= {transfer._on_grid(best, k) for k in (-1, 0, 1)}
        assert transfer._on_grid(0.03) in tried
    printed = capsys.readouterr().out
    assert "0.1 (1, 1.4)" in printed
    main(command)
    assert lines(tmp_path / "transfer.jsonl") == first
    main([*command, "--seeds=2"])
    assert lines(tmp_path / "transfer.jsonl")[: len(first)] == first
    seeds = [line["seed"] for line in lines(tmp_path / "transfer.jsonl")]
    assert {*seeds[len(first) :]} == {1}


def test_the_summary_is_of_the_step_size_in_the_middle():
    curves = {"a": {0.01: 1.0, 0.1: 2.0, 1.0: 9.0}, "b": {0.1: 4.0, 1.0: 2.0}}
    records = [
        TransferRecord(network, "path_lars", rate, seed, loss, 9.0, 0.1)
        for network, losses in curves.items()
        for rate, loss in losses.items()
        for seed in range(3)
    ]
    sweeps = [*transfer._sweeps(records, "path_lars").values()]
    cells = [number(sweeps) for number in transfer.SUMMARY.values()]
    assert cells == ["100", "0.1", "2.00", "2"]


@pytest.mark.parametrize("family", ["convolutional", "decoder"])
def test_the_first_network_of_a_kind_can_be_trained(family):
    network = next(iter(families.FAMILIES[family]))
    problem = families.FAMILIES[family][network]()
    params, batches = problem.initialize(0), problem.batches(0, 2)
    assert len(batches) == 2
    assert jax.eval_shape(problem.objective, params, batches[0]).shape == ()
    problem.network.check(params)


def test_a_run_lowers_the_objective(tmp_path):
    journal = transfer.Journal(tmp_path / "transfer.jsonl", TransferRecord)
    transfer._train([Case("dense, 64 x 2", "path_lars", 0.03, 0)], 30, journal)
    [record] = journal.read()
    assert record.last_loss < record.largest_loss / 1.5
    transfer._trainer.cache_clear()
    transfer._problem.cache_clear()
