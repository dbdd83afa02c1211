"""Alignment of networks trained on real data: MLPs on MNIST, a ResNet-20 on CIFAR-10 (JPEG)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lmc_fast import barrier, match
from lmc_fast.checkpoints import load_state_dict, save_state_dict
from lmc_fast.datasets import Dataset, load_cifar10, load_mnist
from lmc_fast.nets import MLP, resnet20
from lmc_fast.recipe import Recipe
from lmc_fast.training import train
from torch import nn

from bench import record
from bench.instances import cache_folder


def mnist(data: Dataset, epochs: int) -> dict[str, Any]:
    """MLP 784-512-512-512-10, Adam 1e-3, batch 500, two seeds."""
    recipe = Recipe("adam", lr=1e-3, epochs=epochs, batch_size=500)
    a, b = (
        train(MLP((784, 512, 512, 512, 10)), data, recipe, seed=s, progress=True) for s in (0, 1)
    )
    matchings = {
        "unaligned": None,
        "weights": match(a, b, example_inputs=data.test_x[:2]),
        "activations": match(a, b, data=data.train_x[:10_000]),
    }
    return {"epochs": epochs, "rows": _rows(a, b, data, matchings, ["keep"])}


def cifar(data: Dataset, epochs: int, width: int, examples: int) -> dict[str, Any]:
    """ResNet-20 with BatchNorm, two seeds; statistics kept and reset after alignment."""
    recipe = Recipe(
        "sgd", lr=0.1, momentum=0.9, weight_decay=1e-4, epochs=epochs, batch_size=128,
        schedule="cosine", augment=True,
    )  # fmt: skip
    data = data.take(examples)
    nets = []
    for seed in (0, 1):
        path = cache_folder() / f"resnet20-{width}-cifar10-{examples}-{epochs}-{seed}.safetensors"
        net = resnet20(width)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            trained = train(net, data, recipe, seed=seed, progress=True)
            save_state_dict(trained.state_dict(), path)
        net.load_state_dict(load_state_dict(path))
        nets.append(net.eval())
    a, b = nets
    matchings = {
        "unaligned": None,
        "weights": match(a, b, example_inputs=data.test_x[:2], restarts=4),
        "activations": match(a, b, data=data.train_x[:5_000]),
    }
    rows = _rows(a, b, data, matchings, ["keep", "reset", "repair"], test=2_000, alphas=11)
    return {"epochs": epochs, "width": width, "train_examples": examples, "rows": rows}


def _rows(
    a: nn.Module,
    b: nn.Module,
    data: Dataset,
    matchings: dict[str, Any],
    norms: list[Any],
    *,
    test: int = 10_000,
    alphas: int = 25,
) -> list[dict[str, Any]]:
    rows = []
    for method, matching in matchings.items():
        for norm in norms:
            curve = barrier(
                a, b, (data.test_x[:test], data.test_y[:test]), permutation=matching,
                alphas=alphas, norm=norm, calibration=data.train_x[:5_000], progress=True,
            )  # fmt: skip
            rows.append(
                {
                    "method": method,
                    "norm": norm,
                    "test_accuracy_a": 1 - float(curve.error[0]),
                    "test_accuracy_b": 1 - float(curve.error[-1]),
                    "test_accuracy_midpoint": 1 - float(curve.error[len(curve.error) // 2]),
                    "loss_barrier": curve.loss_barrier(),
                    "error_barrier": curve.error_barrier(),
                    "objective": None if matching is None else matching.objective,
                    "sweeps": None if matching is None else matching.sweeps,
                }
            )
            print(rows[-1], file=sys.stderr)
    return rows


def table(results: dict[str, Any]) -> str:
    """Test accuracies of the parents and of the midpoint, and the chord barriers."""
    lines = [
        "| aligned by | norm | accuracy A / B | at the midpoint | loss barrier | error barrier |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['method']} | {row['norm']} | {row['test_accuracy_a']:.2%} / "
        f"{row['test_accuracy_b']:.2%} | {row['test_accuracy_midpoint']:.2%} | "
        f"{row['loss_barrier']:.4f} | {row['error_barrier']:.2%} |"
        for row in results["rows"]
    ]
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench alignment", description=__doc__)
    parser.add_argument("problem", choices=("mnist", "cifar"))
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--examples", type=int, default=50_000)
    args = parser.parse_args(argv)
    if args.problem == "mnist":
        results = mnist(load_mnist(args.data_dir), args.epochs)
    else:
        results = cifar(load_cifar10(args.data_dir), args.epochs, args.width, args.examples)
    print(record.store(f"alignment-{args.problem}", results))
    return 0
