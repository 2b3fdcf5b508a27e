"""The data sets in their published files: MNIST, CIFAR-10, CIFAR-100 and SVHN."""

import gzip
import hashlib
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks import formats


IMAGES_MAGIC = 2051
LABELS_MAGIC = 2049

COLOUR_IMAGE = (3, 32, 32)

CHECKSUMS = {
    # Of what the .gz files of MNIST hold, so that plain ones can be verified too.
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}
"""The md5 sum of each published file."""

Points: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.int32]]
"""Images, shape ``(points, height, width, channels)``, and their classes."""

T = TypeVar("T")


class Source(NamedTuple):
    """Where the files are, and whether they must be the published ones."""

    folder: Path
    verify: bool

    def under(self, name: str) -> "Source":
        """The folder that a published archive unpacks to, itself or in this one."""
        is_it = self.folder.name == name
        return self if is_it else self._replace(folder=self.folder / name)

    def read(self, name: str, parse: Callable[[bytes], T]) -> T:
        """What a file holds; its errors name the file."""
        content, path = _content(self.folder / name)
        if self.verify and _checksum(content) != CHECKSUMS[name]:
            raise ValueError(
                f"{path} is not the published file: its md5 sum should be "
                f"{CHECKSUMS[name]}; --unverified accepts it as it is."
            )
        try:
            return parse(content)
        except ValueError as error:
            raise ValueError(f"{path} {error}") from error


def mnist(source: Source) -> tuple[Points, Points]:
    """The training and the test points of the four idx files, plain or .gz."""
    train, test = _mnist_part(source, "train"), _mnist_part(source, "t10k")
    pixels, others = (images[0].size for images, _ in (train, test))
    if pixels != others:
        raise ValueError(
            f"{source.folder}: training images have {pixels} pixels, but test images "
            f"{others}."
        )
    return train, test


def cifar10(source: Source) -> tuple[Points, Points]:
    """The training and the test points of the six pickles for Python."""
    source = source.under("cifar-10-batches-py")
    batches = [
        _cifar_part(source, f"data_batch_{number}", "labels", classes=10)
        for number in range(1, 6)
    ]
    images, labels = map(np.concatenate, zip(*batches, strict=True))
    return (images, labels), _cifar_part(source, "test_batch", "labels", classes=10)


def cifar100(source: Source) -> tuple[Points, Points]:
    """The training and the test points of the two pickles, with the fine labels."""
    source = source.under("cifar-100-python")
    train = _cifar_part(source, "train", "fine_labels", classes=100)
    return train, _cifar_part(source, "test", "fine_labels", classes=100)


def svhn(source: Source) -> tuple[Points, Points]:
    """The training and the test points of the two .mat files of cropped digits."""
    return _svhn_part(source, "train_32x32.mat"), _svhn_part(source, "test_32x32.mat")


LOADERS: dict[str, Callable[[Source], tuple[Points, Points]]] = {
    "mnist": mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "svhn": svhn,
}


def _mnist_part(source: Source, part: str) -> Points:
    images = source.read(
        f"{part}-images-idx3-ubyte", lambda x: formats.idx(x, IMAGES_MAGIC, axes=3)
    )
    labels = source.read(
        f"{part}-labels-idx1-ubyte", lambda x: formats.idx(x, LABELS_MAGIC, axes=1)
    )
    if len(images) != len(labels):
        raise ValueError(
            f"{source.folder}: {part} has {len(images)} images, but {len(labels)} "
            "labels."
        )
    if labels.max() > 9:
        raise ValueError(f"{source.folder}: {part} has labels that aren't digits.")
    return images[..., None], labels.astype(np.int32)


def _cifar_part(source: Source, name: str, key: str, classes: int) -> Points:
    def parse(content: bytes) -> Points:
        batch = formats.pickled_dict(content)
        images, labels = _entry(batch, "data"), _classes(_entry(batch, key), classes)
        _check_images("data", images, (len(labels), math.prod(COLOUR_IMAGE)))
        return images.reshape(-1, *COLOUR_IMAGE).transpose(0, 2, 3, 1), labels

    return source.read(name, parse)


def _svhn_part(source: Source, name: str) -> Points:
    def parse(content: bytes) -> Points:
        images, labels = formats.mat(content, "X", "y")
        # MATLAB counts from one: the label 10 is the digit 0.
        digits = _classes(labels.ravel().astype(np.int64) - 1, classes=10)
        _check_images("X", images, (32, 32, 3, len(digits)))
        return images.transpose(3, 0, 1, 2), (digits + np.int32(1)) % 10

    return source.read(name, parse)


def _entry(batch: dict[str, Any], key: str) -> Any:
    if key not in batch:
        raise ValueError(f"should hold {key!r}, not only {', '.join(batch)}.")
    return batch[key]


def _classes(labels: Any, classes: int) -> NDArray[np.int32]:
    array = np.asarray(labels)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu":
        raise ValueError("should hold some labels, one integer a point.")
    if array.min() < 0 or array.max() >= classes:
        raise ValueError(f"should hold labels of {classes} classes only.")
    return array.astype(np.int32)


def _check_images(name: str, images: Any, shape: tuple[int, ...]) -> None:
    found = getattr(images, "shape", None), str(getattr(images, "dtype", None))
    if found != (shape, "uint8"):
        raise ValueError(
            f"should hold {name!r} as bytes of shape {shape}, but holds {found[1]} of "
            f"shape {found[0]}."
        )


def _checksum(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _content(path: Path) -> tuple[bytes, Path]:
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
