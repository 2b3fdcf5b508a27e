"""The data sets by name, and the validation points that are kept out."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from benchmarks import hub, published
from benchmarks.published import Points, Source


CLASSES = {"cifar100": 100}
"""Of the data sets that don't have ten."""

VALIDATION_POINTS = 10000
"""Of the training points, as in the paper."""

VALIDATION_SHARE = 1 / 6
"""Of the training points of a data set that is too small for that many."""

DIGITS_TRAINING_POINTS = 1500


class Dataset(NamedTuple):
    """Points as rows of float32 in [0, 1], and their classes as int32.

    A row holds an image line by line, the colours of a pixel side by side.
    """

    name: str
    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int32]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int32]
    classes: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The height, the width and the channels of a square image, gray or colour."""
        numbers = self.train_images.shape[1]
        for channels in (1, 3):
            # Three times a square is no square, so that at most one of them fits.
            side = math.isqrt(numbers // channels)
            if channels * side**2 == numbers:
                return side, side, channels
        raise ValueError(f"{self.name} has {numbers} numbers a point: no square image.")


def load(name: str, data_dir: Path | None = None, verify: bool = True) -> Dataset:
    """Loads a data set.

    Args:
      name: one of `NAMES`.
      data_dir: the folder of its published files; without one, Hugging Face's
        ``datasets`` downloads it. The digits need neither, but no folder that isn't
        there is accepted.
      verify: whether the files must have the published checksums. If not, the name
        of the data set, and so each result on it, says that it is unverified.

    Returns:
      The data set with its training and test points.

    Raises:
      ValueError: if there is no such data set, or a file isn't what it should be, or
        there is neither a folder nor the library.
      OSError: if a file is missing or can't be downloaded.
    """
    if name not in NAMES:
        raise ValueError(f"There is no data set {name!r}, only {', '.join(NAMES)}.")
    if data_dir is not None and not data_dir.is_dir():
        raise FileNotFoundError(f"There is no folder {data_dir}, the --data-dir.")
    if name in EMBEDDED:
        return EMBEDDED[name]()
    if data_dir is None:
        return _dataset(name, *hub.load(name))
    dataset = _dataset(name, *published.LOADERS[name](Source(data_dir, verify)))
    return dataset if verify else dataset._replace(name=f"{name} (unverified copy)")


def first(dataset: Dataset, points: int) -> Dataset:
    """At most so many training and test points, by a name that says so."""
    if points >= len(dataset.train_labels):
        return dataset
    return dataset._replace(
        name=f"{dataset.name}, {points} points",
        train_images=dataset.train_images[:points],
        train_labels=dataset.train_labels[:points],
        test_images=dataset.test_images[:points],
        test_labels=dataset.test_labels[:points],
    )


def hold_out(dataset: Dataset) -> Dataset:
    """Takes 10000 of the training points, chosen at random, as those to test on.

    Of fewer than 50000 training points it takes a sixth.

    Returns:
      A data set whose test points are validation points, for the choice of a step
      size or of an epoch; it holds none of the test points of ``dataset``.
    """
    points = len(dataset.train_labels)
    few = points < 5 * VALIDATION_POINTS
    return _split(
        dataset.name,
        dataset.train_images,
        dataset.train_labels,
        dataset.classes,
        test_points=round(points * VALIDATION_SHARE) if few else VALIDATION_POINTS,
    )


def _dataset(name: str, train: Points, test: Points) -> Dataset:
    classes = CLASSES.get(name, 10)
    return Dataset(name, _rows(train[0]), train[1], _rows(test[0]), test[1], classes)


def _rows(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.divide(images.reshape(len(images), -1), 255, dtype=np.float32)


def _digits() -> Dataset:
    images, labels = load_digits(return_X_y=True)
    return _split(
        "digits",
        (images / 16).astype(np.float32),
        labels.astype(np.int32),
        classes=10,
        test_points=len(labels) - DIGITS_TRAINING_POINTS,
    )


EMBEDDED: dict[str, Callable[[], Dataset]] = {"digits": _digits}

NAMES = (*EMBEDDED, *published.LOADERS)


def _split(
    name: str,
    images: NDArray[np.float32],
    labels: NDArray[np.int32],
    classes: int,
    test_points: int,
) -> Dataset:
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=test_points, random_state=0
    )
    return Dataset(name, train_images, train_labels, test_images, test_labels, classes)
