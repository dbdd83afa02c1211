"""The main job on real data: train pairs of networks, align them, measure the barrier."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lmc_fast.barrier import BarrierCurve, barrier
from lmc_fast.datasets import Dataset
from lmc_fast.files import replacing
from lmc_fast.matching import Matching, match
from lmc_fast.nets import MLP, ResNet
from lmc_fast.progress import progress_bar
from lmc_fast.recipe import Recipe
from lmc_fast.training import train

TRAIN_EXAMPLES = 10_000
"""Training examples that activations and training curves are taken from, at most."""

CALIBRATION_EXAMPLES = 1_000
"""Training examples that BatchNorm statistics are reset on."""


@dataclass(frozen=True)
class Row:
    """One line of the demo's table: one way of aligning one pair.

    Attributes
    ----------
    network, method : str
        "MLP ..." or "ResNet ..."; "unaligned", "weights" or "activations".
    matching : Matching or None
        None for the unaligned pair.
    objective, bound : float
        Of the matching; unaligned, the weight objective of the identity under the same bound.
    curves : dict[str, BarrierCurve]
        For "train" and "test".
    match_seconds, barrier_seconds : float
        Wall-clock time of the two stages.
    """

    network: str
    method: str
    matching: Matching | None
    objective: float
    bound: float
    curves: dict[str, BarrierCurve]
    match_seconds: float
    barrier_seconds: float


@dataclass(frozen=True)
class Pair:
    """Two trained networks of one architecture, how to evaluate them, and training time."""

    name: str
    a: nn.Module
    b: nn.Module
    norm: str
    alphas: int
    seconds: float


def train_pairs(data: Dataset, *, width: int, seed: int, progress: bool) -> list[Pair]:
    """Train an MLP and a residual convolutional network with BatchNorm, two seeds each."""
    channels = data.train_x.shape[1]
    inputs = data.train_x[0].numel()
    large = len(data.train_x) > 5_000
    # A convolution costs as much as there are pixels: 28x28 images get a narrower network.
    channel_width = max(4, width // (64 if large else 16))
    jobs: list[tuple[str, nn.Module, str, int, Recipe]] = [
        (
            f"MLP {inputs}-{width}-{width}-{data.classes}",
            MLP((inputs, width, width, data.classes)),
            "keep",
            25,
            Recipe("adam", lr=1e-3, epochs=10 if large else 30, batch_size=500 if large else 100),
        ),
        (
            f"ResNet {channel_width}-{2 * channel_width} with BatchNorm",
            ResNet(
                (channel_width, 2 * channel_width),
                blocks=1,
                channels=channels,
                classes=data.classes,
            ),
            "reset",
            11,
            Recipe("adam", lr=3e-3, epochs=2 if large else 10, batch_size=100, schedule="cosine"),
        ),
    ]
    pairs = []
    for name, net, norm, alphas, recipe in jobs:
        start = time.perf_counter()
        a, b = (
            train(net, data, recipe, seed=s, progress=progress) for s in (2 * seed, 2 * seed + 1)
        )
        pairs.append(Pair(name, a, b, norm, alphas, time.perf_counter() - start))
    return pairs


def align_and_measure(pair: Pair, data: Dataset, *, progress: bool) -> list[Row]:
    """Align a pair by weights and by activations and evaluate the path, unaligned and aligned."""
    part = data.take(TRAIN_EXAMPLES)
    rows = []
    example = data.test_x[:2]
    by_weights: Matching | None = None
    for method in ("weights", "activations", "unaligned"):
        start = time.perf_counter()
        matching = None
        if method != "unaligned":
            inputs = part.train_x if method == "activations" else None
            matching = match(
                pair.a,
                pair.b,
                data=inputs,
                method=method,
                example_inputs=example,
                progress=progress,
            )
            by_weights = by_weights or matching
        matched = time.perf_counter()
        curves = {
            split: barrier(
                pair.a,
                pair.b,
                examples,
                permutation=matching,
                alphas=pair.alphas,
                norm=pair.norm,  # type: ignore[arg-type]
                calibration=data.train_x[:CALIBRATION_EXAMPLES],
                progress=progress,
            )
            for split, examples in (
                ("train", (part.train_x, part.train_y)),
                ("test", (data.test_x, data.test_y)),
            )
        }
        measured = by_weights if matching is None else matching
        if measured is None:
            raise RuntimeError("expected weight matching to come first")
        rows.append(
            Row(
                pair.name,
                method,
                matching,
                measured.history[0] if matching is None else measured.objective,
                measured.bound,
                curves,
                matched - start if matching is not None else 0.0,
                time.perf_counter() - matched,
            )
        )
    return [rows[-1], *rows[:-1]]


def table(pairs: list[Pair], rows: list[Row]) -> str:
    """Format the rows: chord barriers, the error's in percent of the examples."""
    head = (
        f"{'':<14}{'objective':>11}{'bound':>10}   {'loss barrier':^17}   {'error barrier':^17}"
        f"   {'seconds':^15}\n"
        f"{'':<35}   {'train':>8} {'test':>8}   {'train':>8} {'test':>8}   {'match':>7} {'path':>7}"
    )
    lines = []
    for pair in pairs:
        lines += [
            f"{pair.name}: {pair.alphas} alphas, norm={pair.norm}, trained in {pair.seconds:.1f} s",
            head,
        ]
        for row in (row for row in rows if row.network == pair.name):
            loss = [row.curves[split].loss_barrier() for split in ("train", "test")]
            error = [row.curves[split].error_barrier() for split in ("train", "test")]
            lines.append(
                f"  {row.method:<12}{row.objective:>11.2f}{row.bound:>10.2f}   "
                f"{loss[0]:>8.4f} {loss[1]:>8.4f}   {error[0]:>8.2%} {error[1]:>8.2%}"
                f"   {row.match_seconds:>7.2f} {row.barrier_seconds:>7.2f}"
            )
        lines.append("")
    return "\n".join(lines).rstrip()


def summary(rows: list[Row], settings: dict[str, Any]) -> dict[str, Any]:
    """Return everything measured as plain data for JSON."""
    return {
        "settings": settings,
        "rows": [
            {
                "network": row.network,
                "method": row.method,
                "objective": row.objective,
                "bound": row.bound,
                "match_seconds": row.match_seconds,
                "barrier_seconds": row.barrier_seconds,
                "curves": {split: json.loads(c.to_json()) for split, c in row.curves.items()},
            }
            for row in rows
        ],
    }


def write_results(rows: list[Row], settings: dict[str, Any], out: Path) -> list[Path]:
    """Write permutations, curves and the figure; return the paths."""
    written = []
    for row in rows:
        if row.matching is not None:
            path = out / f"{row.network.split()[0].lower()}-{row.method}.safetensors"
            row.matching.save(path)
            written.append(path)
    with replacing(out / "curves.json") as temporary:
        temporary.write_text(json.dumps(summary(rows, settings), indent=1))
    with replacing(out / "barrier.png") as temporary:
        _draw(rows, temporary)
    return [*written, out / "curves.json", out / "barrier.png"]


def _draw(rows: list[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    networks = list(dict.fromkeys(row.network for row in rows))
    figure = Figure(figsize=(9, 3.2 * len(networks)), layout="constrained")
    axes = figure.subplots(len(networks), 2, squeeze=False)
    for (loss_axis, error_axis), network in zip(axes, networks, strict=True):
        for row in (row for row in rows if row.network == network):
            curve = row.curves["test"]
            curve.plot(loss_axis, metric="loss", label=row.method)
            curve.plot(error_axis, metric="error", label=row.method)
        loss_axis.set_title(f"{network}: test loss")
        error_axis.set_title(f"{network}: test error")
        loss_axis.legend()
    figure.savefig(path, dpi=150)


def run_demo(
    data: Dataset, *, width: int, seed: int, progress: bool
) -> tuple[list[Pair], list[Row]]:
    """Run the whole demo; the same seed gives the same permutations."""
    pairs = train_pairs(data, width=width, seed=seed, progress=progress)
    rows = [
        row
        for pair in progress_bar(pairs, desc="pairs", show=progress)
        for row in align_and_measure(pair, data, progress=progress)
    ]
    return pairs, rows


def settings_of(data: Dataset, *, width: int, seed: int, seconds: float) -> dict[str, Any]:
    """Return what a result file says about its run."""
    return {
        "data": data.name,
        "train_examples": min(len(data.train_x), TRAIN_EXAMPLES),
        "test_examples": len(data.test_x),
        "width": width,
        "seed": seed,
        "barrier": "chord",
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
