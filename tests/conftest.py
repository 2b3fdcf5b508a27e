"""Strict JAX, eight simulated devices, and double precision where a test asks for it.

Tests run as users do, without x64, unless they carry the mark ``x64``. Those with the
mark ``optax`` run Optax's own code, which needs implicit promotion.
"""

import gc
import os

import jax
import numpy as np
import pytest
from hypothesis import settings

from tests.programs import XLA_FLAGS


DEVICES = "--xla_force_host_platform_device_count=8"

# XLA reads them when it is first used.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {XLA_FLAGS} {DEVICES}"


jax.config.update("jax_numpy_rank_promotion", "raise")

# Traces are millions of short-lived tuples, hardly any of them in a cycle.
gc.set_threshold(50_000)

settings.register_profile("pathsgd", deadline=None, max_examples=10, derandomize=True)
settings.load_profile("pathsgd")


def pytest_configure(config):
    config.addinivalue_line("markers", "x64: run with jax_enable_x64.")
    config.addinivalue_line("markers", "optax: run with implicit dtype promotion.")


@pytest.fixture(autouse=True)
def _x64(request):
    with jax.enable_x64(request.node.get_closest_marker("x64") is not None):
        yield


@pytest.fixture(autouse=True, scope="module")
def _programs():
    """Lets go of a module's programs, of which a worker else keeps gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _promotion(request):
    lenient = request.node.get_closest_marker("optax") is not None
    with jax.numpy_dtype_promotion("standard" if lenient else "strict"):
        yield


@pytest.fixture(scope="session")
def digits():
    """Handwritten digits: images (1797, 64) in [0, 1] and labels (1797,)."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images / 16, labels.astype(np.int32)
