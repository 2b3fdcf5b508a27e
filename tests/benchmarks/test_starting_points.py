"""The command that looks for step sizes: what it trains, leaves and prints."""

import json

import jax
import pytest

from benchmarks import small_starts, starting_points, train
from benchmarks.results import StartingPoint
from benchmarks.starting_points import main


@pytest.fixture
def ran(monkeypatch):
    """The step sizes of runs whose objective is their distance from 0.1."""
    rates = []

    def run(task, start, make, rate, seed, steps):
        rates.append(rate)
        return small_starts.Outcome(2.0, 3.0, abs(rate - 0.1) + 0.1, 0.1)

    monkeypatch.setattr(small_starts, "run", run)
    return rates


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_leaves_records_prints_them_and_goes_on(ran, tmp_path, capsys):
    command = ["--preset=smoke", f"--output={tmp_path}"]
    assert main(command) == 0
    first = lines(tmp_path / "starting_points.jsonl")
    each = sum(map(len, starting_points.LEARNING_RATES.values()))
    assert len(ran) == len(first) == 2 * each
    assert {(x["width"], x["depth"]) for x in first} == {(64, 2)}
    assert "64 x 2" in capsys.readouterr().out
    main([*command, "--most=128"])
    assert lines(tmp_path / "starting_points.jsonl")[: len(first)] == first
    assert len(ran) == 6 * each  # 128 x 1 and 128 x 2, too


def test_a_cell_has_the_best_step_size_and_the_good_ones():
    losses = {0.03: 0.5, 0.1: 0.2, 0.3: 0.39, 1.0: float("nan")}
    runs = [
        StartingPoint(64, 2, "he", "path_sgd", rate, seed, 2.3, 2.3, loss, 0.1)
        for rate, loss in losses.items()
        for seed in range(3)
    ]
    assert starting_points._cell(runs) == "0.1 (0.1 to 0.3)"


@pytest.mark.parametrize("kind", starting_points.VARIANCES)
def test_a_network_has_the_depth_and_the_variance_of_its_name(kind):
    task = starting_points._task(400, 3, kind)
    params = train.initialize(task, "balanced", 0)["params"]
    assert len(params) == 4
    assert params["Dense_1"]["kernel"].shape == (400, 400)
    variance = float((400 * params["Dense_1"]["kernel"] ** 2).mean())
    assert variance == pytest.approx(starting_points.VARIANCES[kind], rel=0.02)


def test_a_run_lowers_the_objective():
    case = starting_points.Case(64, 2, "he", "path_sgd", 0.3, 0)
    outcome = starting_points._outcome(case, 60)
    assert outcome.last_loss < outcome.first_loss / 2
    jax.clear_caches()
