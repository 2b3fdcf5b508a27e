"""NamedTuples that `jax.export` can write down."""

import contextlib
from typing import TypeVar

from jax import export


T = TypeVar("T")


def serializable(kind: type[T]) -> type[T]:
    """Lets `jax.export` serialize functions that take or return this NamedTuple."""
    package, _, _ = kind.__module__.partition(".")
    with contextlib.suppress(ValueError):  # it is known already
        export.register_namedtuple_serialization(
            kind, serialized_name=f"{package}.{kind.__name__}"
        )
    return kind
