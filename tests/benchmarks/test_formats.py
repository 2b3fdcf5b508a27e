"""The readers of formats: pickles of both Pythons, and those that would run code."""

import collections
import io
import os
import pickle
import subprocess

import numpy as np
import pytest
import scipy.io

from benchmarks import formats


ROWS = np.arange(12, dtype=np.uint8).reshape(3, 4)


def text(value):
    return b"U" + bytes([len(value)]) + value


def python2_pickle():
    """A batch as Python 2 pickled it, byte for byte but for its sizes."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
        + text(b"b")
        + b"\x87R(K\x01K\x03K\x04\x86cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + text(ROWS.tobytes())
        + b"tb"
    )
    labels = b"](K\x06K\x01K\x09e"
    return b"".join(
        [b"\x80\x02}(", text(b"labels"), labels, text(b"data"), array, b"u."]
    )


def test_a_pickle_of_python_2_is_read():
    values = formats.pickled_dict(python2_pickle())
    assert set(values) == {"labels", "data"} and values["labels"] == [6, 1, 9]
    np.testing.assert_array_equal(values["data"], ROWS)
    assert values["data"].dtype == np.uint8


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("key", ["data", b"data"])
def test_a_pickle_of_python_3_is_read(protocol, key):
    content = pickle.dumps({key: ROWS, "names": ["a", b"b"]}, protocol)
    values = formats.pickled_dict(content)
    np.testing.assert_array_equal(values["data"], ROWS)
    assert values["names"] == ["a", b"b"]


class Hostile:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Hostile(os.system, "exit 1"), "system"),
        (Hostile(eval, "1"), "eval"),
        (Hostile(subprocess.Popen, "ls"), "Popen"),
        (Hostile(np.load, "file"), "numpy.load"),
        (collections.OrderedDict(), "collections.OrderedDict"),
    ],
)
def test_a_pickle_that_names_anything_else_is_refused(value, name, protocol):
    content = pickle.dumps({"data": value}, protocol)
    with pytest.raises(
        ValueError, match=f"is not a pickle of bytes: it asks for.*{name}"
    ):
        formats.pickled_dict(content)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("array", [np.zeros(2), np.zeros(2, object), np.zeros(2, "V8")])
def test_an_array_of_anything_but_bytes_is_refused(array, protocol):
    content = pickle.dumps({"data": array}, protocol)
    with pytest.raises(ValueError, match=r"it has numbers of the type '(f8|O8?|V8)'"):
        formats.pickled_dict(content)


def test_the_order_of_the_rows_is_kept():
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        content = pickle.dumps({"data": np.asfortranarray(ROWS)}, protocol)
        np.testing.assert_array_equal(formats.pickled_dict(content)["data"], ROWS)


def test_other_codecs_are_refused():
    content = pickle.dumps({"data": b"\xff"}, 2).replace(b"latin1", b"rot_13")
    with pytest.raises(ValueError, match="the codec 'rot_13'"):
        formats.pickled_dict(content)


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x02}", b"\x80\xff", b"R."])
def test_what_is_no_pickle_is_refused_in_one_line(content):
    with pytest.raises(ValueError, match=r"is not a pickle of bytes: .") as info:
        formats.pickled_dict(content)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("end", [1, 20, 100, -1])
def test_a_truncated_pickle_is_refused(end):
    with pytest.raises(ValueError, match="is not a pickle of bytes"):
        formats.pickled_dict(python2_pickle()[:end])


def test_a_pickle_of_something_else_is_refused():
    with pytest.raises(ValueError, match="should hold a dictionary, not a list"):
        formats.pickled_dict(pickle.dumps([ROWS]))


@pytest.mark.parametrize("content", [b"", b"text", b"MATLAB 5.0 MAT-file" + bytes(500)])
def test_what_is_no_matlab_file_is_refused(content):
    with pytest.raises(ValueError, match=r"is not a MATLAB file: .") as info:
        formats.mat(content, "X")
    assert "\n" not in str(info.value)


def test_missing_variables_are_named():
    file = io.BytesIO()
    scipy.io.savemat(file, {"X": ROWS})
    (array,) = formats.mat(file.getvalue(), "X")
    np.testing.assert_array_equal(array, ROWS)
    with pytest.raises(ValueError, match="should hold the variables X, y"):
        formats.mat(file.getvalue(), "X", "y")
