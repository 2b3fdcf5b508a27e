"""How benchmarks tell what they have measured."""

from collections.abc import Mapping
from typing import Any


def report(benchmark: Any, numbers: Mapping[str, float]) -> None:
    """Prints the numbers, and keeps them in the benchmark's record."""
    benchmark.extra_info.update(numbers)
    for name, number in numbers.items():
        print(f"\n{name}: {number:.3f}", end="")
