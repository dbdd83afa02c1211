"""``python -m bench defects``: what other packages get wrong, measured on this one.

The figures go to ``bench/results/defects.json``, and from there into ``docs/defects.md``.

A row permutes the hidden units of a network in a way that must change nothing, or matches a network
with a permuted copy of itself, and measures in float32 how much the outputs change relative to
their largest entry.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lmc_fast import (
    CrossMoments,
    PermutationSpec,
    apply_permutation,
    identity_permutation,
    invert,
    match,
    random_permutation,
)
from torch import Tensor, nn
from torch.nn import functional as F

from bench.record import load, store

TABLE = Path(__file__).parent.parent / "docs" / "defects.md"
LIMIT = 1e-5
"""A row passes below this relative change."""


class Function(nn.Module):
    """Modules by name and a function of them and the input."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


IMAGES = randn(4, 3, 8, 8)
VECTORS = randn(64, 6)
SEQUENCES = randn(4, 5, 6)


def lived_in(model: nn.Module) -> nn.Module:
    """Give parameters and statistics values as after training: fresh ones hide wrong mappings."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(len(module.running_mean), generator=generator))
            module.running_var.copy_(torch.rand(len(module.running_var), generator=generator) + 0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def image_net(*layers: nn.Module, last: int) -> nn.Module:
    pool = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(nn.Conv2d(3, 12, 3), *layers, pool, nn.Linear(last, 5))


def flattened() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 36, 5))


def concatenated() -> nn.Module:
    return Function(
        lambda m, x: m.last(torch.cat([m.a(x), m.b(x).relu()], 1).mean((2, 3))),
        a=nn.Conv2d(3, 8, 3),
        b=nn.Conv2d(3, 12, 3),
        last=nn.Linear(20, 5),
    )


class Residual(nn.Module):
    """Two stages of a residual network with BatchNorm and a projecting shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv1, self.norm1 = nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.norm2 = nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.short, self.norm3 = nn.Conv2d(8, 12, 1, 2, bias=False), nn.BatchNorm2d(12)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        h = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return self.fc((h + self.norm3(self.short(x))).relu().mean((2, 3)))


class Attention(nn.Module):
    """A block with 4 heads of 6 channels; by option grouped queries and rotary positions."""

    def __init__(self, *, groups: int = 4, rotary: bool = False) -> None:
        super().__init__()
        self.groups, self.rotary = groups, rotary
        self.embed, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
        self.norm = nn.LayerNorm(16)
        self.q, self.o = nn.Linear(16, 24), nn.Linear(24, 16)
        self.k, self.v = nn.Linear(16, 6 * groups), nn.Linear(16, 6 * groups)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        n = self.norm(h)
        q = self.q(n).unflatten(-1, (4, 6)).transpose(1, 2)
        k, v = (f(n).unflatten(-1, (self.groups, 6)).transpose(1, 2) for f in (self.k, self.v))
        if self.rotary:
            frequencies = torch.tensor([1.0, 0.3, 0.1, 1.0, 0.3, 0.1])
            angles = torch.arange(x.shape[1])[:, None] * frequencies
            q, k = (
                t * angles.cos() + torch.cat([-t[..., 3:], t[..., :3]], -1) * angles.sin()
                for t in (q, k)
            )
        out = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.groups != 4)
        return self.head((h + self.o(out.transpose(1, 2).flatten(-2))).mean(1))


def tied_embedding() -> nn.Module:
    return Function(
        lambda m, x: m.back(m.fc(m.tokens(x)).relu()) @ m.tokens.weight.T,
        tokens=nn.Embedding(11, 8),
        fc=nn.Linear(8, 12),
        back=nn.Linear(12, 8),
    )


def mlp(inputs: int = 6, hidden: int = 24) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.Tanh(),
        nn.Linear(hidden, hidden),
        nn.Tanh(),
        nn.Linear(hidden, 5),
    )


@dataclass(frozen=True)
class Outcome:
    """What a row measured: its figure, and what stays fixed on purpose."""

    change: float
    pinned: tuple[str, ...] = ()


def relative_change(a: nn.Module, b: nn.Module, inputs: Tensor) -> float:
    """Return the largest output change relative to the largest output."""
    with torch.no_grad():
        x, y = a(inputs), b(inputs)
    return ((x - y).abs().max() / x.abs().max()).item()


def planted(
    model: nn.Module, inputs: Tensor, seed: int = 0
) -> tuple[nn.Module, PermutationSpec, dict[str, Tensor]]:
    """Return a copy with permuted hidden units, the spec and the permutation."""
    spec = PermutationSpec.from_model(model, inputs)
    permutation = random_permutation(spec, generator=torch.Generator().manual_seed(seed))
    moved = copy.deepcopy(model)
    moved.load_state_dict(apply_permutation(spec, permutation, model.state_dict()))
    return moved, spec, permutation


def permuted(build: Callable[[], nn.Module], inputs: Tensor) -> Callable[[], Outcome]:
    """Permute all groups at random and compare the outputs."""

    def measure() -> Outcome:
        model = lived_in(build())
        moved, spec, _ = planted(model, inputs)
        if not spec.groups:
            raise RuntimeError("expected groups to permute, the derivation found none")
        reasons = {f"{p.operation}: {p.reason}" for p in spec.pinned}
        return Outcome(relative_change(model, moved, inputs), tuple(sorted(reasons)))

    return measure


def biases_count() -> Outcome:
    """Hidden units that differ in nothing but their bias."""
    model = mlp()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))
            layer.bias.copy_(torch.linspace(-1, 1, len(layer.bias)))
        model[4].weight.copy_(torch.linspace(-1, 1, 5)[:, None].expand_as(model[4].weight))
        model[2].weight.copy_(torch.full_like(model[2].weight, 0.1))
    moved, _, permutation = planted(model, VECTORS)
    found = match(model, moved, restarts=4)
    wrong = sum((found.permutation[g] != p.argsort()).sum() for g, p in permutation.items())
    return Outcome(float(wrong) / sum(map(len, permutation.values())))


def applied_once() -> Outcome:
    """Apply a found permutation to the network it was found for."""
    model = mlp()
    moved, _, _ = planted(model, VECTORS)
    aligned = match(model, moved, restarts=4).apply(moved)
    weights = zip(model.parameters(), aligned.parameters(), strict=True)
    return Outcome(max((a - b).abs().max().item() for a, b in weights))


def start_is_used() -> Outcome:
    """Start at the planted permutation: the first objective is that of the aligned networks."""
    model = mlp()
    moved, spec, permutation = planted(model, VECTORS)
    start = invert(permutation)
    found = match(model, moved, spec=spec, initial=start, max_sweeps=1)
    norm = sum(float(p.detach().double().square().sum()) for p in model.parameters())
    fixed = float(model[4].bias.detach().double().square().sum())
    return Outcome(abs(found.history[0] - (norm - fixed)) / norm)


def shuffled_loader() -> Outcome:
    """Match by activations on a loader that shuffles anew on every pass."""
    model = mlp()
    moved, _, _ = planted(model, VECTORS)
    data = torch.utils.data.TensorDataset(randn(512, 6, seed=5), torch.zeros(512))
    generator = torch.Generator().manual_seed(0)
    loader = torch.utils.data.DataLoader(data, 64, shuffle=True, generator=generator)
    aligned = match(model, moved, data=loader).apply(moved)
    return Outcome(relative_change(model, aligned, VECTORS))


def objective_never_falls() -> Outcome:
    """Two residual networks, one group on both axes of a tensor: the largest fall of a sweep."""

    def toy(seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.random.manual_seed(seed)
            return Function(
                lambda m, x: m.last(m.a(x) + m.square(m.a(x)).relu()),
                a=nn.Linear(6, 30),
                square=nn.Linear(30, 30),
                last=nn.Linear(30, 5),
            )

    worst = 0.0
    for seed in range(5):
        found = match(toy(2 * seed), toy(2 * seed + 1), example_inputs=VECTORS, restarts=2)
        steps = zip(found.history, found.history[1:], strict=False)
        worst = max(worst, *((a - b) / abs(a) for a, b in steps))
    return Outcome(worst)


def same_every_time() -> Outcome:
    """Two runs with the same inputs: the share of units matched differently."""
    a, b = mlp(), mlp()
    first, second = (match(a, b, restarts=3).permutation for _ in range(2))
    return Outcome(max((first[g] != second[g]).double().mean().item() for g in first))


def moments_far_from_zero() -> Outcome:
    """Correlations of float32 activations whose mean is 300 times their spread."""
    x = randn(2000, 8) + 300
    y = x.roll(1, 1) + 0.1 * randn(2000, 8, seed=1)
    moments = CrossMoments()
    for part_x, part_y in zip(x.split(100), y.split(100), strict=True):
        moments.update(part_x, part_y)
    exact = torch.corrcoef(torch.cat([x, y], 1).double().T)[:8, 8:]
    return Outcome((moments.correlation().double() - exact).abs().max().item())


def heads_match() -> Outcome:
    """Match attention heads and their channels by weights."""
    model = lived_in(Attention())
    moved, spec, _ = planted(model, SEQUENCES)
    start = identity_permutation(spec)
    found = match(model, moved, example_inputs=SEQUENCES, restarts=8, initial=start)
    return Outcome(relative_change(model, found.apply(moved), SEQUENCES))


def batch_norm() -> nn.Module:
    return image_net(nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3), last=12)


ROWS: dict[str, tuple[str, Callable[[], Outcome]]] = {
    "BatchNorm with running statistics": ("rebasin", permuted(batch_norm, IMAGES)),
    "depthwise convolution": (
        "rebasin; sinkhorn-rebasin and nnperm refuse",
        permuted(lambda: image_net(nn.Conv2d(12, 12, 3, groups=12), last=12), IMAGES),
    ),
    "grouped convolution": (
        "rebasin",
        permuted(lambda: image_net(nn.Conv2d(12, 18, 3, groups=3), last=18), IMAGES),
    ),
    "GroupNorm": (
        "rebasin, sinkhorn-rebasin",
        permuted(lambda: image_net(nn.GroupNorm(3, 12), last=12), IMAGES),
    ),
    "convolution, flatten, linear": ("rebasin; nnperm refuses", permuted(flattened, IMAGES)),
    "concatenation": ("sinkhorn-rebasin", permuted(concatenated, IMAGES)),
    "residual network with a projecting shortcut": (
        "nnperm refuses",
        permuted(Residual, IMAGES),
    ),
    "attention heads and the channels in them": (
        "C2M3: rows cross heads; sinkhorn-rebasin crashes",
        permuted(Attention, SEQUENCES),
    ),
    "grouped-query attention": ("", permuted(lambda: Attention(groups=2), SEQUENCES)),
    "rotary positions": (
        "mergekit, before it removed the code",
        permuted(lambda: Attention(groups=2, rotary=True), SEQUENCES),
    ),
    "embedding tied to the output": (
        "nnperm refuses",
        permuted(tied_embedding, torch.arange(11)[None]),
    ),
    "heads matched by weights": ("C2M3: rows cross heads", heads_match),
    "units that differ in their bias alone": ("rebasin: biases do not count", biases_count),
    "permutation applied once": ("nnperm: transform() permutes twice", applied_once),
    "initial permutation used": ("nnperm: init_perm is only recorded", start_is_used),
    "shuffled loader": ("nnperm: examples are paired wrongly", shuffled_loader),
    "objective of sweeps never falls": ("git-re-basin: it can fall", objective_never_falls),
    "the same result every time": ("git-re-basin: seeds by hash(str)", same_every_time),
    "moments far from zero": ("ZipIt, REPAIR: negative variances", moments_far_from_zero),
}


def measure(name: str) -> Outcome:
    """Measure one row; the global seed is as before."""
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        return ROWS[name][1]()


def table(results: dict[str, Any]) -> str:
    """Return docs/defects.md."""
    environment = results["environment"]
    lines = [
        "# Defects of other packages, measured on this one",
        "",
        f"Written by `{results['command']}` from `bench/results/defects.json` "
        f"({environment['date']}, torch {environment['torch']}).",
        "",
        "The first rows permute all hidden units of a network at random, which must change "
        "nothing; the figure is the largest output change in float32 relative to the largest "
        "output. What the figures of the other rows are is said in `bench/defects.py`; 0 is right "
        f"everywhere, and less than {LIMIT:.0e} passes.",
        "",
        "| row | goes wrong in | here | pinned, and why |",
        "|---|---|---:|---|",
    ]
    lines += [
        f"| {name} | {ROWS[name][0]} | {row['change']:.0e} | {'; '.join(row['pinned'])} |"
        for name, row in results["rows"].items()
    ]
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench defects", description=__doc__)
    parser.add_argument("--table", action="store_true", help="only write the table anew")
    if not parser.parse_args(argv).table:
        store("defects", {"rows": {name: vars(measure(name)) for name in ROWS}})
    TABLE.write_text(table(load("defects")), encoding="utf-8")
    return 0
