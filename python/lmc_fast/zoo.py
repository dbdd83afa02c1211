"""Barriers of all pairs of a folder of checkpoints, in result files that resume and merge.

Every pair has a file of its own. Pairs are evaluated together as long as that takes seconds, so an
interrupted run loses at most the pair at hand or some seconds of small ones; shards that
run elsewhere merge by copying their files into one folder, and `read_zoo` reads what is there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from lmc_fast.barrier import BarrierCurve, BarrierMatrix
from lmc_fast.files import replacing
from lmc_fast.progress import progress_bar

Pair: TypeAlias = tuple[Path, Path]

_GROUP_SECONDS = 4.0
_MOST_PAIRS = 64

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count``, counted from one."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "i/N"; ValueError where it is no such thing."""
        first, slash, second = text.partition("/")
        if not (slash and first.isdigit() and second.isdigit()):
            raise ValueError(f"expected a shard as i/N, for example 1/4, got {text!r}")
        shard = cls(int(first), int(second))
        if not 1 <= shard.index <= shard.count:
            raise ValueError(f"expected a shard i/N with 1 <= i <= N, got {text!r}")
        return shard


def checkpoints_of(folder: Path) -> list[Path]:
    """Return the checkpoint files of a folder in the order of their names.

    Raises
    ------
    ValueError
        If there are fewer than two, or two share a name without suffix.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"expected a folder of checkpoints, got {folder}")
    paths = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if len(paths) < 2:
        raise ValueError(
            f"expected at least two checkpoints ({', '.join(SUFFIXES)}) in {folder}, "
            f"got {len(paths)}"
        )
    stems = [path.stem for path in paths]
    twice = {stem for stem in stems if stems.count(stem) > 1}
    if twice:
        raise ValueError(f"expected one checkpoint per name in {folder}, got two of {min(twice)}")
    return paths


def run_zoo(
    paths: Sequence[Path],
    evaluate_pairs: Callable[[Sequence[Pair]], Sequence[BarrierCurve]],
    out: Path,
    *,
    settings: Mapping[str, Any],
    shard: Shard | None = None,
) -> Iterator[Path]:
    """Evaluate the pairs that ``out`` does not hold yet, and yield each result file once written.

    A progress bar on stderr estimates the time that remains.

    Parameters
    ----------
    paths
        Checkpoints; every pair is taken once, in order.
    evaluate_pairs
        What measures some pairs together.
    out
        Folder of the result files.
    settings
        What the results depend on. A folder made under other settings is refused.
    shard
        Take every ``count``-th pair only.
    """
    shard = Shard(1, 1) if shard is None else shard
    pairs = list(combinations(paths, 2))[shard.index - 1 :: shard.count]
    out.mkdir(parents=True, exist_ok=True)
    pending = []
    for a, b in pairs:
        target = out / f"{a.stem}--{b.stem}.json"
        if target.exists():
            _check_settings(target, settings)
        else:
            pending.append((a, b, target))
    bar = progress_bar(total=len(pairs), initial=len(pairs) - len(pending), unit="pair", show=True)
    count = 1
    with bar:
        while pending:
            group, pending = pending[:count], pending[count:]
            start = time.perf_counter()
            curves = evaluate_pairs([(a, b) for a, b, _ in group])
            if time.perf_counter() - start < _GROUP_SECONDS / 2:
                count = min(2 * count, _MOST_PAIRS)
            for (a, b, target), curve in zip(group, curves, strict=True):
                content = {
                    "a": a.stem,
                    "b": b.stem,
                    "zoo": dict(settings),
                    "curve": json.loads(curve.to_json()),
                }
                with replacing(target) as temporary:
                    temporary.write_text(json.dumps(content), encoding="utf-8")
                bar.update()
                yield target


def read_zoo(folder: Path) -> BarrierMatrix:
    """Read the result files of a zoo; pairs that are not there yet are NaN.

    Raises
    ------
    ValueError
        If the folder holds no result, or results of different settings or alphas.
    """
    results = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*--*.json"))
    ]
    if not results:
        raise ValueError(f"expected the result files of lmc-fast zoo in {folder}, got none")
    if any(result["zoo"] != results[0]["zoo"] for result in results):
        raise ValueError(f"expected one zoo in {folder}, got results of different settings")
    names = sorted({result[side] for result in results for side in "ab"})
    curves = [BarrierCurve.from_json(json.dumps(result["curve"])) for result in results]
    alphas = curves[0].alphas
    loss = np.full((len(names), len(names), alphas.size), np.nan)
    error = loss.copy()
    for result, curve in zip(results, curves, strict=True):
        i, j = names.index(result["a"]), names.index(result["b"])
        for values, measured in ((loss, curve.loss), (error, curve.error)):
            if measured is not None:
                values[i, j], values[j, i] = measured, measured[::-1]
                values[i, i], values[j, j] = measured[0], measured[-1]
    settings = {**results[0]["zoo"], **curves[0].settings}
    has_error = all(curve.error is not None for curve in curves)
    return BarrierMatrix(alphas, loss, error if has_error else None, tuple(names), settings)


def _check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    stored = json.loads(path.read_text(encoding="utf-8")).get("zoo")
    if stored != dict(settings):
        raise ValueError(
            f"{path} was made with other settings ({stored}); choose another --out folder"
        )
