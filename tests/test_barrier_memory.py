import ctypes
import gc
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


def resident(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field}")


def growth(call):
    """Return by how much the peak of resident memory exceeds what was held before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before


def spec_of(net):
    first, second = (linear.out_features for linear in net.linears)
    return PermutationSpec.parse(
        f"""
        first = {first}
        second = {second}
        linears.0.weight: first {net.linears[0].in_features}
        linears.0.bias: first
        linears.1.weight: second first
        linears.1.bias: second
        head.weight: {net.head.out_features} second
        head.bias: {net.head.out_features}
        """
    )


def case(name, limit, examples):
    """Return an evaluation of some examples under a limit."""
    if name == "deep":
        nets = [MLP((784, 512, 512, 512, 10)) for _ in range(2)]
        data = torch.rand(examples, 784), torch.randint(0, 10, (examples,))
        return lambda: barrier(*nets, data, alphas=5, max_memory=limit)
    if name == "population":
        nets = [MLP((64, 256, 128, 10)) for _ in range(10)]
        spec = spec_of(nets[0])
        generator = torch.Generator().manual_seed(0)
        pairs = [(i, j) for j in range(10) for i in range(j)]
        moves = {p: lmc_fast.random_permutation(spec, generator=generator) for p in pairs}
        data = torch.rand(examples, 64), torch.randint(0, 10, (examples,))
        return lambda: barrier_matrix(
            nets, data, permutations=moves, spec=spec, alphas=11, max_memory=limit
        )
    nets = [resnet20(16) for _ in range(2)]
    data = torch.rand(examples, 3, 32, 32), torch.randint(0, 10, (examples,))
    return lambda: barrier(*nets, data, alphas=3, max_memory=limit, norm=name)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident memory from /proc")
@pytest.mark.parametrize(
    ("name", "limit", "examples"),
    [("deep", 10 * MIB, 2500), ("population", 12 * MIB, 400), ("keep", 40 * MIB, 40),
     ("reset", 64 * MIB, 24)],
)  # fmt: skip
def test_resident_memory_stays_under_the_limit(name, limit, examples):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # What libraries set up at their first use is not the evaluation's.
        case(name, limit, 8)()
        assert growth(case(name, limit, examples)) <= limit
        if name in ("deep", "population"):
            # It is the limit that holds it.
            assert growth(case(name, 1024 * MIB, examples)) > limit
    finally:
        torch.set_num_threads(threads)


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
    net = MLP((4, 64, 64, 3))
    spec = spec_of(net)
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
