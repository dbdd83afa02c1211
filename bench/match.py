"""Weight matching of a trained ResNet-20 (width x4) pair against the published algorithm."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from lmc_fast import PermutationSpec, match
from lmc_fast.checkpoints import load_state_dict, save_state_dict
from lmc_fast.datasets import Dataset, load_digits
from lmc_fast.matching.objective import arrange, weight_objective
from lmc_fast.nets import ResNet, resnet20
from lmc_fast.recipe import Recipe
from lmc_fast.training import train

from bench import record
from bench.instances import cache_folder
from bench.rebasin import weight_matching

WIDTH = 64
SEEDS = 10
EPOCHS = 5


def coloured_digits() -> Dataset:
    """The 8x8 digits with three equal channels, for networks that take colour images."""
    data = load_digits()
    return replace(
        data, train_x=data.train_x.expand(-1, 3, -1, -1), test_x=data.test_x.expand(-1, 3, -1, -1)
    )


def trained_pair(width: int, epochs: int) -> tuple[ResNet, ResNet]:
    """Two ResNet-20 trained on the digits from different seeds; kept between runs."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    recipe = Recipe("adam", lr=1e-3, epochs=epochs, batch_size=64, schedule="cosine")
    nets = []
    for seed in (0, 1):
        path = folder / f"resnet20-{width}-digits-{epochs}-{seed}.safetensors"
        net = resnet20(width)
        if not path.exists():
            trained = train(net, coloured_digits(), recipe, seed=seed, progress=True)
            save_state_dict(trained.state_dict(), path)
        net.load_state_dict(load_state_dict(path))
        nets.append(net.eval())
    return nets[0], nets[1]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def compare(a: ResNet, b: ResNet, repeats: int) -> dict[str, Any]:
    """Alternate both in one process, a new seed each time; ours on modules, its spec cached."""
    spec = PermutationSpec.from_model(a, torch.zeros(2, 3, 8, 8))
    state_a, state_b = a.state_dict(), b.state_dict()
    tensors = [name for name, _ in a.named_parameters()]
    problem = arrange(spec, state_a, state_b, tensors)
    rows = []
    for seed in range(repeats):
        ours_seconds, ours = timed(
            lambda seed=seed: match(
                a,
                b,
                example_inputs=torch.zeros(2, 3, 8, 8),
                generator=torch.Generator().manual_seed(seed),
            )
        )
        rival_seconds, (permutation, sweeps) = timed(
            lambda seed=seed: weight_matching(spec, state_a, state_b, tensors, seed=seed)
        )
        rows.append(
            {
                "seed": seed,
                "seconds": ours_seconds,
                "rival_seconds": rival_seconds,
                "sweeps": ours.sweeps,
                "rival_sweeps": sweeps,
                "objective": ours.objective,
                "rival_objective": weight_objective(problem, permutation),
                "bound": ours.bound,
            }
        )
        print(rows[-1], file=sys.stderr)
    return {
        "rows": rows,
        "median_ratio": statistics.median(r["rival_seconds"] / r["seconds"] for r in rows),
        "mean_objective": statistics.fmean(r["objective"] for r in rows),
        "mean_rival_objective": statistics.fmean(r["rival_objective"] for r in rows),
    }


def table(results: dict[str, Any]) -> str:
    """Both algorithms for each number of threads: medians over the seeds of paired runs."""
    lines = [
        "| threads | lmc_fast, ms | published algorithm in torch and SciPy, ms | ratio | "
        "ratio of all runs' time | sweeps | mean objective, ours / theirs |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, run in results.items():
        if not name.startswith("threads="):
            continue
        rows = run["rows"]
        ours, rival = (
            1e3 * statistics.median(r[k] for r in rows) for k in ("seconds", "rival_seconds")
        )
        sweeps = statistics.median(r["sweeps"] for r in rows)
        total = sum(r["rival_seconds"] for r in rows) / sum(r["seconds"] for r in rows)
        lines.append(
            f"| {name.removeprefix('threads=')} | {ours:.0f} | {rival:.0f} | "
            f"{run['median_ratio']:.2f}x | {total:.2f}x | {sweeps:g} | "
            f"{run['mean_objective']:.2f} / {run['mean_rival_objective']:.2f} |"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench match", description=__doc__)
    parser.add_argument("--repeats", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="training of the pair")
    parser.add_argument("--name", default="match", help="results file")
    args = parser.parse_args(argv)
    a, b = trained_pair(WIDTH, args.epochs)
    default = torch.get_num_threads()
    results = {}
    try:
        for threads in sorted({1, default}):
            torch.set_num_threads(threads)
            match(a, b, example_inputs=torch.zeros(2, 3, 8, 8))
            results[f"threads={threads}"] = compare(a, b, args.repeats)
    finally:
        torch.set_num_threads(default)
    network = f"ResNet-20, width {WIDTH}, {args.epochs} epochs on the digits"
    print(record.store(args.name, {"network": network, **results}))
    return 0
