"""Reading what the package writes: curves, grids, zoos, matchings, studies and demos."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from lmc_fast.barrier import BarrierCurve, BarrierMatrix, CheckpointGrid, PlaneGrid, SimplexGrid
from lmc_fast.matching import Matching
from lmc_fast.zoo import read_zoo


@dataclass(frozen=True)
class StudyRecord:
    """The record of a study, and its picture where one lies beside it, as PNG in base64."""

    record: Mapping[str, Any]
    picture: str | None


Result: TypeAlias = (
    BarrierCurve | BarrierMatrix | CheckpointGrid | PlaneGrid | SimplexGrid | Matching | StudyRecord
)

_KINDS: dict[str, Any] = {
    cls.kind: cls for cls in (BarrierCurve, BarrierMatrix, CheckpointGrid, PlaneGrid, SimplexGrid)
}


def read_results(paths: Sequence[Path]) -> dict[str, Result]:
    """Read results, each by a label made of the name of its path.

    A file is what a result's ``to_json``, ``lmc-fast barrier``, ``match``, ``study`` or ``demo``
    wrote; a folder is that of ``lmc-fast zoo``, ``demo`` or ``study``.

    Raises
    ------
    ValueError
        If a path holds no result.
    """
    found: dict[str, Result] = {}
    for path in paths:
        for label, result in _read(path).items():
            while label in found:
                label += "'"
            found[label] = result
    return found


def _read(path: Path) -> dict[str, Result]:
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".safetensors":
        return {path.stem: Matching.load(path)}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "study" in content:
            return {content["study"]: _study(path, content)}
        if "rows" in content:
            return _demo(content)
        content = content.get("curve", content)
        kind = _KINDS[content.get("kind", BarrierCurve.kind)]
        return {path.stem: kind.from_json(json.dumps(content))}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected a result that lmc-fast wrote: {error}") from None


def _read_folder(folder: Path) -> dict[str, Result]:
    if any(folder.glob("*--*.json")):
        return {folder.name: read_zoo(folder)}
    demo = folder / "curves.json"
    if demo.is_file():
        return read_results([demo, *sorted(folder.glob("*.safetensors"))])
    studies = sorted(folder.glob("*.json"))
    if not studies:
        raise ValueError(f"{folder}: expected the results of lmc-fast zoo, demo or study, got none")
    return read_results(studies)


def _demo(content: Mapping[str, Any]) -> dict[str, Result]:
    return {
        f"{row['network']}, {row['method']}, {split}": BarrierCurve.from_json(json.dumps(curve))
        for row in content["rows"]
        for split, curve in row["curves"].items()
    }


def _study(path: Path, record: Mapping[str, Any]) -> StudyRecord:
    picture = path.with_suffix(".png")
    if not picture.is_file():
        return StudyRecord(record, None)
    return StudyRecord(record, base64.b64encode(picture.read_bytes()).decode("ascii"))
