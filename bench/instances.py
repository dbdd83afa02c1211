"""Similarity matrices to solve: from networks trained on real MNIST, and random controls.

Built by script and cached in the user's cache folder (or LMC_FAST_CACHE), never in the repository.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lmc_fast import linear_sum_assignment
from lmc_fast.datasets import Dataset, load_mnist
from lmc_fast.nets import MLP
from lmc_fast.recipe import Recipe
from lmc_fast.training import train
from numpy.typing import NDArray

REAL = ("act1", "act3", "raw1", "wm1", "wm3", "dead", "bf16")
CONTROLS = ("uniform", "int", "intn", "lr8", "mw", "same")
SAMPLES = 10_000

Matrix = NDArray[np.float32]


def cache_folder() -> Path:
    """Where networks and matrices are kept between runs."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lmc_fast"
    return Path(os.environ.get("LMC_FAST_CACHE", default)) / "bench"


def data_folder() -> Path:
    """Folder with MNIST: LMC_FAST_DATA, else ../shared/data."""
    return Path(os.environ.get("LMC_FAST_DATA", "../shared/data"))


def instance(name: str, n: int) -> Matrix:
    """The n x n float32 similarity matrix of that name, to be maximised."""
    path = cache_folder() / f"{name}-{n}.npy"
    if not path.exists():
        matrix = _BUILD[name](n)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        with partial.open("wb") as file:
            np.save(file, matrix)
        partial.rename(path)
    return np.load(path)


def network(width: int, hidden: int, seed: int) -> MLP:
    """An MLP trained on MNIST: 60,000 images up to width 1024, then 10,000; two epochs."""
    model = MLP((784, *[width] * hidden, 10))
    path = cache_folder() / f"mlp-{width}-{hidden}-{seed}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model
    data = mnist().take(train=60_000 if width <= 1024 else 10_000)
    model = train(model, data, Recipe(epochs=2, batch_size=500), seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model


def mnist() -> Dataset:
    """MNIST from the data folder."""
    return load_mnist(data_folder())


def activations(model: MLP, layer: int) -> torch.Tensor:
    """Activations after hidden layer `layer` on the first SAMPLES test images."""
    with torch.no_grad():
        x = mnist().test_x[:SAMPLES].flatten(1)
        for linear in model.linears[: layer + 1]:
            x = torch.relu(linear(x))
    return x


def _standardised(x: torch.Tensor) -> torch.Tensor:
    x = x - x.mean(0)
    norm = x.norm(dim=0)
    return torch.where(norm > 0, x / norm, 0.0)


def _correlation(n: int, hidden: int, layer: int, other_seed: int = 1) -> Matrix:
    x = _standardised(activations(network(n, hidden, 0), layer))
    y = _standardised(activations(network(n, hidden, other_seed), layer))
    return (x.T @ y).numpy()


def _raw(n: int) -> Matrix:
    x = activations(network(n, 1, 0), 0)
    y = activations(network(n, 1, 1), 0)
    return (x.T @ y / SAMPLES).numpy()


def _weight_similarity(n: int, sweeps: int) -> Matrix:
    """What weight matching solves for the middle layer after so many sweeps over all layers."""
    hidden = 3
    layers = []
    for seed in (0, 1):
        model = network(n, hidden, seed)
        layers.append([w.weight.detach() for w in (*model.linears, model.head)])
    a, b = layers
    perms = [torch.arange(n) for _ in range(hidden)]

    def similarity(k: int) -> torch.Tensor:
        incoming = b[k] if k == 0 else b[k][:, perms[k - 1]]
        outgoing = b[k + 1] if k + 1 == hidden else b[k + 1][perms[k + 1]]
        return a[k] @ incoming.T + a[k + 1].T @ outgoing

    for _ in range(sweeps):
        for k in range(hidden):
            perms[k] = linear_sum_assignment(similarity(k), maximize=True)[1]
    return similarity(hidden // 2).numpy()


def _dead(n: int) -> Matrix:
    """Thirty percent of the units of each network never fire: zero rows and columns."""
    matrix = _correlation(n, 1, 0).copy()
    rng = np.random.default_rng(n)
    matrix[rng.permutation(n)[: 3 * n // 10]] = 0
    matrix[:, rng.permutation(n)[: 3 * n // 10]] = 0
    return matrix


def _low_rank(n: int) -> Matrix:
    rng = np.random.default_rng(n)
    x, y = rng.standard_normal((2, n, 8), dtype=np.float32)
    return x @ y.T


def _random(n: int) -> np.random.Generator:
    return np.random.default_rng(n)


_BUILD: dict[str, Callable[[int], Matrix]] = {
    "act1": lambda n: _correlation(n, 1, 0),
    "act3": lambda n: _correlation(n, 3, 1),
    "raw1": _raw,
    "wm1": lambda n: _weight_similarity(n, 0),
    "wm3": lambda n: _weight_similarity(n, 2),
    "dead": _dead,
    "bf16": lambda n: torch.from_numpy(_correlation(n, 1, 0)).bfloat16().float().numpy(),
    "uniform": lambda n: _random(n).random((n, n), dtype=np.float32),
    "int": lambda n: _random(n).integers(0, 100, (n, n)).astype(np.float32),
    "intn": lambda n: _random(n).integers(0, n, (n, n)).astype(np.float32),
    "lr8": _low_rank,
    "mw": lambda n: np.outer(np.arange(1, n + 1), np.arange(1, n + 1)).astype(np.float32),
    "same": lambda n: _correlation(n, 1, 0, other_seed=0),
}
