"""The data sets: the idx reader, the splits and the messages."""

import gzip
import re

import numpy as np
import pytest

from benchmarks import datasets


MAGIC = {1: 2049, 3: 2051}

FILES = {
    "train-images-idx3-ubyte": (6, 4, 3),
    "train-labels-idx1-ubyte": (6,),
    "t10k-images-idx3-ubyte": (2, 4, 3),
    "t10k-labels-idx1-ubyte": (2,),
}


def idx(array, magic=None):
    header = [magic or MAGIC[array.ndim], *array.shape]
    return b"".join(n.to_bytes(4) for n in header) + array.astype(np.uint8).tobytes()


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(0, 256 if len(shape) == 3 else 10, shape)
        for name, shape in FILES.items()
    }


@pytest.fixture
def folder(tmp_path, arrays):
    for name, array in arrays.items():
        (tmp_path / name).write_bytes(idx(array))
    return tmp_path


@pytest.mark.parametrize("compressed", [(), FILES, ["train-labels-idx1-ubyte"]])
def test_mnist_is_read_plain_and_compressed(folder, arrays, compressed):
    for name in compressed:
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    dataset = datasets.load("mnist", folder)
    expected = list(arrays.values())
    for images, array in zip(
        (dataset.train_images, dataset.test_images), expected[::2], strict=True
    ):
        assert images.dtype == np.float32
        np.testing.assert_allclose(
            images, array.reshape(len(array), 12) / 255, rtol=1e-6
        )
    for labels, array in zip(
        (dataset.train_labels, dataset.test_labels), expected[1::2], strict=True
    ):
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(labels, array)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        datasets.load("mnist", folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("end", [0, 3, 6, -1])
def test_a_truncated_file_is_named(folder, name, end):
    (folder / name).write_bytes((folder / name).read_bytes()[:end])
    with pytest.raises(ValueError, match=name):
        datasets.load("mnist", folder)


def test_a_file_with_too_much_is_refused(folder):
    with (folder / "t10k-labels-idx1-ubyte").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match=r"should hold 10 bytes.* but holds 11"):
        datasets.load("mnist", folder)


def test_swapped_files_are_refused(folder):
    images, labels = (
        folder / "t10k-images-idx3-ubyte",
        folder / "t10k-labels-idx1-ubyte",
    )
    images.write_bytes(labels.read_bytes())
    with pytest.raises(ValueError, match=r"should begin with the number 2051"):
        datasets.load("mnist", folder)


def test_an_empty_set_is_refused(folder):
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(0)))
    with pytest.raises(ValueError, match="and some data"):
        datasets.load("mnist", folder)


@pytest.mark.parametrize("cut", [slice(-9), slice(5), slice(1, None)])
def test_a_broken_gzip_file_is_refused(folder, cut):
    path = folder / "train-images-idx3-ubyte"
    content = gzip.compress(path.read_bytes())
    path.unlink()
    path.with_name(f"{path.name}.gz").write_bytes(content[cut])
    with pytest.raises(ValueError, match=r"ubyte\.gz is not a whole gzip file"):
        datasets.load("mnist", folder)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("train-labels-idx1-ubyte", np.zeros(5), "6 images, but 5 labels"),
        ("t10k-labels-idx1-ubyte", np.full(2, 10), "aren't digits"),
        ("t10k-images-idx3-ubyte", np.ones((2, 4, 4)), "12 pixels, but.* 16"),
    ],
)
def test_files_that_dont_fit_are_refused(folder, name, array, message):
    (folder / name).write_bytes(idx(array))
    with pytest.raises(ValueError, match=message):
        datasets.load("mnist", folder)


def test_mnist_needs_a_folder():
    with pytest.raises(ValueError, match="--data-dir"):
        datasets.load("mnist")


def test_an_unknown_data_set_is_refused():
    with pytest.raises(ValueError, match=re.escape("only digits, mnist")):
        datasets.load("cifar")


def rows(*images):
    return [row.tobytes() for part in images for row in part]


def test_digits_are_split_without_loss(digits):
    dataset = datasets.load("digits")
    assert len(dataset.train_labels) == 1500
    assert dataset.train_images.dtype == np.float32
    assert sorted(rows(dataset.train_images, dataset.test_images)) == sorted(
        rows(digits[0].astype(np.float32))
    )
    labels = dict(zip(rows(digits[0].astype(np.float32)), digits[1], strict=True))
    for images, part in (dataset[1:3], dataset[3:5]):
        assert [labels[row] for row in rows(images)] == part.tolist()


def test_validation_points_are_a_sixth_of_the_training_points():
    dataset = datasets.load("digits")
    held_out = datasets.hold_out(dataset)
    assert len(held_out.test_labels) == 250
    assert sorted(rows(held_out.train_images, held_out.test_images)) == sorted(
        rows(dataset.train_images)
    )
    # A random choice has every class; a slice of sorted data would not.
    assert len(np.unique(held_out.test_labels)) == 10
    np.testing.assert_array_equal(
        held_out.test_images, datasets.hold_out(dataset).test_images
    )
