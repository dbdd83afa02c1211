"""A report of barriers as one HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import html
import io
import json
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmc_fast import plots
from lmc_fast.barrier import BarrierCurve, BarrierMatrix
from lmc_fast.barrier.definitions import KINDS, SENTENCES
from lmc_fast.zoo import read_zoo

_STYLE = (
    "body{font-family:sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #bbb;padding:.25em .6em;"
    "text-align:right}td:first-child,th:first-child{text-align:left}img{max-width:100%}"
)


def read_results(
    paths: Sequence[Path],
) -> tuple[dict[str, BarrierCurve], dict[str, BarrierMatrix]]:
    """Read curves from JSON files and zoos from folders, each by the name of its path.

    A file holds what `BarrierCurve.to_json`, ``lmc-fast barrier`` or ``lmc-fast zoo`` wrote.
    """
    curves: dict[str, BarrierCurve] = {}
    matrices: dict[str, BarrierMatrix] = {}
    for path in paths:
        if path.is_dir():
            matrices[path.name] = read_zoo(path)
            continue
        text = path.read_text(encoding="utf-8")
        try:
            content = json.loads(text)
            found = content.get("curve", content)
            curves[path.stem] = BarrierCurve.from_json(json.dumps(found))
        except (ValueError, AttributeError) as error:
            raise ValueError(
                f"{path}: expected a result of lmc-fast barrier or zoo: {error}"
            ) from None
    return curves, matrices


def render_report(
    curves: Mapping[str, BarrierCurve], matrices: Mapping[str, BarrierMatrix] | None = None
) -> str:
    """Return the HTML text of a report: definitions, tables, pictures, settings, versions.

    Parameters
    ----------
    curves, matrices
        Results by label; at least one.
    """
    matrices = {} if matrices is None else matrices
    if not curves and not matrices:
        raise ValueError("a report needs at least one result")
    parts = ["<h1>Loss barriers</h1>", _definitions()]
    if curves:
        parts += ["<h2>Curves</h2>", _curve_table(curves)]
        parts.append(_image(plots.barrier_curves(curves), "loss along the path"))
        with_error = {k: c for k, c in curves.items() if c.error is not None}
        if with_error:
            picture = plots.barrier_curves(with_error, metric="error")
            parts.append(_image(picture, "error along the path"))
    for label, matrix in matrices.items():
        heights = matrix.loss_barrier()[np.triu_indices(len(matrix.names), 1)]
        done = heights[~np.isnan(heights)]
        parts.append(f"<h2>{html.escape(label)}: all pairs of {len(matrix.names)} networks</h2>")
        parts.append(
            f"<p>Chord loss barrier over {done.size} of {heights.size} pairs: "
            + (
                f"median {np.median(done):.4g}, from {done.min():.4g} to {done.max():.4g}.</p>"
                if done.size
                else "none is finite.</p>"
            )
        )
        if done.size == heights.size:
            parts.append(_image(plots.barrier_heatmap(matrix), "barriers of all pairs"))
    parts.append("<h2>Settings</h2>")
    settings = {label: curve.settings for label, curve in curves.items()}
    settings.update((label, matrix.settings) for label, matrix in matrices.items())
    parts.append(_settings_table(settings))
    versions = {name: version(name) for name in ("lmc_fast", "torch", "numpy", "scipy")}
    parts.append("<h2>Versions</h2>")
    parts.append(
        _table(["", "version"], [["python", platform.python_version()], *versions.items()])
    )
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Loss barriers</title>'
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _definitions() -> str:
    rows = "".join(f"<li><b>{kind}</b>: {html.escape(SENTENCES[kind])}</li>" for kind in KINDS)
    return (
        "<p>A barrier is meant as <b>chord</b> unless another name stands beside it. L(alpha) is "
        "the loss, or the error 1 - accuracy, at (1 - alpha) A + alpha P(B); alpha = 0 is A.</p>"
        f"<ul>{rows}</ul>"
    )


def _curve_table(curves: Mapping[str, BarrierCurve]) -> str:
    head = ["", "L(0)", "L(1)", *(f"loss, {kind}" for kind in KINDS), "at alpha", "area"]
    head += ["error, chord", "calibrated loss, chord"]
    rows = []
    for label, curve in curves.items():
        rows.append(
            [
                label,
                _number(curve.loss[0]),
                _number(curve.loss[-1]),
                *(_number(_or_none(partial(curve.loss_barrier, kind))) for kind in KINDS),
                _number(_or_none(curve.argmax_alpha)),
                _number(_or_none(curve.area)),
                _number(_or_none(curve.error_barrier)),
                _number(_or_none(curve.calibrated_barrier)),
            ]
        )
    return _table(head, rows)


def _settings_table(settings: Mapping[str, Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for values in settings.values() for name in values))
    rows = [[k, *(str(values.get(name, "")) for name in names)] for k, values in settings.items()]
    return _table(["", *names], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def cells(tag: str, values: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(v)}</{tag}>" for v in values) + "</tr>"

    return "<table>" + cells("th", head) + "".join(cells("td", row) for row in rows) + "</table>"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _or_none(measure: Any) -> float | None:
    """Return the measure, or None where the curve lacks what it needs."""
    try:
        return float(measure())
    except ValueError:
        return None


def _image(ax: Axes, text: str) -> str:
    figure = ax.figure
    stream = io.BytesIO()
    if isinstance(figure, Figure):
        figure.savefig(stream, format="png", dpi=110)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return f'<p><img alt="{html.escape(text)}" src="data:image/png;base64,{data}"></p>'
