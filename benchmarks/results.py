"""Recorded results: JSON lines that are appended to, and never rewritten."""

import json
import math
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np
from numpy.typing import NDArray


class Record(NamedTuple):
    """One epoch of one run; null in the file and nan here is a loss that diverged."""

    dataset: str
    optimizer: str
    init: str
    dropout: float
    seed: int
    learning_rate: float
    epoch: int
    train_loss: float
    train_error: float
    test_error: float
    seconds: float


class Candidate(NamedTuple):
    """A step size that was tried, and its validation error after each epoch."""

    dataset: str
    optimizer: str
    init: str
    dropout: float
    learning_rate: float
    validation_errors: list[float]


class SizeRecord(NamedTuple):
    """One epoch of a network with one hidden layer."""

    dataset: str
    hidden_units: int
    seed: int
    epoch: int
    train_loss: float
    train_error: float
    validation_error: float
    test_error: float
    seconds: float


class ToyUpdate(NamedTuple):
    """A step of a small network; kernels are those of each layer, as nested lists."""

    example: str
    optimizer: str
    init: str
    kernels: list[list[list[float]]]
    outputs: list[float]
    new_kernels: list[list[list[float]]]
    new_outputs: list[float]


class DampingRecord(NamedTuple):
    """A short run of a network from one kind of start: objectives of minibatches."""

    network: str
    width: int
    start: str
    optimizer: str
    damping: float
    learning_rate: float
    seed: int
    first_loss: float
    largest_loss: float
    last_loss: float
    seconds: float


class StartingPoint(NamedTuple):
    """A short run of a dense network at one step size: objectives of minibatches."""

    width: int
    depth: int
    initialisation: str
    optimizer: str
    learning_rate: float
    seed: int
    first_loss: float
    largest_loss: float
    last_loss: float
    seconds: float


class TransferRecord(NamedTuple):
    """A short run of a network at one step size: objectives of minibatches."""

    network: str
    optimizer: str
    learning_rate: float
    seed: int
    last_loss: float
    largest_loss: float
    seconds: float


class LanguageRecord(NamedTuple):
    """A short run of a language model: objectives, in nats a character.

    That of the last steps, that of unseen text, and those on the way.
    """

    optimizer: str
    init: str
    learning_rate: float
    seed: int
    train_loss: float
    validation_loss: float
    losses: list[float]
    seconds: float


class StepRecord(NamedTuple):
    """A benchmark of steps: its numbers by name, and what they were measured on."""

    benchmark: str
    numbers: dict[str, float]
    versions: dict[str, str]
    device: dict[str, Any]


class Run(NamedTuple):
    """What a command ran with, and on."""

    command: str
    configuration: dict[str, Any]
    versions: dict[str, str]
    device: dict[str, Any]


Case = TypeVar("Case", bound=tuple[Any, ...])

Line = TypeVar(
    "Line",
    Record,
    Candidate,
    SizeRecord,
    ToyUpdate,
    DampingRecord,
    StartingPoint,
    TransferRecord,
    LanguageRecord,
    StepRecord,
    Run,
)


@dataclass(frozen=True)
class Journal(Generic[Line]):
    """A file with one JSON object a line."""

    path: Path
    kind: type[Line]

    def read(self) -> list[Line]:
        """The recorded lines; one that was cut off while it was written isn't.

        Raises:
          ValueError: if a line is no JSON object with the right keys.
        """
        if not self.path.exists():
            return []
        *lines, _ = self.path.read_bytes().split(b"\n")
        return [self._parse(number, line) for number, line in enumerate(lines, 1)]

    def append(self, entry: Line) -> None:
        """Writes a line by one system call, which an interruption can't divide."""
        values = {name: _null(value) for name, value in entry._asdict().items()}
        line = json.dumps(values, allow_nan=False) + "\n"
        with self.path.open("ab", buffering=0) as file:
            file.write(line.encode())

    def missing(self, cases: Iterable[Case]) -> list[Case]:
        """Those that no line begins with; all have the first of its fields."""
        cases = list(cases)
        fields = len(cases[0]) if cases else 0
        recorded = {line[:fields] for line in self.read()}
        return [case for case in cases if case not in recorded]

    def record(
        self, run: tuple[Any, ...], epochs: int, train: Callable[[int], Iterable[Any]]
    ) -> Iterator[int]:
        """Records the epochs of a run that aren't recorded yet.

        Args:
          run: the first fields of its lines.
          epochs: how many epochs it has.
          train: from that number to the lines' other fields, epoch by epoch. Not
            called if all of them are recorded.

        Yields:
          How many epochs are done anew.
        """
        lines: list[Any] = [line for line in self.read() if line[: len(run)] == run]
        recorded = {line.epoch for line in lines}
        if recorded.issuperset(range(1, epochs + 1)):
            yield epochs
            return
        for measurement in train(epochs):
            if measurement.epoch not in recorded:
                self.append(self.kind(*run, *measurement))
            yield 1

    def mend(self) -> None:
        """Removes the beginning of a line whose writing was cut off."""
        if self.path.exists():
            whole = self.path.read_bytes().rfind(b"\n") + 1
            os.truncate(self.path, whole)

    def _parse(self, number: int, line: bytes) -> Line:
        try:
            values = json.loads(line)
            if set(values) != set(self.kind._fields):
                raise ValueError
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{self.path}, line {number}: expected a JSON object with the keys "
                f"{', '.join(self.kind._fields)}."
            ) from error
        return self.kind(**{name: _nan(value) for name, value in values.items()})


class Folder(NamedTuple):
    """The files that learning curves leave."""

    curves: Journal[Record]
    step_sizes: Journal[Candidate]
    figure: Path


def open_folder(
    path: Path, settings: Mapping[str, Any], figure: str = "learning_curves.png"
) -> Folder:
    """Makes the folder of some learning curves, or goes on with one.

    Args:
      path: the folder.
      settings: what all the curves in a folder must have in common.
      figure: the name of the picture.

    Returns:
      The files in it, ready to be appended to.

    Raises:
      ValueError: if the folder holds curves of other settings, or what is no record.
      OSError: if the folder can't be made or written to.
    """
    folder = Folder(
        Journal(path / "curves.jsonl", Record),
        Journal(path / "step_sizes.jsonl", Candidate),
        path / figure,
    )
    open_journals(path, settings, folder.curves, folder.step_sizes)
    return folder


def open_journals(
    path: Path, settings: Mapping[str, Any], *journals: Journal[Any]
) -> None:
    """Makes a folder for journals, or goes on with those in it, as `open_folder`."""
    path.mkdir(parents=True, exist_ok=True)
    used = any(journal.path.exists() for journal in journals)
    _check_settings(path / "settings.json", settings, used)
    for journal in journals:
        journal.mend()
        journal.read()


def check_command(path: Path, command: str) -> None:
    """Raises a ValueError where a folder has the results of another command."""
    for run in Journal(path / "runs.jsonl", Run).read():
        if run.command != command:
            raise ValueError(
                f"{path} holds the results of benchmarks.{run.command}, not those of "
                f"benchmarks.{command}: choose another output folder."
            )


PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy", "pathsgd-optax")


def record_run(path: Path, command: str, configuration: Mapping[str, Any]) -> None:
    """Appends what a command runs with, unless it has run like this before.

    Args:
      path: the folder of its results.
      command: its name.
      configuration: its arguments; of ``seeds`` runs the seeds are 0, 1, ...
    """
    plain = dict(configuration, seeds=list(range(configuration["seeds"])))
    # Where files lie says nothing of a run.
    plain = {name: x for name, x in plain.items() if not isinstance(x, Path)}
    # As it will be read: lists for tuples.
    plain = json.loads(json.dumps(plain))
    run = Run(command, plain, _versions(), _device())
    runs = Journal(path / "runs.jsonl", Run)
    runs.mend()
    if run not in runs.read():
        runs.append(run)


def record_steps(path: Path, measured: Mapping[str, Mapping[str, float]]) -> None:
    """Appends the numbers of benchmarks, by the benchmark's name."""
    path.mkdir(parents=True, exist_ok=True)
    steps = Journal(path / "steps.jsonl", StepRecord)
    steps.mend()
    for name, numbers in measured.items():
        steps.append(StepRecord(name, dict(numbers), _versions(), _device()))


def _versions() -> dict[str, str]:
    packages = {name: metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version()} | packages


def _device() -> dict[str, Any]:
    devices = jax.devices()
    return {
        "backend": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }


def _check_settings(path: Path, settings: Mapping[str, Any], used: bool) -> None:
    if not path.exists():
        if used:
            raise ValueError(f"{path} is missing, so the curves beside it are unknown.")
        part = path.with_suffix(".part")
        part.write_text(json.dumps(settings) + "\n")
        part.replace(path)
    recorded = _read_settings(path)
    names = {**recorded, **settings}
    changed = [name for name in names if recorded.get(name) != settings.get(name)]
    if changed:
        old = ", ".join(f"{name} {recorded.get(name)}" for name in changed)
        new = ", ".join(str(settings.get(name)) for name in changed)
        raise ValueError(
            f"{path.parent} holds curves of {old}, not {new}, which can't be compared: "
            "choose another output folder."
        )


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} should hold a JSON object.") from error


def _null(value: Any) -> Any:
    if isinstance(value, list):
        return [_null(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_nan(entry) for entry in value]
    return math.nan if value is None else value


class Series(NamedTuple):
    """What the runs of a curve have in common."""

    dataset: str
    optimizer: str
    init: str
    dropout: float

    @property
    def task(self) -> str:
        """The data set, and the dropout if there is any."""
        dropout = f", dropout {self.dropout:g}" if self.dropout else ""
        return f"{self.dataset}{dropout}"


class Curve(NamedTuple):
    """The runs of a series, over the epochs that all of its seeds have reached."""

    learning_rate: float
    epochs: NDArray[np.int64]
    runs: dict[str, NDArray[np.float64]]
    """Each measured quantity, shape ``(seeds, epochs)``; inf where it diverged."""

    def median(self, quantity: str) -> NDArray[np.float64]:
        """The median over the seeds, shape ``(epochs,)``."""
        return np.asarray(np.median(self.runs[quantity], axis=0))


def curves(records: Iterable[Record]) -> dict[Series, Curve]:
    """The curves that the records make, in the order of their first records.

    Where a longer search has chosen another step size, they are of the last one.
    """
    groups: dict[Series, list[Record]] = {}
    for record in records:
        groups.setdefault(Series(*record[:4]), []).append(record)
    return {series: _curve(group) for series, group in groups.items()}


def _curve(records: list[Record]) -> Curve:
    by_seed: dict[int, dict[int, Record]] = {}
    learning_rate = records[-1].learning_rate
    for record in records:
        if record.learning_rate != learning_rate:
            continue
        by_seed.setdefault(record.seed, {})[record.epoch] = record
    epochs = sorted(set.intersection(*map(set, by_seed.values())))
    runs = {
        quantity: np.array(
            [
                [getattr(run[epoch], quantity) for epoch in epochs]
                for run in by_seed.values()
            ]
        )
        for quantity in ("train_loss", "train_error", "test_error", "seconds")
    }
    finite = {name: np.where(np.isnan(x), np.inf, x) for name, x in runs.items()}
    return Curve(learning_rate, np.array(epochs), finite)
