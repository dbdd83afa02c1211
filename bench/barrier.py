"""Barriers against the loop that every rival uses: load_state_dict per alpha, a full pass each."""

from __future__ import annotations

import argparse
import copy
import resource
import sys
import time
from collections.abc import Callable, Iterable
from itertools import combinations
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from lmc_fast import barrier, barrier_matrix
from lmc_fast.nets import MLP, resnet20
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from bench import record
from bench.instances import mnist, network


def loop(a: nn.Module, b: nn.Module, data: Iterable[Any], alphas: int) -> list[float]:
    """Mean loss at each alpha, the rivals' way."""
    net = copy.deepcopy(a).eval()
    state_a, state_b = a.state_dict(), b.state_dict()
    losses = []
    with torch.no_grad():
        for alpha in torch.linspace(0, 1, alphas).tolist():
            net.load_state_dict(
                {
                    k: (1 - alpha) * v + alpha * state_b[k] if v.is_floating_point() else v
                    for k, v in state_a.items()
                }
            )
            total, correct, count = 0.0, 0, 0
            for x, y in data:
                out = net(x)
                total += float(F.cross_entropy(out, y, reduction="sum"))
                correct += int((out.argmax(1) == y).sum())
                count += len(y)
            losses.append(total / count)
    return losses


def paired(
    ours: Callable[[], Any], rival: Callable[[], Any], repeats: int, scale: float = 1.0
) -> dict[str, Any]:
    """Wall and processor seconds of both, alternating; the ratio is of the medians."""
    seconds: dict[str, list[float]] = {"ours": [], "rival": [], "ours_cpu": [], "rival_cpu": []}
    for _ in range(repeats):
        for name, call, factor in (("ours", ours, 1.0), ("rival", rival, scale)):
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            seconds[name].append((time.perf_counter() - wall) * factor)
            seconds[f"{name}_cpu"].append((time.process_time() - cpu) * factor)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    return {
        "seconds": seconds,
        "times_faster": median["rival"] / median["ours"],
        "times_less_cpu": median["rival_cpu"] / median["ours_cpu"],
    }


def batched(x: Tensor, y: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(size), y.split(size), strict=True))


def random_perceptrons(sizes: tuple[int, ...]) -> tuple[list[MLP], Tensor, Tensor]:
    """Two networks as they start, and 10,000 random examples."""
    nets = [MLP(sizes) for _ in range(2)]
    return nets, torch.rand(10_000, sizes[0]), torch.randint(0, sizes[-1], (10_000,))


def trained_perceptrons() -> tuple[list[MLP], Tensor, Tensor]:
    """Two networks trained on MNIST, and its 10,000 test images."""
    data = mnist()
    return [network(512, 3, seed) for seed in (0, 1)], data.test_x.flatten(1), data.test_y


def active_units(a: MLP, b: MLP, x: Tensor) -> float:
    """Mean share of hidden activations that are not zero, over five points of the segment."""
    net = copy.deepcopy(a)
    shares = []
    for alpha in (0.0, 0.25, 0.5, 0.75, 1.0):
        with torch.no_grad():
            for p, q, r in zip(net.parameters(), a.parameters(), b.parameters(), strict=True):
                p.copy_(torch.lerp(q, r, alpha))
            z = x
            for linear in net.linears:
                z = torch.relu(linear(z))
                shares.append(float((z != 0).float().mean()))
    return float(np.mean(shares))


def perceptron(nets: list[MLP], x: Tensor, y: Tensor, repeats: int) -> dict[str, Any]:
    a, b = nets
    data = batched(x, y, 500)
    result = paired(lambda: barrier(a, b, data, alphas=25), lambda: loop(a, b, data, 25), repeats)
    part = [(x[:500].double(), y[:500])]
    exact = loop(copy.deepcopy(a).double(), copy.deepcopy(b).double(), part, 25)
    ours = barrier(a, b, (x[:500], y[:500]), alphas=25)
    result["relative_error"] = float(np.abs(ours.loss / np.array(exact) - 1).max())
    result["own_barrier"] = barrier(a, a, (x[:500], y[:500]), alphas=25).loss_barrier()
    result["active_units"] = active_units(a, b, x[:1000])
    return result


def population(repeats: int, pairs: int) -> dict[str, Any]:
    nets = [MLP((2, 64, 1), binary=True) for _ in range(50)]
    data = torch.randn(512, 2), torch.randint(0, 2, (512,))
    everything = list(combinations(range(50), 2))
    some = everything[:: len(everything) // pairs][:pairs]
    result = paired(
        lambda: barrier_matrix(nets, data, alphas=11),
        lambda: [loop(nets[i], nets[j], [data], 11) for i, j in some],
        repeats,
        scale=len(everything) / pairs,
    )
    return {**result, "rival_pairs": pairs, "pairs": len(everything)}


def convolutional(repeats: int) -> dict[str, Any]:
    a, b = resnet20(16), resnet20(16)
    x, y = torch.rand(250, 3, 32, 32), torch.randint(0, 10, (250,))
    read = {"ours": 0, "rival": 0}

    def loader(name: str) -> Iterable[Any]:
        class Counting(TensorDataset):
            def __getitem__(self, index: Any) -> Any:
                read[name] += 1
                return super().__getitem__(index)

        return DataLoader(Counting(x, y), batch_size=125)

    ours, rival = loader("ours"), loader("rival")
    result = paired(
        lambda: barrier(a, b, ours, alphas=11, norm="keep"), lambda: loop(a, b, rival, 11), repeats
    )
    return {**result, "examples_read": {k: v // repeats for k, v in read.items()}}


def _peak(limit: int, examples: int, send: Any) -> None:
    a, b = MLP((784, 512, 512, 512, 10)), MLP((784, 512, 512, 512, 10))
    data = torch.rand(examples, 784), torch.randint(0, 10, (examples,))
    barrier(a, b, (data[0][:8], data[1][:8]), alphas=3, max_memory=limit)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    barrier(a, b, data, alphas=25, max_memory=limit)
    send.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)


def memory(examples: int) -> dict[str, int]:
    """Growth of the peak resident memory at two limits, each in a fresh process."""
    peaks = {}
    context = get_context("spawn")
    for limit in (16 << 20, 1 << 30):
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=_peak, args=(limit, examples, send))
        process.start()
        peaks[str(limit)] = int(receive.recv())
        process.join()
    return peaks


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench barrier", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=50, help="pairs that the loop is timed on")
    parser.add_argument(
        "--memory-examples", type=int, default=6000, help="examples of the memory measurement"
    )
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    rows: dict[str, Any] = {}
    peaks = memory(args.memory_examples)
    for name, run in (
        (
            "MLP 784-512-10, 25 alphas, 10k examples",
            lambda: perceptron(*random_perceptrons((784, 512, 10)), args.repeats),
        ),
        (
            "all pairs of 50 Moons nets of width 64, 11 alphas",
            lambda: population(args.repeats, args.pairs),
        ),
        (
            "ResNet-20, 11 alphas, 250 images through a DataLoader",
            lambda: convolutional(args.repeats),
        ),
        (
            "MLP 784-512-512-512-10, 25 alphas, 10k examples",
            lambda: perceptron(*random_perceptrons((784, 512, 512, 512, 10)), args.repeats),
        ),
        (
            "the same, trained on MNIST, its test images",
            lambda: perceptron(*trained_perceptrons(), args.repeats),
        ),
    ):
        rows[name] = run()
        # Stored after every row, so that an interrupted run keeps what it measured.
        record.store("barrier", {"rows": rows, "peak_memory_growth": peaks})
        print(
            f"{name}: {rows[name]['times_faster']:.2f} x faster, "
            f"{rows[name]['times_less_cpu']:.2f} x less processor time",
            file=sys.stderr,
            flush=True,
        )
    return 0


def table(results: dict[str, Any]) -> str:
    """Return the README's table of the stored results."""
    lines = [
        "| case | ours (s) | loop (s) | faster | less CPU time | hidden units not zero |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in results["rows"].items():
        ours, rival = (float(np.median(row["seconds"][key])) for key in ("ours", "rival"))
        active = f"{row['active_units']:.0%}" if "active_units" in row else "-"
        lines.append(
            f"| {name} | {ours:.3g} | {rival:.3g} | {row['times_faster']:.1f} x "
            f"| {row['times_less_cpu']:.1f} x | {active} |"
        )
    return "\n".join(lines)
