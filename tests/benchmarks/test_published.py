"""The published files, written small by the tests: what is read and what is refused."""

import gzip
import hashlib
import pickle

import numpy as np
import pytest
import scipy.io

from benchmarks import published


MAGIC = {1: 2049, 3: 2051}

FILES = {
    "train-images-idx3-ubyte": (6, 4, 3),
    "train-labels-idx1-ubyte": (6,),
    "t10k-images-idx3-ubyte": (2, 4, 3),
    "t10k-labels-idx1-ubyte": (2,),
}


def load(name, folder, verify=False):
    return published.LOADERS[name](published.Source(folder, verify))


def pairs(arrays):
    arrays = list(arrays.values())
    return [(arrays[0], arrays[1]), (arrays[2], arrays[3])]


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
    train, test = load("mnist", folder)
    for (images, labels), pair in zip((train, test), pairs(arrays), strict=True):
        assert images.dtype == np.uint8 and labels.dtype == np.int32
        np.testing.assert_array_equal(images[..., 0], pair[0])
        np.testing.assert_array_equal(labels, pair[1])


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        load("mnist", folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("end", [0, 3, 6, -1])
def test_a_truncated_file_is_named(folder, name, end):
    (folder / name).write_bytes((folder / name).read_bytes()[:end])
    with pytest.raises(ValueError, match=name):
        load("mnist", folder)


def test_a_file_with_too_much_is_refused(folder):
    with (folder / "t10k-labels-idx1-ubyte").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match=r"should hold 10 bytes.* but holds 11"):
        load("mnist", folder)


def test_swapped_files_are_refused(folder):
    images, labels = (
        folder / "t10k-images-idx3-ubyte",
        folder / "t10k-labels-idx1-ubyte",
    )
    images.write_bytes(labels.read_bytes())
    with pytest.raises(ValueError, match=r"should begin with the number 2051"):
        load("mnist", folder)


def test_an_empty_set_is_refused(folder):
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(0)))
    with pytest.raises(ValueError, match="and some data"):
        load("mnist", folder)


@pytest.mark.parametrize("cut", [slice(-9), slice(5), slice(1, None)])
def test_a_broken_gzip_file_is_refused(folder, cut):
    path = folder / "train-images-idx3-ubyte"
    content = gzip.compress(path.read_bytes())
    path.unlink()
    path.with_name(f"{path.name}.gz").write_bytes(content[cut])
    with pytest.raises(ValueError, match=r"ubyte\.gz is not a whole gzip file"):
        load("mnist", folder)


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
        load("mnist", folder)


def test_an_original_is_known_by_its_checksum(folder, monkeypatch):
    for name in FILES:
        content = (folder / name).read_bytes()
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        (folder / name).unlink()
        md5 = hashlib.md5(content).hexdigest()
        monkeypatch.setitem(published.CHECKSUMS, name, md5)
    assert len(load("mnist", folder, verify=True)[0][0]) == 6


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "train-images-idx3-ubyte"),
        ("cifar10", "cifar-10-batches-py/data_batch_1"),
        ("cifar100", "cifar-100-python/train"),
        ("svhn", "train_32x32.mat"),
    ],
)
def test_a_file_that_is_not_the_published_one_is_refused(tmp_path, name, file):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"another")
    md5 = published.CHECKSUMS[path.name]
    with pytest.raises(ValueError, match=f"{file} is not .* {md5}; --unverified"):
        load(name, tmp_path, verify=True)


# CIFAR-10 and CIFAR-100. A row holds the red of all pixels, then the green and blue.


def batch(points, key="labels", classes=10, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (points, 3072), np.uint8)
    return {b"data": rows, key.encode(): rng.integers(0, classes, points).tolist()}


def write(path, entries):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(entries))


@pytest.fixture(params=["the folder", "the one that it is in"])
def cifar10(tmp_path, request):
    folder = tmp_path / "cifar-10-batches-py"
    for number in range(1, 6):
        write(folder / f"data_batch_{number}", batch(number, seed=number))
    write(folder / "test_batch", batch(2))
    return folder if request.param == "the folder" else tmp_path


def pixels(rows):
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def test_cifar10_is_the_batches_in_their_order(cifar10):
    (images, labels), test = load("cifar10", cifar10)
    batches = [batch(number, seed=number) for number in range(1, 6)]
    rows = np.concatenate([entries[b"data"] for entries in batches])
    np.testing.assert_array_equal(images, pixels(rows))
    expected = [label for entries in batches for label in entries[b"labels"]]
    assert labels.tolist() == expected
    np.testing.assert_array_equal(test[0], pixels(batch(2)[b"data"]))
    assert labels.dtype == np.int32 and images.dtype == np.uint8


def test_cifar100_has_the_fine_labels(tmp_path):
    for name, points in (("train", 5), ("test", 2)):
        entries = batch(points, "fine_labels", classes=100)
        coarse = {b"coarse_labels": [0] * points}
        write(tmp_path / "cifar-100-python" / name, entries | coarse)
    (_, labels), (_, others) = load("cifar100", tmp_path)
    assert labels.tolist() == batch(5, "fine_labels", 100)[b"fine_labels"]
    assert len(others) == 2 and max(labels) > 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"data": None}, "'data' as bytes of shape .2, 3072., but holds None"),
        ({b"data": np.zeros((3, 3072), np.uint8)}, r"but holds uint8 of shape \(3,"),
        ({b"data": np.zeros((2, 784), np.uint8)}, r"of shape \(2, 784\)"),
        ({b"labels": [0, 10]}, "labels of 10 classes only"),
        ({b"labels": [-1, 0]}, "labels of 10 classes only"),
        ({b"labels": [0.5, 1.0]}, "one integer a point"),
        ({b"labels": []}, "some labels"),
    ],
)
def test_a_batch_of_something_else_is_refused(cifar10, change, message):
    (path,) = cifar10.rglob("test_batch")
    write(path, batch(2) | change)
    with pytest.raises(ValueError, match=f"test_batch should hold .*{message}") as info:
        load("cifar10", cifar10)
    assert "\n" not in str(info.value)


def test_a_batch_without_labels_is_refused(cifar10):
    (path,) = cifar10.rglob("test_batch")
    write(path, {b"data": batch(2)[b"data"], b"fine_labels": [1, 2]})
    with pytest.raises(ValueError, match="test_batch should hold 'labels', not only"):
        load("cifar10", cifar10)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "cifar-10-batches-py/data_batch_1"),
        ("cifar100", "cifar-100-python/train"),
        ("svhn", "train_32x32.mat"),
    ],
)
def test_a_missing_or_damaged_file_is_named(tmp_path, name, file):
    with pytest.raises(FileNotFoundError, match=f"{file} is missing"):
        load(name, tmp_path)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(pickle.dumps(batch(3))[:1000])
    with pytest.raises(ValueError, match=f"{file} is not a"):
        load(name, tmp_path)


# SVHN.


def svhn(folder, labels=(10, 1, 9), shape=(32, 32, 3, 3), dtype=np.uint8):
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8).astype(dtype)
    variables = {"X": images, "y": np.array(labels, np.uint8)[:, None]}
    for name in ("train_32x32.mat", "test_32x32.mat"):
        scipy.io.savemat(folder / name, variables, do_compression=True)
    return images


def test_svhn_has_the_points_last_and_10_for_the_digit_0(tmp_path):
    images = svhn(tmp_path)
    for points, labels in load("svhn", tmp_path):
        np.testing.assert_array_equal(points[2], images[..., 2])
        assert labels.tolist() == [0, 1, 9] and labels.dtype == np.int32


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": (11, 1, 2)}, "labels of 10 classes only"),
        ({"labels": (0, 1, 2)}, "labels of 10 classes only"),
        ({"labels": (1, 2)}, r"'X' as bytes of shape \(32, 32, 3, 2\)"),
        ({"dtype": np.float64}, "but holds float64"),
        ({"shape": (3, 32, 32, 3)}, r"but holds uint8 of shape \(3, 32"),
    ],
)
def test_other_variables_of_svhn_are_refused(tmp_path, wrong, message):
    svhn(tmp_path, **wrong)
    with pytest.raises(ValueError, match=f"mat should hold .*{message}"):
        load("svhn", tmp_path)
