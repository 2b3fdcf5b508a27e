"""The parts of the run on an accelerator: ended, interrupted, failed, and recorded."""

import json

import pytest

from benchmarks import accelerator
from benchmarks.accelerator import main


TEXT = {
    "transformer": "transformer --preset smoke --steps 2 --optimizers adam --context 4"
}


def test_a_part_is_a_command_that_records(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(accelerator.CURVES, "smoke", TEXT)
    assert main(["--preset=smoke", f"--output={tmp_path}", "transformer"]) == 0
    assert "transformer: done" in capsys.readouterr().out
    (run,) = (tmp_path / "transformer" / "runs.jsonl").read_text().splitlines()
    assert json.loads(run)["configuration"]["context"] == 4


def test_a_part_that_fails_is_told_and_its_log_says_why(tmp_path, capsys):
    assert main([f"--output={tmp_path}", "mnist", f"--data-dir={tmp_path}"]) == 1
    assert "mnist: failed, 2" in capsys.readouterr().out
    assert "is missing" in (tmp_path / "mnist.log").read_text()


def test_what_takes_too_long_is_interrupted(tmp_path, monkeypatch, capsys):
    slow = {"slow": "transformer --preset smoke --steps 1000000"}
    monkeypatch.setitem(accelerator.CURVES, "smoke", slow)
    main(["--preset=smoke", f"--output={tmp_path}", "slow", "--minutes=0"])
    assert "slow: done" not in capsys.readouterr().out


def test_unknown_parts_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([f"--output={tmp_path}", "svhn"])
    assert "svhn" in capsys.readouterr().err


def test_steps_are_kept_with_what_they_were_measured_on(tmp_path):
    measured = {"benchmarks": [{"name": "steps", "extra_info": {"sgd, ms": 1.5}}]}
    (tmp_path / accelerator.MEASURED).write_text(json.dumps(measured))
    accelerator.keep_steps(tmp_path)
    (record,) = (tmp_path / "steps" / "steps.jsonl").read_text().splitlines()
    assert json.loads(record)["numbers"] == {"sgd, ms": 1.5}
    assert json.loads(record)["device"]["backend"] == "cpu"
    assert not (tmp_path / accelerator.MEASURED).exists()
