"""Hugging Face: a stand-in for its library, and the library itself where it is."""

import sys
import types

import numpy as np
import pytest

from benchmarks import datasets, hub


class Table:
    """As much of a `datasets.Dataset` as is used."""

    def __init__(self, columns):
        self.columns = columns
        self.column_names = list(columns)

    def select_columns(self, names):
        return Table({name: self.columns[name] for name in names})

    def with_format(self, kind):
        assert kind == "numpy"
        return self

    def __getitem__(self, rows):
        return {name: column[rows] for name, column in self.columns.items()}


def columns(name, count, classes=10):
    repository = hub.REPOSITORIES[name]
    rng = np.random.default_rng(count)
    shape = (28, 28) if name == "mnist" else (32, 32, 3)
    return {
        repository.image: rng.integers(0, 256, (count, *shape), np.uint8),
        "extra": np.zeros(count),
        repository.label: rng.integers(0, classes, count),
    }


@pytest.fixture
def library(monkeypatch):
    """Installs a library with one function."""

    def install(load_dataset):
        module = types.SimpleNamespace(load_dataset=load_dataset)
        monkeypatch.setitem(sys.modules, "datasets", module)

    return install


@pytest.mark.parametrize("name", hub.REPOSITORIES)
def test_each_data_set_is_loaded_by_its_name(library, name):
    asked = []

    def load_dataset(path, config, split):
        asked.append((path.split("/")[1], config, split))
        return Table(columns(name, {"train": 6, "test": 2}[split]))

    library(load_dataset)
    dataset = datasets.load(name)
    config = "cropped_digits" if name == "svhn" else None
    assert asked == [(name, config, "train"), (name, config, "test")]
    images, _, labels = columns(name, 6).values()
    np.testing.assert_allclose(
        dataset.train_images, images.reshape(6, -1) / 255, rtol=1e-6
    )
    assert dataset.train_labels.tolist() == labels.tolist()
    assert dataset.train_labels.dtype == np.int32 and len(dataset.test_labels) == 2
    assert dataset.name == name


def test_other_columns_are_refused(library):
    library(lambda *_, split: Table({"picture": np.zeros(2), "label": np.zeros(2)}))
    with pytest.raises(ValueError, match="the columns image and label, not picture"):
        hub.load("mnist")


def test_a_failed_download_is_said_in_one_line(library):
    def load_dataset(*_, split):
        raise ConnectionError("no network")

    library(load_dataset)
    with pytest.raises(OSError, match=r"cifar10, from Hugging Face: no network\."):
        hub.load("cifar10")


def test_the_library_itself_reads_a_folder_of_the_same_kind(tmp_path, monkeypatch):
    library = pytest.importorskip("datasets")
    folder = tmp_path / "data"
    folder.mkdir()
    features = {"img": library.Image(), "label": library.ClassLabel(10)}
    for part, count in (("train", 6), ("test", 2)):
        images, _, labels = columns("cifar10", count).values()
        table = library.Dataset.from_dict(
            {"img": list(images), "label": labels}, library.Features(features)
        )
        table.to_parquet(folder / f"{part}-00000-of-00001.parquet")
    local = hub.REPOSITORIES["cifar10"]._replace(path=str(folder))
    monkeypatch.setitem(hub.REPOSITORIES, "cifar10", local)
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (images, labels), test = hub.load("cifar10")
    np.testing.assert_array_equal(images, columns("cifar10", 6)["img"])
    assert labels.tolist() == columns("cifar10", 6)["label"].tolist()
    assert len(test[1]) == 2
