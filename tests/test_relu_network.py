"""The kernel of ReLU layers against calls of the module."""

import copy
import signal
import sys
import time
from itertools import pairwise

import lmc_fast._core as _core
import numpy as np
import pytest
import torch
from lmc_fast import barrier, simplex
from lmc_fast.barrier import engine
from lmc_fast.barrier.relu_network import ReluNetwork
from lmc_fast.nets import MLP
from torch import nn


def normalised():
    net = nn.Sequential(
        nn.Linear(6, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Linear(100, 70, bias=False),
        nn.BatchNorm1d(70), nn.ReLU(), nn.Linear(70, 3),
    )  # fmt: skip
    for module in net:
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return net


NETS = {
    "narrow": lambda: MLP((6, 7, 1, 5, 3)),
    "wide": lambda: MLP((6, 300, 130, 3)),
    "wide outputs": lambda: MLP((6, 64, 65, 201)),
    "binary": lambda: MLP((6, 20, 31, 1), binary=True),
    "normalised": normalised,
}


def networks(name, count):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [NETS[name]().eval() for _ in range(count)]


def examples(count=150, classes=2):
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(count, 6, generator=generator),
        torch.randint(0, classes, (count,), generator=generator),
    )


@pytest.fixture
def evaluated(monkeypatch):
    """How often the kernel ran."""
    calls = []
    evaluate = ReluNetwork.evaluate
    monkeypatch.setattr(ReluNetwork, "evaluate", lambda *args: calls.append(1) or evaluate(*args))
    return calls


@pytest.mark.parametrize("instruction_set", range(_core.best_instruction_set + 1))
@pytest.mark.parametrize("name", NETS)
def test_it_gives_what_calls_of_the_module_give(name, instruction_set, monkeypatch, evaluated):
    a, b, c = networks(name, 3)
    monkeypatch.setattr(_core, "best_instruction_set", instruction_set)

    def both():
        curve = barrier(a, b, examples(), alphas=4, norm="repair", per_example=True)
        mixtures = simplex([a, b, c], examples(), resolution=3, norm="keep")
        return curve.example_losses.loss, curve.error, mixtures.loss

    found = both()
    assert evaluated
    monkeypatch.setattr(engine, "layered_evaluator", lambda *args: None)
    for value, wanted in zip(found, both(), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-6)


def test_a_weight_that_is_not_finite_counts_behind_a_unit_that_is_zero(evaluated):
    a, b = networks("wide", 2)
    with torch.no_grad():
        a.linears[0].bias[5] = -1e6
        a.linears[1].weight[0, 5] = float("inf")
    wanted = copy.deepcopy(a)(examples()[0])
    assert wanted.isnan().any()
    with pytest.warns(UserWarning, match="not finite"):
        curve = barrier(a, b, examples(), alphas=3)
    assert evaluated
    assert np.isfinite(curve.loss).tolist() == [False, False, True]


def arguments(samples, points=3, widths=(130, 300, 70, 10), seed=0):
    """Return what the kernel takes for two networks, up to the layers included."""
    generator = np.random.default_rng(seed)
    share = np.linspace(0, 1, points, dtype=np.float32)
    layers = [
        (
            [generator.normal(size=(n, m)).astype(np.float32) / m**0.5 for _ in range(2)],
            [generator.normal(size=n).astype(np.float32) for _ in range(2)],
            None,
            None,
        )
        for m, n in pairwise(widths)
    ]
    return (
        generator.normal(size=(2 * widths[0], samples)).astype(np.float32),
        np.arange(2 * widths[0]).reshape(2, -1),
        np.tile(np.arange(2), (points, 1)),
        np.stack([1 - share, share], axis=1),
        None,
        None,
        layers,
    )


@pytest.mark.parametrize("samples", [1, 8, 119, 121, 500])
def test_bits_do_not_depend_on_threads_nor_on_the_other_examples(samples):
    rows, *rest = arguments(samples)
    results = []
    for threads in (1, 2, 5):
        out = np.empty((3, 10, samples), dtype=np.float32)
        _core.mixed_relu_network(rows, *rest, out, _core.best_instruction_set, threads)
        results.append(out)
    half = samples // 2
    parts = []
    for part in (rows[:, :half], rows[:, half:]):
        out = np.empty((3, 10, part.shape[1]), dtype=np.float32)
        _core.mixed_relu_network(
            np.ascontiguousarray(part), *rest, out, _core.best_instruction_set, 2
        )
        parts.append(out)
    for other in (*results[1:], np.concatenate(parts, axis=2)):
        np.testing.assert_array_equal(results[0], other)


class Interrupted(Exception):
    pass


@pytest.mark.skipif(sys.platform == "win32", reason="needs an interval timer")
def test_a_signal_interrupts_it():
    given = arguments(2000, points=400, widths=(400, 400, 400, 10))
    out = np.empty((400, 10, 2000), dtype=np.float32)

    def handler(*_):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, handler)
    start = time.perf_counter()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Interrupted):
            _core.mixed_relu_network(*given, out, _core.best_instruction_set, 1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    # All of it would take a processor several seconds.
    assert time.perf_counter() - start < 2
