import copy

import lmc_fast
import numpy as np
import pytest
import torch
from lmc_fast import PermutationSpec, barrier, match
from lmc_fast.barrier.folded import folded_runner
from lmc_fast.barrier.points import module_state
from lmc_fast.nets import MLP, resnet20
from test_barrier import Residual, images, naive_curve, vectors
from torch import nn


class Viewed(nn.Module):
    """Takes apart the memory of its feature map, which channels last would forbid."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(1))
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4, affine=False)
        self.head = nn.Linear(144, 3)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x * self.scale))).view(x.shape[0], -1))


class Branching(nn.Module):
    """Cannot be traced: what it does depends on the data."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(64, 3)

    def forward(self, x):
        x = self.conv(x)
        return self.head((x if x.sum() > 0 else -x).flatten(1))


class Reused(nn.Module):
    """A convolution that a BatchNorm and the sum beside it both read."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.conv(x)
        return self.head((x + self.norm(x)).mean((2, 3)))


def pair(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = [make().eval() for _ in range(2)]
        for net in nets:
            for module in net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.running_mean, -1, 1)
                    nn.init.uniform_(module.running_var, 0.5, 2)
    return nets


def colours(n=6):
    x, y = images(n)
    return x.repeat(1, 3, 2, 2), y


@pytest.mark.parametrize(
    ("make", "data", "folds"),
    [
        (lambda: resnet20(4), colours(), 21),
        (lambda: Residual(1), images(), 2),
        (Viewed, images(), 1),
        (Reused, images(), 0),
        (Branching, images(), None),
    ],
    ids=["resnet", "residual", "viewed", "reused", "branching"],
)
def test_folding_gives_what_a_float64_loop_gives(make, data, folds):
    a, b = pair(make)
    before = copy.deepcopy(a.state_dict())
    curve = barrier(a, b, data, alphas=4, norm="keep")
    loss, error = naive_curve(a, b, data, curve.alphas)
    np.testing.assert_allclose(curve.loss, loss, rtol=1e-5)
    np.testing.assert_allclose(curve.error, error, atol=1e-12)
    with torch.no_grad():
        runner = folded_runner(a, module_state(a), data[0][:4])
    assert (None if runner is None else len(runner._folds)) == folds
    assert all(torch.equal(value, before[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize("method", ["weights", "activations"])
def test_a_permuted_copy_has_no_barrier_after_matching(method):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MLP((4, 24, 16, 3)).eval()
    x, y = vectors()
    spec = PermutationSpec.from_model(net, x[:2])
    p = lmc_fast.random_permutation(spec, generator=torch.Generator().manual_seed(1))
    moved = copy.deepcopy(net)
    moved.load_state_dict(lmc_fast.apply_permutation(spec, p, net.state_dict()))
    found = match(net, moved, method=method, data=x if method == "activations" else None, spec=spec)
    aligned = barrier(net, moved, (x, y), permutation=found, alphas=9)
    assert aligned.loss_barrier() == aligned.error_barrier() == 0.0
    raw = barrier(net, moved, (x, y), alphas=9)
    assert np.ptp(raw.loss) > 1e-4
