"""What two cores can't do, on one accelerator in eight minutes: with nothing to decide.

Run it as ``python -m benchmarks.accelerator --data-dir DIR``, where the folder holds
MNIST's four files and ``cifar-10-batches-py``. First it measures training steps, alone
on the device: `benchmarks.test_step_time`. Then it runs all else side by side, each a
command of its own that records as it goes: figure 3 with 4000-4000 units, a language
model, residual networks. What has not ended in time is interrupted, and the same
command goes on from there.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks import commands, results


STEPS = "steps"

OPTIMIZERS = "sgd path_sgd path_adam adagrad"

CURVES: dict[str, dict[str, str]] = {
    "full": {
        "mnist": (
            "learning_curves --dataset mnist --width 4000 --search-epochs 4 "
            f"--epochs 30 --seeds 1 --dropout 0 --optimizers {OPTIMIZERS}"
        ),
        "cifar10": (
            "learning_curves --dataset cifar10 --width 4000 --search-epochs 4 "
            f"--epochs 30 --seeds 1 --dropout 0 --optimizers {OPTIMIZERS}"
        ),
        "transformer": (
            "transformer --heads 16 --blocks 6 --context 128 --batch-size 64 "
            "--steps 1000 --seeds 1 --optimizers path_adam adam path_muon muon lamb"
        ),
        "convnet_mnist": (
            "convnet --dataset mnist --width 8 --search-epochs 2 --epochs 10 --seeds 3 "
            f"--optimizers {OPTIMIZERS} adam"
        ),
        "convnet_cifar10": (
            "convnet --dataset cifar10 --width 32 --search-epochs 2 --epochs 20 "
            f"--seeds 1 --optimizers {OPTIMIZERS} adam"
        ),
    },
    "smoke": {
        "digits": (
            "learning_curves --preset smoke --width 16 --optimizers sgd path_sgd"
        ),
        "transformer": "transformer --preset smoke",
        "convnet": "convnet --preset smoke --optimizers path_sgd",
    },
}
"""The commands that run side by side, by the folder of their results."""

PYTEST = "pytest benchmarks/test_step_time.py --benchmark-only -n 0 -s -W default"

STEP_TESTS = {"full": "steps or memory or updates", "smoke": "memory"}

MEASURED = "pytest-benchmark.json"

GRACE = 20
"""Seconds for the step that an interruption waits for, and the last record."""

Processes: TypeAlias = dict[str, "subprocess.Popen[bytes]"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      arguments: those of the command line, or None for the process's own.

    Returns:
      The exit code: 0 if all parts have ended without an error, or were interrupted.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    # In the background of a shell this is ignored, and would be by all parts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    deadline = time.monotonic() + 60 * options.minutes
    names = [STEPS, *CURVES[options.preset]]
    parts = options.parts or names
    if not set(parts) <= set(names):
        parser.error(f"parts are some of {', '.join(names)}, not {' '.join(parts)}")
    options.output.mkdir(parents=True, exist_ok=True)
    codes: dict[str, int] = {}
    if STEPS in parts:
        codes |= _finish({STEPS: _measure_steps(options)}, deadline)
        keep_steps(options.output)
    rest = [part for part in parts if part != STEPS]
    codes |= _finish({part: _train(part, options) for part in rest}, deadline)
    for part, code in codes.items():
        print(f"{part}: {_outcome(code)}; see {_log(options.output, part)}")
    return int(any(code not in (0, commands.INTERRUPTED) for code in codes.values()))


def _parser() -> commands.Parser:
    parser = commands.Parser(
        prog="python -m benchmarks.accelerator",
        description="The paper's sizes, on an accelerator.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("parts", nargs="*", metavar="PART", help="all of them, unless some are named")
    add("--data-dir", type=Path, help="folder of the published files")
    add("--output", type=Path, default=Path("accelerator"), help="folder to fill")
    add("--minutes", type=float, default=8.0, help="when all is interrupted")
    add("--preset", choices=CURVES, default="full", help="the sizes of all parts")
    return parser


def _measure_steps(options: argparse.Namespace) -> "subprocess.Popen[bytes]":
    file = options.output / MEASURED
    tests = ("-k", STEP_TESTS[options.preset], f"--benchmark-json={file}")
    return _start(STEPS, (*PYTEST.split(), *tests), options.output)


def _train(part: str, options: argparse.Namespace) -> "subprocess.Popen[bytes]":
    command, *arguments = CURVES[options.preset][part].split()
    if "--dataset" in arguments:
        arguments += ["--data-dir", str(options.data_dir)]
    arguments += ["--output", str(options.output / part)]
    return _start(part, (f"benchmarks.{command}", *arguments), options.output)


def _start(part: str, module: Iterable[str], output: Path) -> "subprocess.Popen[bytes]":
    # Several processes share the device's memory.
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    with _log(output, part).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *module],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def _log(output: Path, part: str) -> Path:
    return output / f"{part}.log"


def _finish(processes: Processes, deadline: float) -> dict[str, int]:
    """Waits for processes, and interrupts those that are not done in time."""
    for process in processes.values():
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
    return {part: _end(process) for part, process in processes.items()}


def _end(process: "subprocess.Popen[bytes]") -> int:
    try:
        return process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _outcome(code: int) -> str:
    return {0: "done", commands.INTERRUPTED: "interrupted"}.get(code, f"failed, {code}")


def keep_steps(output: Path) -> None:
    """Records what pytest-benchmark measured, and on what."""
    file = output / MEASURED
    if not file.exists():
        return
    measured = json.loads(file.read_text())["benchmarks"]
    numbers: Mapping[str, Any] = {run["name"]: run["extra_info"] for run in measured}
    results.record_steps(output / STEPS, numbers)
    file.unlink()


if __name__ == "__main__":
    sys.exit(main())
