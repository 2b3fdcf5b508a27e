"""The data sets by name through Hugging Face `datasets`, which downloads them once."""

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from benchmarks.published import Points


class Repository(NamedTuple):
    """Where a data set is, and what its columns are called."""

    path: str
    config: str | None
    image: str
    label: str


REPOSITORIES = {
    "mnist": Repository("ylecun/mnist", None, "image", "label"),
    "cifar10": Repository("uoft-cs/cifar10", None, "img", "label"),
    "cifar100": Repository("uoft-cs/cifar100", None, "img", "fine_label"),
    "svhn": Repository("ufldl-stanford/svhn", "cropped_digits", "image", "label"),
}


def load(name: str) -> tuple[Points, Points]:
    """The training and the test points.

    Raises:
      ValueError: if the library isn't installed, or the data set isn't as expected.
      OSError: if it can't be downloaded.
    """
    library, repository = _library(name), REPOSITORIES[name]
    train, test = (_points(library, repository, part) for part in ("train", "test"))
    return train, test


def _library(name: str) -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"{name} needs the folder of its published files, --data-dir, or a library "
            "that downloads it: pip install datasets pillow."
        ) from error
    return datasets


def _points(library: ModuleType, repository: Repository, part: str) -> Points:
    try:
        table: Any = library.load_dataset(
            repository.path, repository.config, split=part
        )
    except OSError as error:
        raise OSError(f"{repository.path}, from Hugging Face: {error}.") from error
    columns = repository.image, repository.label
    if not set(columns) <= set(table.column_names):
        raise ValueError(
            f"{repository.path}, {part}: expected the columns {' and '.join(columns)}, "
            f"not {', '.join(table.column_names)}."
        )
    rows = table.select_columns(list(columns)).with_format("numpy")[:]
    images = np.asarray(rows[repository.image], np.uint8)
    colours = images if images.ndim == 4 else images[..., None]
    return colours, np.asarray(rows[repository.label], np.int32)
