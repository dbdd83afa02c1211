import numpy as np
import pytest
import torch
from lmc_fast import barrier, barrier_matrix, plane
from lmc_fast.barrier import normalise
from lmc_fast.nets import MLP
from test_barrier import Residual, images, vectors
from torch import nn


def nets(make, count=3):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [make().eval() for _ in range(count)]


def empirical(monkeypatch):
    monkeypatch.setattr(normalise, "joint_moments", lambda *args, **options: {})


@pytest.mark.parametrize(
    ("make", "data", "norm"),
    [
        (lambda: MLP((4, 9, 3)), vectors(70), "repair"),
        (lambda: MLP((4, 9, 7, 3)), vectors(70), "repair"),
        (lambda: Residual(int(torch.randint(0, 99, ()))), images(), "reset"),
        (lambda: Residual(int(torch.randint(0, 99, ()))), images(), "repair"),
    ],
)
@pytest.mark.parametrize("split", [False, True])
def test_closed_form_statistics_equal_the_empirical_ones(make, data, norm, split, monkeypatch):
    models = nets(make)
    x, y = data
    source = [(x[:50], y[:50]), (x[50:], y[50:])] if split else data
    closed = plane(*models, source, resolution=3, norm=norm)
    line = barrier(*models[:2], source, alphas=5, norm=norm)
    empirical(monkeypatch)
    np.testing.assert_allclose(
        closed.loss, plane(*models, source, resolution=3, norm=norm).loss, rtol=2e-5
    )
    np.testing.assert_allclose(
        line.loss, barrier(*models[:2], source, alphas=5, norm=norm).loss, rtol=1e-5
    )


def test_one_hidden_layer_is_repaired_without_a_pass_at_any_point(monkeypatch):
    models = nets(lambda: MLP((4, 9, 3)))
    passes = []
    for name in ("moments_up_to", "output_moments", "call_with"):
        real = getattr(normalise, name)

        def counting(*args, _real=real, _name=name):
            # With no layer left, no moments are recorded and nothing runs.
            passes.extend([_name] if _name != "output_moments" or args[3] else [])
            return _real(*args)

        monkeypatch.setattr(normalise, name, counting)
    barrier_matrix(models, vectors(), alphas=11, norm="repair")
    assert not passes
    empirical(monkeypatch)
    barrier_matrix(models, vectors(), alphas=3, norm="repair")
    assert passes


class Shifted(nn.Module):
    """A layer whose input depends on a weight: it is not linear in the weights."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.randn(4))
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(torch.relu(self.first(x + self.shift)))


def test_a_layer_fed_by_weights_is_measured():
    models = nets(Shifted)
    x, y = vectors(70)
    curve = barrier(*models[:2], (x, y), alphas=3, norm="repair")
    with torch.no_grad():
        middle = Shifted()
        for p, a, b in zip(*(m.parameters() for m in (middle, *models[:2])), strict=True):
            p.copy_((a + b) / 2)
        moments = []
        for net in (*models[:2], middle):
            z = net.first(x + net.shift)
            moments.append((z.mean(0), z.std(0, correction=0)))
        (ma, sa), (mb, sb), (m, s) = moments
        z = middle.first(x + middle.shift)
        hidden = torch.relu((z - m) / s * (sa + sb) / 2 + (ma + mb) / 2)
        wanted = nn.functional.cross_entropy(middle.last(hidden), y)
    assert curve.loss[1] == pytest.approx(float(wanted), rel=1e-5)
