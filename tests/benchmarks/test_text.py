"""Texts as tokens."""

import hashlib

import numpy as np
import pytest

from benchmarks.text import LENGTH, python_sources, read, tokenize


@pytest.mark.parametrize("name", ["a text", "another"])
def test_tokens_are_the_places_of_characters(name):
    written = "bÀnana😀 " * 200
    text = tokenize(name, written)
    characters = np.array(sorted(set(written)))
    both = np.concatenate([text.train, text.validation])
    assert "".join(characters[both]) == written
    assert text.vocabulary == len(characters)
    assert len(text.validation) == 160
    assert text.train.dtype == text.validation.dtype == np.int32
    assert text.name == name
    assert text.digest == hashlib.sha256(written.encode()).hexdigest()


def test_the_library_of_python_is_ascii_and_cut():
    text = python_sources()
    assert len(text.train) + len(text.validation) == LENGTH
    assert 90 <= text.vocabulary <= 128
    assert python_sources().digest == text.digest


def test_a_file_is_read(tmp_path):
    path = tmp_path / "poem.txt"
    path.write_text("rose " * 300, "utf-8")
    text = read(path)
    assert (text.name, text.vocabulary) == ("poem.txt", 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff" * 2000, "is no text in UTF-8"),
        (b"short", "poem.txt has 5 characters: choose a text of 1000 or more"),
    ],
)
def test_what_is_no_text_is_refused(content, message, tmp_path):
    path = tmp_path / "poem.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(path)
