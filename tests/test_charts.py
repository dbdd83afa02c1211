import math

import numpy as np
import pytest
from lmc_fast import charts
from matplotlib.backends.backend_agg import FigureCanvasAgg

X = [2.0, 4.0, 8.0]


def drawn(ax):
    """The labels lie within the figure and no text of the axes lies on another."""
    FigureCanvasAgg(ax.figure).draw()
    box = ax.figure.bbox
    extents = [
        label.get_window_extent() for label in (ax.xaxis.label, ax.yaxis.label) if label.get_text()
    ]
    assert all(
        box.x0 - 1 <= e.x0 and e.x1 <= box.x1 + 1 and box.y0 - 1 <= e.y0 and e.y1 <= box.y1 + 1
        for e in extents
    )
    assert len(extents) == 2
    assert not extents[0].overlaps(extents[1])
    return ax


def names(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_a_trend_puts_the_published_values_beside_ours():
    ax = drawn(
        charts.trend(
            X,
            {"loss": [3.0, math.nan, 1.0], "error": [0.5, 0.4, 0.3]},
            errors={"loss": [0.1, 0.1, 0.2]},
            bands={"error": ([0.4, 0.3, 0.2], [0.6, 0.5, 0.4])},
            published={"loss": [3.5, None, 1.5]},
            xlabel="width",
            ylabel="value",
            log_x=True,
            linear_below=0.01,
        )
    )
    assert sorted(names(ax)) == ["error", "loss, ours", "loss, published"]
    ours = ax.containers[0].lines[0]
    np.testing.assert_allclose(ours.get_xydata(), [[2, 3], [8, 1]])
    (published,) = [line for line in ax.lines if line.get_label() == "loss, published"]
    np.testing.assert_allclose(published.get_ydata(), [3.5, math.nan, 1.5])
    assert published.get_color() == ours.get_color()
    assert ax.get_xscale() == "log"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["2", "4", "8"]


def test_a_trend_refuses_series_of_another_length():
    with pytest.raises(ValueError, match="loss: expected 3 values, one for each setting"):
        charts.trend(X, {"loss": [1.0]}, xlabel="width", ylabel="loss")


def test_bars_are_named_and_numbered():
    values = {"parent 0": 0.98, "a merge with a long name": 0.5}
    ax = charts.bars(values, ylabel="accuracy", published={"merge": 0.9})
    FigureCanvasAgg(ax.figure).draw()
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(values)
    assert [bar.get_width() for bar in ax.patches] == list(values.values())
    assert {text.get_text() for text in ax.texts} == {"0.98", "0.5"}
    assert names(ax) == ["merge, published: 0.9"]


def test_a_heatmap_has_its_rows_from_below():
    ax = drawn(
        charts.heatmap(
            [[1.0, 2.0], [3.0, 4.0]],
            rows=["a", "b"],
            columns=[10, 20],
            ylabel="row",
            xlabel="column",
            label="height",
        )
    )
    np.testing.assert_allclose(ax.images[0].get_array(), [[1, 2], [3, 4]])
    assert ax.get_ylim()[0] < ax.get_ylim()[1]
    assert [text.get_text() for text in ax.texts] == ["1", "2", "3", "4"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]


def test_linear_regions_are_seen_where_the_pattern_changes():
    patterns = np.zeros((6, 6))
    patterns[3:] = 1
    logits = np.linspace(-1, 1, 6) + np.zeros((6, 1))
    ax = drawn(
        charts.linear_regions(
            patterns, logits, extent=2.0, points=[[0.0, 1.0], [1.0, 0.0]], labels=[0, 1]
        )
    )
    # The first axis is x: the edge between the third and the fourth point is a column.
    np.testing.assert_array_equal(ax.images[0].get_array().sum(0), [0, 0, 5, 0, 0])
