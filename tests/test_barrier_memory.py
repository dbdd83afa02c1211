import json
import subprocess
import sys
from pathlib import Path

import lmc_fast
import pytest
import torch
from lmc_fast import PermutationSpec, barrier, barrier_matrix
from lmc_fast.nets import MLP, resnet20
from test_barrier import images, mlp, vectors
from torch import nn

MIB = 1 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident memory from /proc")
def test_resident_memory_stays_under_the_limit():
    cases = [
        ("deep", 32 * MIB, 1500),
        ("deep", 1024 * MIB, 1500),
        ("population", 16 * MIB, 500),
        ("population", 1024 * MIB, 500),
        ("keep", 40 * MIB, 60),
        ("reset", 64 * MIB, 60),
    ]
    probe = Path(__file__).parent / "barrier_memory_probe.py"
    run = subprocess.run(
        [sys.executable, str(probe), json.dumps(cases)], capture_output=True, text=True, check=True
    )
    grown = json.loads(run.stdout)
    for name, limit, _ in cases:
        assert grown[f"{name} {limit}"] <= limit, grown
    # Without the limit they would take more: it is the limit that holds them.
    for name, limit in (("deep", 32 * MIB), ("population", 16 * MIB)):
        assert grown[f"{name} {1024 * MIB}"] > limit, grown


class OverBatch(nn.Module):
    """Outputs that depend on the other examples of the batch, also in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        z = self.first(x)
        return self.last(z - z.mean(0))


def test_a_limit_that_cannot_be_kept_is_refused():
    with pytest.raises(ValueError, match="max_memory is 500 bytes, but one point and one example"):
        barrier(mlp(0), mlp(1), vectors(), max_memory=500)
    with pytest.raises(ValueError, match="max_memory is 100000 bytes"):
        barrier(resnet20(4), resnet20(4), (torch.rand(4, 3, 32, 32), torch.arange(4)),
                norm="keep", max_memory=100_000)  # fmt: skip
    with pytest.raises(ValueError, match="calibration example"):
        barrier(resnet20(4), resnet20(4), (torch.rand(4, 3, 32, 32), torch.arange(4)),
                norm="reset", max_memory=200_000)  # fmt: skip
    with pytest.raises(ValueError, match="one point and one batch"):
        barrier(OverBatch(), OverBatch(), vectors(400), max_memory=20_000)
    net = MLP((4, 64, 3))
    spec = PermutationSpec.from_model(net, vectors()[0][:2])
    moves = {(0, 1): lmc_fast.identity_permutation(spec)}
    with pytest.raises(ValueError, match="permuted copy"):
        barrier_matrix([net, net], vectors(), permutations=moves, spec=spec, max_memory=2000)


def test_examples_are_split_only_where_they_stand_alone():
    nets = [OverBatch() for _ in range(2)]
    x, y = vectors(400)
    curve = barrier(*nets, (x, y), alphas=3)
    with torch.no_grad():
        wanted = float(nn.functional.cross_entropy(nets[0](x), y))
    assert curve.loss[0] == pytest.approx(wanted, rel=1e-6)


def test_a_convolutional_net_gives_the_same_in_small_blocks():
    nets = [resnet20(4).eval() for _ in range(2)]
    x = torch.rand(23, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    data = x, images(23)[1]
    free = barrier(*nets, data, alphas=3, norm="keep")
    held = barrier(*nets, data, alphas=3, norm="keep", max_memory=2_000_000)
    assert held.loss == pytest.approx(free.loss, rel=1e-6)
