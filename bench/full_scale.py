"""``python -m bench full_scale NETWORK``: do the networks of ``lmc-fast study --full`` start.

Trains VGG-16 of width 64 with LayerNorm (trajectory and matchers) or ResNet-20 with BatchNorm
(depth-repair) on CIFAR-10 by the published recipe of the full study: all images, the same
augmentation, warm-up and schedule. It stops after ``--steps`` of them, one epoch unless told
otherwise. The loss of every step goes to ``bench/results/studies/starts/NETWORK.json``, on the way
too, so that an interrupted run leaves its curve.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lmc_fast.nets import resnet20
from lmc_fast.studies import Context, depth_repair, runs
from lmc_fast.training import evaluate, train

from bench.record import store

EVERY = 10
SCORED = 2000
NETWORKS = {
    "vgg16-w64": "VGG-16, width 64, LayerNorm",
    "resnet20-w16": "ResNet-20, width 16, BatchNorm",
    "resnet20-w64": "ResNet-20, width 64, BatchNorm",
}


def start(name: str, data_dir: Path, steps: int | None, seed: int) -> Path:
    with tempfile.TemporaryDirectory() as out:
        vgg, _, data, recipe = runs.setting(Context("full_scale", "full", 0, Path(out), data_dir))
    net = vgg
    if name != "vgg16-w64":
        net, recipe = resnet20(int(name.partition("-w")[2])), depth_repair.RESNET_RECIPE
    epoch = -(-len(data.train_x) // recipe.batch_size)
    losses: list[float] = []
    found: dict[str, Any] = {
        "network": NETWORKS[name],
        "parameters": sum(p.numel() for p in net.parameters()),
        "recipe": str(recipe),
        "seed": seed,
        "data": data.name,
        "images": len(data.train_x),
        "steps per epoch": epoch,
        "loss": losses,
    }
    begun = time.perf_counter()

    def keep() -> Path:
        return store(
            f"studies/starts/{name}", found | {"seconds": round(time.perf_counter() - begun)}
        )

    def on_step(step: int, loss: float) -> None:
        losses.append(round(loss, 4))
        if step % EVERY == 0:
            recent = sum(losses[-EVERY:]) / EVERY
            print(f"{name}: step {step} of {steps or epoch}, loss {recent:.4f}", flush=True)
            keep()

    net = train(net, data, recipe, seed=seed, on_step=on_step, steps=steps or epoch)
    loss, error = evaluate(net, data.test_x[:SCORED], data.test_y[:SCORED], batch_size=100)
    found["test images"] = SCORED
    found["test loss"], found["test accuracy"] = round(loss, 4), round(1 - error, 4)
    return keep()


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench full_scale")
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with CIFAR-10")
    parser.add_argument("--steps", type=int, help="steps to train (default: one epoch)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's)")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    print(start(args.network, args.data_dir, args.steps, args.seed))
