"""Texts to learn, in characters: the standard library's sources, or any file."""

import hashlib
import sysconfig
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


SOURCES = 120
"""Modules of the standard library that are read, the first by name."""

LENGTH = 1_200_000
"""Characters that are kept, from the beginning."""

SHORTEST = 1000

VALIDATION_SHARE = 1 / 10
"""The end of a text, which isn't trained on."""


class Text(NamedTuple):
    """A text; a token is the place of a character among those that occur in it."""

    name: str
    digest: str
    vocabulary: int
    train: NDArray[np.int32]
    validation: NDArray[np.int32]


def python_sources() -> Text:
    """The sources of the standard library, of this version of Python, in ASCII."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:SOURCES]
    sources = (path.read_text("utf-8", errors="ignore") for path in paths)
    text = "".join(sources).encode("ascii", errors="ignore").decode()
    return tokenize("Python's standard library", text)


def read(path: Path) -> Text:
    """The text in a file.

    Args:
      path: a file in UTF-8.

    Returns:
      Its text, by the name of the file.

    Raises:
      ValueError: if it isn't UTF-8, or too short.
      OSError: if it can't be read.
    """
    try:
        return tokenize(path.name, path.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8.") from error


def tokenize(name: str, text: str) -> Text:
    """The beginning of a text as tokens."""
    text = text[:LENGTH]
    if len(text) < SHORTEST:
        raise ValueError(
            f"{name} has {len(text)} characters: choose a text of {SHORTEST} or more."
        )
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    characters, places = np.unique(codes, return_inverse=True)
    train, validation = np.split(
        places.astype(np.int32), [round(len(text) * (1 - VALIDATION_SHARE))]
    )
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Text(name, digest, len(characters), train, validation)
