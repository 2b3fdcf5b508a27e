"""The formats of published data sets, read into arrays and never executed.

What isn't of its format raises a `ValueError` that says what was expected.
"""

import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat


def idx(content: bytes, magic: int, axes: int) -> NDArray[np.uint8]:
    """The array of an idx file: a magic number, the size of each axis, the bytes."""
    header = 4 * (1 + axes)
    if len(content) < header or int.from_bytes(content[:4]) != magic:
        raise ValueError(
            f"is not an idx file of bytes with {axes} axes: it should begin "
            f"with the number {magic} and the size of each axis."
        )
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], dtype=">u4"))
    expected = header + math.prod(shape)
    if not len(content) == expected > header:
        raise ValueError(
            f"should hold {expected} bytes, of which {header} say its shape "
            f"{shape}, and some data, but holds {len(content)}."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def pickled_dict(content: bytes) -> dict[str, Any]:
    """The dictionary of a pickle of plain values and of numpy arrays of bytes.

    The keys of Python 2 are bytes, and become text.
    """
    values = _attempt(lambda: _ArrayUnpickler(content).load(), "a pickle of bytes")
    if not isinstance(values, dict):
        raise ValueError(f"should hold a dictionary, not a {type(values).__name__}.")
    return {_text(key): _plain(value) for key, value in values.items()}


def mat(content: bytes, *names: str) -> tuple[NDArray[Any], ...]:
    """Some variables of a MATLAB file."""
    values = _attempt(
        lambda: loadmat(io.BytesIO(content), variable_names=names), "a MATLAB file"
    )
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(f"should hold the variables {', '.join(names)}.")
    return tuple(values[name] for name in names)


def _attempt(read: Callable[[], Any], kind: str) -> Any:
    """Reads what may be damaged in any way, and so raise anything."""
    try:
        return read()
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"is not {kind}: {reason.rstrip('.')}.") from error


def _plain(value: Any) -> Any:
    return value.values if isinstance(value, _Array) else value


def _text(key: Any) -> str:
    return key.decode(errors="replace") if isinstance(key, bytes) else str(key)


# Pickles name what rebuilds their objects, and numpy's own can be misled by a made-up
# type. The images are bytes, so that stand-ins can rebuild them.


class _Type:
    """A type of numbers, of which there is one."""

    def __init__(self, name: Any, *options: Any) -> None:
        if _text(name) != "u1":
            raise pickle.UnpicklingError(f"it has numbers of the type {_text(name)!r}")

    def __setstate__(self, state: Any) -> None:
        """Bytes have no order, which is what this would set."""


class _Array:
    """An array before and after its content is known."""

    def __init__(self, *arguments: Any) -> None:
        self.values = np.zeros(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, _, by_columns, content = state
        flat = np.frombuffer(content, np.uint8)
        self.values = flat.reshape(shape, order="F" if by_columns else "C")


def _from_buffer(content: Any, kind: Any, shape: Any, order: str) -> _Array:
    """What protocol 5 calls."""
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", content))
    return array


def _encode(text: str, encoding: str) -> bytes:
    """The bytes that protocol 2 of Python 3 keeps as text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Reads the pickles of Python 2 and 3, and calls nothing but the above."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")
        return _ALLOWED[module_name, global_name]
