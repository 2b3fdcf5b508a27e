"""What an unbalanced start does to SGD, and not to Path-SGD: figure 2 of the paper.

Run it as ``python -m benchmarks.unbalanced``. Its curves are among those of figure 3:
in a folder of `benchmarks.learning_curves` it draws those that are there.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import commands, datasets, figures, jobs, results
from benchmarks.toy_updates import toy_updates


PRESETS: dict[str, dict[str, Any]] = {
    "laptop": {"width": 128, "epochs": 50, "search_epochs": 10, "seeds": 3},
    "smoke": {"points": 1000, "width": 16, "epochs": 3, "search_epochs": 1, "seeds": 1},
    # The caption doesn't say how many epochs.
    "paper": {
        "dataset": "mnist",
        "width": 4000,
        "epochs": 100,
        "search_epochs": 20,
        "seeds": 1,
    },
}


class Experiment(NamedTuple):
    """What to learn, and where it and the updates of the toys are recorded."""

    dataset: datasets.Dataset
    folder: results.Folder
    toys: results.Journal[results.ToyUpdate]


def _parser() -> commands.Parser:
    parser = commands.Parser(
        prog="python -m benchmarks.unbalanced",
        description="SGD and Path-SGD from balanced and unbalanced starts.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    commands.add_data_arguments(parser)
    parser.add_argument(
        "--output", type=Path, default=Path("unbalanced"), help="folder to fill"
    )
    jobs.add_training_arguments(parser)
    parser.set_defaults(optimizers=("sgd", "path_sgd"), dropout=(0.0,))
    return parser


def _open(options: argparse.Namespace) -> Experiment:
    dataset, folder = jobs.prepare(options, "learning_curves", "unbalanced")
    return Experiment(dataset, folder, _record_toys(options.output))


def _run(options: argparse.Namespace, experiment: Experiment) -> None:
    jobs.run(options, experiment.dataset, experiment.folder)


def _report(options: argparse.Namespace, experiment: Experiment) -> None:
    dataset, folder, toys = experiment
    drawn = [
        record
        for record in folder.curves.read()
        if (record.dataset, record.dropout) == (dataset.name, 0.0)
        and record.optimizer in options.optimizers
    ]
    figures.draw_unbalanced(drawn, toys.read(), folder.figure)
    print(f"Figure: {folder.figure}")


def _record_toys(folder: Path) -> results.Journal[results.ToyUpdate]:
    """Records the updates of the small networks that aren't recorded yet."""
    toys = results.Journal(folder / "toy_updates.jsonl", results.ToyUpdate)
    toys.mend()
    recorded = [update[:3] for update in toys.read()]
    for update in toy_updates():
        if update[:3] not in recorded:
            toys.append(update)
    return toys


main = commands.command(_parser, PRESETS, _open, _run, _report)


if __name__ == "__main__":
    sys.exit(main())
