"""The data sets by name, and the split into training and validation points."""

import re
import sys

import numpy as np
import pytest

from benchmarks import datasets, published
from benchmarks.datasets import Dataset


def points(count, classes, shape):
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, *shape), np.uint8)
    return images, np.arange(count, dtype=np.int32) % classes


@pytest.fixture
def colour(monkeypatch):
    parts = points(6, 100, (4, 4, 3)), points(2, 100, (4, 4, 3))
    monkeypatch.setitem(published.LOADERS, "cifar100", lambda source: parts)
    return parts


def test_images_are_rows_from_0_to_1(colour, tmp_path):
    dataset = datasets.load("cifar100", tmp_path)
    assert dataset.name == "cifar100" and dataset.classes == 100
    assert dataset.train_images.dtype == dataset.test_images.dtype == np.float32
    assert dataset.image_shape == (4, 4, 3)
    images = dataset.train_images.reshape(-1, *dataset.image_shape)
    np.testing.assert_allclose(images, colour[0][0] / 255, rtol=1e-6)
    np.testing.assert_array_equal(dataset.test_labels, colour[1][1])


def test_an_unverified_copy_says_so(colour, tmp_path):
    dataset = datasets.load("cifar100", tmp_path, verify=False)
    assert dataset.name == "cifar100 (unverified copy)" and dataset.classes == 100


def test_a_gray_image_has_one_channel():
    assert datasets.load("digits").image_shape == (8, 8, 1)


def test_other_rows_are_no_square_image():
    rows, labels = np.zeros((2, 12), np.float32), np.zeros(2, np.int32)
    assert Dataset("colour", rows, labels, rows, labels, 2).image_shape == (2, 2, 3)
    with pytest.raises(ValueError, match="odd has 6 numbers a point"):
        _ = Dataset("odd", rows[:, :6], labels, rows, labels, 2).image_shape


def test_without_a_folder_or_a_library_both_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    for name in published.LOADERS:
        with pytest.raises(
            ValueError, match=f"{name} needs .*--data-dir.*pip install datasets"
        ):
            datasets.load(name)


def test_an_unknown_data_set_is_refused():
    with pytest.raises(
        ValueError, match=re.escape("only digits, mnist, cifar10, cifar100, svhn")
    ):
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


@pytest.mark.parametrize("count, held_out", [(48, 8), (50, 10), (60, 10), (73, 10)])
def test_larger_sets_give_as_many_validation_points_as_in_the_paper(
    monkeypatch, count, held_out
):
    monkeypatch.setattr(datasets, "VALIDATION_POINTS", 10)
    rows = np.eye(count, dtype=np.float32)
    labels = np.arange(count, dtype=np.int32) % 2
    split = datasets.hold_out(Dataset("many", rows, labels, rows, labels, 2))
    assert len(split.test_labels) == held_out
    assert len(split.train_labels) == count - held_out


def test_the_first_points_are_a_data_set_of_another_name():
    whole = datasets.load("digits")
    few = datasets.first(whole, 100)
    assert few.name == "digits, 100 points"
    assert (len(few.train_labels), len(few.test_labels)) == (100, 100)
    np.testing.assert_array_equal(few.train_images, whole.train_images[:100])
    np.testing.assert_array_equal(few.test_labels, whole.test_labels[:100])
    assert datasets.first(whole, 1500) is whole
