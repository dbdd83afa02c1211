"""A report of results as one HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import html
import io
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmc_fast import plots
from lmc_fast.barrier import BarrierCurve, BarrierMatrix, CheckpointGrid, PlaneGrid, SimplexGrid
from lmc_fast.barrier.definitions import KINDS, SENTENCES
from lmc_fast.matching import Matching
from lmc_fast.report_sources import Result, StudyRecord

_CURVES = 6

_STYLE = (
    "body{font-family:sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #bbb;padding:.25em .6em;"
    "text-align:right}td:first-child,th:first-child{text-align:left}img{max-width:100%}"
)


def render_report(results: Mapping[str, Result]) -> str:
    """Return the HTML text of a report: definitions, tables, pictures, settings, versions.

    Parameters
    ----------
    results
        By label; at least one. See `lmc_fast.report_sources.read_results`.
    """
    if not results:
        raise ValueError("a report needs at least one result")
    parts = ["<h1>Loss barriers</h1>", _definitions()]
    curves = {k: r for k, r in results.items() if isinstance(r, BarrierCurve)}
    if curves:
        parts += ["<h2>Curves</h2>", _curve_table(curves), *_curve_images(curves)]
    for label, result in results.items():
        if not isinstance(result, BarrierCurve):
            parts.append(f"<h2>{html.escape(label)}: {_title(result)}</h2>")
            parts += _sections(result)
    parts += ["<h2>Settings</h2>", _settings_table({k: _settings(r) for k, r in results.items()})]
    versions = {name: version(name) for name in ("lmc_fast", "torch", "numpy", "scipy")}
    rows = [["python", platform.python_version()], *map(list, versions.items())]
    parts += ["<h2>Versions</h2>", _table(["this report was made with", "version"], rows)]
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Loss barriers</title>'
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _title(result: Result) -> str:
    if isinstance(result, BarrierMatrix):
        return f"all pairs of {len(result.names)} networks"
    if isinstance(result, CheckpointGrid):
        return "{} x {} checkpoints of two runs".format(*result.loss.shape[:2])
    if isinstance(result, PlaneGrid):
        return "plane through three networks"
    if isinstance(result, SimplexGrid):
        return f"mixtures of {result.weights.shape[1]} networks"
    if isinstance(result, Matching):
        return f"matching by {html.escape(result.method)}"
    if isinstance(result, StudyRecord):
        return html.escape(str(result.record["claim"]))
    return "curve"


def _sections(result: Result) -> list[str]:
    """Return what a report shows of a result that is no curve."""
    if isinstance(result, Matching):
        return _matching(result)
    if isinstance(result, StudyRecord):
        return _study(result)
    if isinstance(result, PlaneGrid):
        corners = [_number(float(v)) for v in _corner_values(result)]
        text = (
            f"Loss of A, B and C: {', '.join(corners)}; up to {result.loss.max():.4g} on the grid."
        )
        return [f"<p>{text}</p>", _image(plots.plane_contours(result), "loss on the plane")]
    if isinstance(result, SimplexGrid):
        text = "Largest excess of the loss over the mixture of the networks' own losses"
        parts = [f"<p>{text}: {result.loss_barrier():.4g}.</p>"]
        if result.weights.shape[1] == 3:
            parts.append(_image(plots.ternary(result), "loss at mixtures"))
        return parts
    heights = np.asarray(result.loss_barrier())
    if isinstance(result, BarrierMatrix):
        heights = heights[np.triu_indices(len(result.names), 1)]
    done = heights[~np.isnan(heights)]
    spread = "none is finite"
    if done.size:
        spread = f"median {np.median(done):.4g}, from {done.min():.4g} to {done.max():.4g}"
    parts = [f"<p>Chord loss barrier over {done.size} of {heights.size} pairs: {spread}.</p>"]
    if isinstance(result, CheckpointGrid):
        parts.append(_image(plots.checkpoint_heatmap(result), "barriers between checkpoints"))
    elif isinstance(result, BarrierMatrix) and done.size == heights.size:
        parts.append(_image(plots.barrier_heatmap(result), "barriers of all pairs"))
    return parts


def _corner_values(grid: PlaneGrid) -> list[float]:
    """Return the loss at the grid points nearest to the three networks."""
    weights = grid.weights.reshape(-1, 3)
    nearest = [int(np.abs(weights - corner).sum(1).argmin()) for corner in np.eye(3)]
    return [float(grid.loss.reshape(-1)[i]) for i in nearest]


def _matching(matching: Matching) -> list[str]:
    objective = f"Objective {matching.objective:.6g}, at most {matching.bound:.6g}"
    ended = "converged" if matching.converged else "stopped"
    head = ["group", "units", "by position", "matched", "regret", "undetermined", "gap"]
    rows = [
        [
            name,
            str(g.size),
            *map(_number, (g.identity, g.matched)),
            *(("", "") if g.regret is None else (_number(g.regret), str(g.undetermined))),
            _number(g.gap),
        ]
        for name, g in matching.statistics.items()
    ]
    proof = html.escape(matching.proof)
    return [
        f"<p>{objective}; {ended} after {matching.sweeps} sweeps. {proof}</p>",
        _table(head, rows),
        _image(plots.match_quality(matching), "match quality by group"),
    ]


def _study(study: StudyRecord) -> list[str]:
    record = study.record
    head = ["quantity", "published", "ours", "spread", "difference"]
    rows = [
        [str(row["quantity"]), *(_number(row[key]) for key in head[1:])] for row in record["rows"]
    ]
    checks = "".join(
        f"<li>{'holds' if check['holds'] else 'does not hold'}: "
        f"{html.escape(str(check['statement']))}: {html.escape(str(check['found']))}</li>"
        for check in record["checks"]
    )
    parts = [
        f"<p>{html.escape(str(record['source']))}</p>",
        _table(head, rows),
        f"<ul>{checks}</ul>",
    ]
    if study.picture is not None:
        parts.append(_inline(study.picture, "the study's picture"))
    return parts


def _settings(result: Result) -> Mapping[str, Any]:
    """Return what a result says about how it was made, versions included where it holds them."""
    if isinstance(result, StudyRecord):
        named = {key: result.record[key] for key in ("command", "scale", "seed")}
        return {**named, **result.record["environment"], **result.record["settings"]}
    if isinstance(result, Matching):
        return {"method": result.method, "metric": result.metric, "sweeps": result.sweeps}
    return result.settings


def _curve_images(curves: Mapping[str, BarrierCurve]) -> list[str]:
    parts = []
    labels = list(curves)
    # More lines than colours in one picture tell nothing apart.
    for start in range(0, len(labels), _CURVES):
        some = {label: curves[label] for label in labels[start : start + _CURVES]}
        parts.append(_image(plots.barrier_curves(some), "loss along the path"))
        with_error = {k: c for k, c in some.items() if c.error is not None}
        if with_error:
            picture = plots.barrier_curves(with_error, metric="error")
            parts.append(_image(picture, "error along the path"))
    return parts


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


def _number(value: Any) -> str:
    return (
        f"{value:.4g}" if isinstance(value, (int, float)) else "" if value is None else str(value)
    )


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
    return _inline(base64.b64encode(stream.getvalue()).decode("ascii"), text)


def _inline(png: str, text: str) -> str:
    return f'<p><img alt="{html.escape(text)}" src="data:image/png;base64,{png}"></p>'
