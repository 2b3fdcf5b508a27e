"""Learning curves of a residual network, which the paper leaves open.

Run it as ``python -m benchmarks.convnet``. BatchNorm normalises by the statistics of
minibatches, which ends the paths. Step sizes are chosen, and results kept, as
`benchmarks.learning_curves` does.
"""

import sys
from collections.abc import Sequence
from typing import Any

from benchmarks import commands, learning_curves, optimizers
from benchmarks.optimizers import OPTIMIZERS
from benchmarks.resnet import RESNET


PRESETS: dict[str, dict[str, Any]] = {
    "laptop": {
        "width": 8,
        "epochs": 20,
        "search_epochs": 5,
        "seeds": 3,
        "optimizers": (*optimizers.DEFAULT, "path_adagrad", "path_adam"),
        "dropout": (0.0,),
    },
    "smoke": {
        "points": 1000,
        "width": 2,
        "epochs": 2,
        "search_epochs": 1,
        "seeds": 1,
        "optimizers": ("sgd", "path_sgd"),
        "dropout": (0.0,),
    },
    # The paper has no such network: this is its protocol on its natural images.
    "paper": {
        "dataset": "cifar10",
        "width": 64,
        "epochs": 100,
        "search_epochs": 20,
        "seeds": 3,
        "optimizers": tuple(OPTIMIZERS),
        "dropout": (0.0, 0.5),
    },
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      arguments: those of the command line, or None for the process's own.

    Returns:
      The exit code.
    """
    parser = learning_curves.make_parser(
        "convnet", "Learning curves of a small residual network."
    )
    options = commands.parse(parser, PRESETS, arguments)
    return learning_curves.draw_curves(
        parser, options, "convnet", RESNET, network="resnet", paths="gates=True"
    )


if __name__ == "__main__":
    sys.exit(main())
