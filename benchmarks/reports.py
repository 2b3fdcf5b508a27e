"""How benchmarks measure interleaved steps, and tell what they have measured."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


def interleaved(
    benchmark: Any,
    steps: Mapping[str, Callable[..., Any]],
    states: dict[str, Any],
    rounds: int,
    warmup_rounds: int,
) -> dict[str, np.ndarray]:
    """Takes the steps in turn, each on the state that it returns: their seconds."""
    times: dict[str, list[float]] = {name: [] for name in steps}

    def one_round() -> None:
        for name, step in steps.items():
            start = time.perf_counter()
            states[name] = step(*states[name])
            jax.block_until_ready(states[name])
            times[name].append(time.perf_counter() - start)

    benchmark.pedantic(one_round, rounds=rounds, warmup_rounds=warmup_rounds)
    return {name: np.array(seconds) for name, seconds in times.items()}


def ratios(times: Mapping[str, np.ndarray], to: str) -> dict[str, float]:
    """The medians of the ratios to one of them."""
    return {f"{name} / {to}": np.median(times[name] / times[to]) for name in times}


def report(benchmark: Any, numbers: Mapping[str, float]) -> None:
    """Prints the numbers, and keeps them in the benchmark's record."""
    benchmark.extra_info.update(numbers)
    for name, number in numbers.items():
        print(f"\n{name}: {number:.3f}", end="")
