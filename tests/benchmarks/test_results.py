"""Recorded results: what is written, kept and refused."""

import json
import math

import jax
import numpy as np
import pytest

from benchmarks.results import (
    Candidate,
    Journal,
    LanguageRecord,
    Record,
    Run,
    Series,
    curves,
    open_folder,
    record_run,
)


SETTINGS = {"width": 8, "batch_size": 10}

KEYS = (
    "dataset optimizer init dropout seed learning_rate epoch train_loss train_error "
    "test_error seconds"
).split()


def record(epoch=1, loss=0.5, seed=0, optimizer="sgd", error=0.25):
    return Record(
        "digits", optimizer, "balanced", 0.0, seed, 0.1, epoch, loss, error, 0.5, 0.01
    )


def strictly(line):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(line, parse_constant=refuse)


@pytest.fixture
def journal(tmp_path):
    return open_folder(tmp_path / "new" / "folder", SETTINGS).curves


def test_records_are_read_as_they_were_appended(journal):
    assert journal.read() == []
    records = [record(epoch) for epoch in (1, 2)]
    for entry in records:
        journal.append(entry)
    assert journal.read() == records
    lines = journal.path.read_text().splitlines()
    assert [list(strictly(line)) for line in lines] == [KEYS, KEYS]


def test_candidates_are_read_as_they_were_appended(tmp_path):
    step_sizes = open_folder(tmp_path, SETTINGS).step_sizes
    candidate = Candidate("digits", "adam", "unbalanced", 0.5, 0.1, [1.0, 0.125])
    step_sizes.append(candidate)
    assert step_sizes.read() == [candidate]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_diverged_loss_is_null(journal, loss):
    journal.append(record(loss=loss))
    assert strictly(journal.path.read_text())["train_loss"] is None
    assert math.isnan(journal.read()[0].train_loss)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_diverged_loss_in_a_list_is_null(tmp_path, loss):
    journal = Journal(tmp_path / "runs.jsonl", LanguageRecord)
    journal.append(
        LanguageRecord("adam", "balanced", 0.1, 0, loss, loss, [4.0, loss], 0.5)
    )
    assert strictly(journal.path.read_text())["losses"] == [4.0, None]
    first, last = journal.read()[0].losses
    assert first == 4.0 and math.isnan(last)


@pytest.mark.parametrize("torn", ["{", '{"dataset": "digits"}', "null"])
def test_a_line_cut_off_is_replaced_and_the_others_are_kept(tmp_path, journal, torn):
    journal.append(record(1))
    before = journal.path.read_bytes()
    with journal.path.open("a") as file:
        file.write(torn)
    assert journal.read() == [record(1)]
    journal = open_folder(journal.path.parent, SETTINGS).curves
    journal.append(record(2))
    assert journal.read() == [record(1), record(2)]
    assert journal.path.read_bytes().startswith(before)


@pytest.mark.parametrize(
    "line", ["", "{", "7", "[]", "null", '{"dataset": "digits"}', "\udcff"]
)
def test_what_is_no_record_is_named_by_its_line(journal, line):
    journal.append(record())
    with journal.path.open("ab") as file:
        file.write(line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(ValueError, match=r"curves\.jsonl, line 2: expected .*seconds"):
        open_folder(journal.path.parent, SETTINGS)


def test_other_settings_are_refused_and_the_same_go_on(tmp_path):
    open_folder(tmp_path, SETTINGS).curves.append(record())
    with pytest.raises(ValueError, match=r"curves of width 8, not 9, which can't be"):
        open_folder(tmp_path, SETTINGS | {"width": 9})
    with pytest.raises(ValueError, match=r"curves of network None, not resnet"):
        open_folder(tmp_path, SETTINGS | {"network": "resnet"})
    assert open_folder(tmp_path, SETTINGS).curves.read() == [record()]


def test_a_setting_that_is_not_asked_for_is_refused(tmp_path):
    open_folder(tmp_path, SETTINGS | {"network": "resnet"})
    with pytest.raises(ValueError, match=r"curves of network resnet, not None"):
        open_folder(tmp_path, SETTINGS)


def test_curves_without_settings_are_refused(tmp_path):
    open_folder(tmp_path, SETTINGS).curves.append(record())
    (tmp_path / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"settings\.json is missing"):
        open_folder(tmp_path, SETTINGS)


def test_settings_that_are_no_json_are_refused(tmp_path):
    open_folder(tmp_path, SETTINGS)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"settings\.json should hold"):
        open_folder(tmp_path, SETTINGS)


def test_a_curve_is_the_median_over_the_seeds_of_one_series():
    records = [
        record(epoch, loss=10.0**-epoch * (seed + 1), seed=seed)
        for seed in (2, 0, 1)
        for epoch in (2, 1)
    ]
    drawn = curves([*records, record(optimizer="adam")])
    assert list(drawn) == [
        Series("digits", name, "balanced", 0.0) for name in ("sgd", "adam")
    ]
    curve, _ = drawn.values()
    assert curve.epochs.tolist() == [1, 2]
    np.testing.assert_allclose(curve.median("train_loss"), [0.2, 0.02])
    assert curve.median("test_error").tolist() == [0.5, 0.5]


def test_a_curve_ends_where_one_of_its_seeds_does():
    records = [record(epoch) for epoch in (1, 2, 3)] + [record(1, seed=1)]
    (curve,) = curves(records).values()
    assert curve.epochs.tolist() == [1]


@pytest.mark.parametrize(("diverged", "median"), [(1, 3.0), (2, math.inf)])
def test_a_diverged_seed_counts_as_infinite(diverged, median):
    losses = [math.nan] * diverged + [3.0, 2.0][: 3 - diverged]
    (curve,) = curves(
        record(loss=loss, seed=seed) for seed, loss in enumerate(losses)
    ).values()
    assert curve.median("train_loss").tolist() == [median]


def test_a_series_is_titled_by_its_data_set_and_dropout():
    assert Series("mnist", "sgd", "balanced", 0.0).task == "mnist"
    assert Series("mnist", "sgd", "balanced", 0.5).task == "mnist, dropout 0.5"


def test_a_missing_file_is_empty(tmp_path):
    assert Journal(tmp_path / "none", Record).read() == []


def test_a_run_is_recorded_with_its_seeds_versions_and_device(tmp_path):
    configuration = {
        "seeds": 2,
        "data_dir": tmp_path,
        "output": tmp_path,
        "optimizers": ("sgd", "adam"),
    }
    for _ in range(2):
        record_run(tmp_path, "command", configuration)
    (run,) = Journal(tmp_path / "runs.jsonl", Run).read()
    assert run.command == "command"
    assert run.configuration == {
        "seeds": [0, 1],
        "optimizers": ["sgd", "adam"],
    }
    assert run.versions["jax"] == jax.__version__
    assert run.device["count"] == jax.device_count()
    assert run.device["backend"] == jax.default_backend()


def test_another_configuration_is_another_run(tmp_path):
    for width in (1, 2):
        record_run(tmp_path, "command", {"seeds": 1, "width": width})
    runs = Journal(tmp_path / "runs.jsonl", Run).read()
    assert [run.configuration["width"] for run in runs] == [1, 2]


def test_a_curve_is_of_the_step_size_that_was_chosen_last():
    left = [record(epoch, loss=1.0) for epoch in (1, 2)]
    chosen = [record(loss=2.0)._replace(learning_rate=0.3)]
    (curve,) = curves([*left, *chosen]).values()
    assert curve.learning_rate == 0.3
    assert curve.epochs.tolist() == [1]
    assert curve.median("train_loss").tolist() == [2.0]
