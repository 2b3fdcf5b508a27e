"""The toy updates of figure 2, worked out by hand."""

import pytest

from benchmarks.toy_updates import toy_updates


WORKED_OUT = {
    ("b", "sgd", "balanced"): ([[[2]], [[2]]], [4]),
    ("b", "path_sgd", "balanced"): ([[[2]], [[2]]], [4]),
    # Gradients of -0.01 and -100.
    ("b", "sgd", "unbalanced"): ([[[100.01]], [[100.01]]], [10002.0001]),
    ("b", "path_sgd", "unbalanced"): ([[[200]], [[0.02]]], [4]),
    ("c", "sgd", "balanced"): ([[[3, 3]] * 2] * 2, [36, 36]),
    ("c", "path_sgd", "balanced"): ([[[2, 2]] * 2] * 2, [16, 16]),
    ("c", "sgd", "unbalanced"): (
        [[[100.02, 3]] * 2, [[200.01] * 2, [3, 3]]],
        [40028.0004] * 2,
    ),
    ("c", "path_sgd", "unbalanced"): (
        [[[200, 2]] * 2, [[0.02] * 2, [2, 2]]],
        [16, 16],
    ),
}


@pytest.mark.parametrize("update", toy_updates(), ids=lambda update: str(update[:3]))
def test_steps_are_those_worked_out_by_hand(update):
    kernels, outputs = WORKED_OUT[update[:3]]
    for layer, expected in zip(update.new_kernels, kernels, strict=True):
        for row, wanted in zip(layer, expected, strict=True):
            assert row == pytest.approx(wanted, rel=1e-6)
    assert update.new_outputs == pytest.approx(outputs, rel=1e-6)


def test_both_starts_are_of_the_same_function():
    outputs = {(u.example, u.optimizer, u.init): u.outputs for u in toy_updates()}
    assert set(outputs) == set(WORKED_OUT)
    for example, optimizer, _ in WORKED_OUT:
        balanced, unbalanced = (
            outputs[example, optimizer, init] for init in ("balanced", "unbalanced")
        )
        assert balanced == pytest.approx(unbalanced, rel=1e-6)
