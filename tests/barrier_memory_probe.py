"""Prints, as JSON, how far the resident memory of evaluations grows: run by test_barrier_memory."""

import ctypes
import gc
import json
import sys
from pathlib import Path

import lmc_fast
import torch
from lmc_fast import PermutationSpec, barrier, barrier_matrix
from lmc_fast.nets import MLP, resnet20

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


def case(name, limit, examples):
    """Return an evaluation that would take far more memory than the limit."""
    torch.manual_seed(0)
    if name == "deep":
        nets = [MLP((784, 512, 512, 512, 10)) for _ in range(2)]
        data = torch.rand(examples, 784), torch.randint(0, 10, (examples,))
        return lambda: barrier(*nets, data, alphas=25, max_memory=limit)
    if name == "population":
        nets = [MLP((64, 256, 128, 10)) for _ in range(12)]
        spec = PermutationSpec.from_model(nets[0], torch.rand(2, 64))
        generator = torch.Generator().manual_seed(0)
        pairs = [(i, j) for j in range(12) for i in range(j)]
        moves = {p: lmc_fast.random_permutation(spec, generator=generator) for p in pairs}
        data = torch.rand(examples, 64), torch.randint(0, 10, (examples,))
        return lambda: barrier_matrix(
            nets, data, permutations=moves, spec=spec, alphas=11, max_memory=limit
        )
    nets = [resnet20(16) for _ in range(2)]
    data = torch.rand(examples, 3, 32, 32), torch.randint(0, 10, (examples,))
    options = {"alphas": 3, "max_memory": limit, "norm": "keep" if name == "keep" else "reset"}
    return lambda: barrier(*nets, data, **options)


def main():
    torch.set_num_threads(1)
    grown = {}
    for name, limit, examples in json.loads(sys.argv[1]):
        # What libraries set up at their first use is not the evaluation's.
        case(name, limit, 8)()
        grown[f"{name} {limit}"] = growth(case(name, limit, examples))
    print(json.dumps(grown))


if __name__ == "__main__":
    main()
