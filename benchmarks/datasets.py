"""Data sets of handwritten digits, and the validation points that are kept out."""

import gzip
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


VALIDATION_SHARE = 1 / 6
"""10000 of the 60000 training points of MNIST, as in the paper."""

DIGITS_TRAINING_POINTS = 1500

IMAGES_MAGIC = 2051
LABELS_MAGIC = 2049


class Dataset(NamedTuple):
    """Points as rows of float32 in [0, 1], and their classes as int32."""

    name: str
    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int32]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int32]
    classes: int


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """Loads a data set.

    Args:
      name: one of `NAMES`.
      data_dir: where its files are; the digits need none.

    Returns:
      The data set with its training and test points.

    Raises:
      ValueError: if there is no such data set, or it needs a folder, or a file isn't
        what it should be.
      FileNotFoundError: if a file is missing.
    """
    if name not in LOADERS:
        raise ValueError(f"There is no data set {name!r}, only {', '.join(NAMES)}.")
    return LOADERS[name](data_dir)


def hold_out(dataset: Dataset) -> Dataset:
    """Takes a random sixth of the training points as the points to test on.

    Returns:
      A data set whose test points are validation points, for the choice of a step
      size; it holds none of the test points of ``dataset``.
    """
    return _split(
        dataset.name,
        dataset.train_images,
        dataset.train_labels,
        dataset.classes,
        test_points=round(len(dataset.train_labels) * VALIDATION_SHARE),
    )


def _digits(data_dir: Path | None) -> Dataset:
    del data_dir
    images, labels = load_digits(return_X_y=True)
    return _split(
        "digits",
        (images / 16).astype(np.float32),
        labels.astype(np.int32),
        classes=10,
        test_points=len(labels) - DIGITS_TRAINING_POINTS,
    )


def _mnist(data_dir: Path | None) -> Dataset:
    if data_dir is None:
        raise ValueError("mnist needs the folder of its four idx files: --data-dir.")
    train_images, train_labels = _read_pair(data_dir, "train")
    test_images, test_labels = _read_pair(data_dir, "t10k")
    if train_images.shape[1] != test_images.shape[1]:
        raise ValueError(
            f"{data_dir}: training images have {train_images.shape[1]} pixels, but "
            f"test images {test_images.shape[1]}."
        )
    return Dataset("mnist", train_images, train_labels, test_images, test_labels, 10)


LOADERS: dict[str, Callable[[Path | None], Dataset]] = {
    "digits": _digits,
    "mnist": _mnist,
}

NAMES = tuple(LOADERS)


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


# The idx format: a magic number, the size of each axis, and the bytes themselves.


def _read_pair(
    data_dir: Path, part: str
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    images = _read_idx(data_dir / f"{part}-images-idx3-ubyte", IMAGES_MAGIC, axes=3)
    labels = _read_idx(data_dir / f"{part}-labels-idx1-ubyte", LABELS_MAGIC, axes=1)
    if len(images) != len(labels):
        raise ValueError(
            f"{data_dir}: {part} has {len(images)} images, but {len(labels)} labels."
        )
    if labels.max() > 9:
        raise ValueError(f"{data_dir}: {part} has labels that aren't digits.")
    rows = images.reshape(len(images), -1)
    return np.divide(rows, 255, dtype=np.float32), labels.astype(np.int32)


def _read_idx(path: Path, magic: int, axes: int) -> NDArray[np.uint8]:
    content, path = _read_bytes(path)
    header = 4 * (1 + axes)
    if len(content) < header or int.from_bytes(content[:4]) != magic:
        raise ValueError(
            f"{path} is not an idx file of bytes with {axes} axes: it should begin "
            f"with the number {magic} and the size of each axis."
        )
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], dtype=">u4"))
    expected = header + math.prod(shape)
    if not len(content) == expected > header:
        raise ValueError(
            f"{path} should hold {expected} bytes, of which {header} say its shape "
            f"{shape}, and some data, but holds {len(content)}."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_bytes(path: Path) -> tuple[bytes, Path]:
    """The content of a file, plain or compressed, and the path that it was under."""
    if path.is_file():
        return path.read_bytes(), path
    compressed = path.with_name(f"{path.name}.gz")
    if not compressed.is_file():
        raise FileNotFoundError(f"{path} is missing: expected it plain or with .gz.")
    try:
        return gzip.decompress(compressed.read_bytes()), compressed
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{compressed} is not a whole gzip file: {error}.") from error
