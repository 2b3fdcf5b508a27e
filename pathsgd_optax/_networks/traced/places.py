"""Where an operation stands: JAX's function, the modules, and the user's own line."""

import functools
import inspect
import itertools
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn


FUNCTIONS = {"jax.nn": jax.nn, "jnp.linalg": jnp.linalg, "jnp.fft": jnp.fft, "jnp": jnp}
"""Where the names are that users know operations by."""

INSTALLED = frozenset(["site-packages", "dist-packages"])
"""The folders of packages that are not the user's own."""

LIBRARIES = ("jax", "flax", "pathsgd_optax")
"""Packages that are not the user's own, wherever they are installed."""


def place(eqns: Sequence[JaxprEqn]) -> str:
    """The place of the last of these equations, each of which has called the next."""
    frames = [frame for eqn in reversed(eqns) for frame in _frames(eqn)]
    inner = itertools.takewhile(lambda frame: _is_installed(_file(frame)), frames)
    names = [name for frame in inner if (name := _public_name(frame))]
    name = names[-1] if names else ""
    known = name.rpartition(".")[2] == eqns[-1].primitive.name
    scope = "/".join(filter(None, (str(e.source_info.name_stack) for e in eqns)))
    lines = (
        f"{_file(frame).name}:{frame.line_num}"
        for frame in frames
        if not _is_installed(_file(frame))
    )
    line = next(lines, "")
    scope = scope or ("" if line else _method(frames))
    parts = {"of": "" if known else name, "in": scope, "at": line}
    return "".join(f" {word} {part}" for word, part in parts.items() if part)


def _frames(eqn: JaxprEqn) -> Sequence[Any]:
    """The calls that have led to an equation, the innermost first."""
    traceback: Any = eqn.source_info.traceback
    return traceback.frames if traceback else ()


def _file(frame: Any) -> Path:
    return Path(frame.file_name)


def _method(frames: Sequence[Any]) -> str:
    """The innermost method that isn't JAX's, such as that of a layer of nnx."""
    names = (
        frame.function_name
        for frame in frames
        if not _file(frame).is_relative_to(_package("jax"))
    )
    return next((name for name in names if "." in name and "<" not in name), "")


def _public_name(frame: Any) -> str:
    """The function of JAX that is running in a frame, as users write it."""
    name = frame.function_name
    if _file(frame).is_relative_to(_package("jax")):
        for prefix, module in FUNCTIONS.items():
            function: Any = getattr(module, name, None)
            code = getattr(inspect.unwrap(function), "__code__", None)
            if code is not None and code.co_filename == frame.file_name:
                return f"{prefix}.{name}"
    return ""


@functools.cache
def _is_installed(file: Path) -> bool:
    """Whether a file is a library's, not the user's."""
    folders = [Path(sysconfig.get_paths()["stdlib"]), *_packages()]
    return (
        not INSTALLED.isdisjoint(file.parts)
        or file.name.startswith("<frozen")
        or any(file.is_relative_to(folder) for folder in folders)
    )


def _packages() -> Iterator[Path]:
    return (_package(name) for name in LIBRARIES if name in sys.modules)


def _package(name: str) -> Path:
    return Path(sys.modules[name].__file__ or "").parent
