import numpy as np
import pytest
import torch
from lmc_fast import barrier, barrier_matrix, checkpoint_grid, match, plane, plots, simplex
from lmc_fast.nets import MLP
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


@pytest.fixture(scope="module")
def nets():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [MLP((4, 9, 3)).eval() for _ in range(4)]


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(60, 4, generator=generator), torch.arange(60) % 3


def drawn(ax):
    """Every text of the figure lies within it: nothing is cut off."""
    figure = ax.figure
    FigureCanvasAgg(figure).draw()
    box = figure.bbox
    for axes in figure.axes:
        for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
            if text.get_text():
                extent = text.get_window_extent()
                assert box.x0 - 1 <= extent.x0
                assert extent.x1 <= box.x1 + 1
                assert box.y0 - 1 <= extent.y0
                assert extent.y1 <= box.y1 + 1
    return ax


def test_curves_have_a_line_and_a_band_each(nets, data):
    options = {"alphas": 5, "per_example": True, "calibrate_temperature": True}
    curves = {f"run {i}": barrier(nets[0], nets[i], data, **options) for i in (1, 2)}
    ax = drawn(plots.barrier_curves(curves))
    assert len(ax.lines) == 4
    assert len(ax.collections) == 2
    np.testing.assert_allclose(ax.lines[0].get_ydata(), curves["run 1"].loss)
    low, high = ax.collections[0].get_paths()[0].vertices[:, 1].min(), ax.lines[0].get_ydata().max()
    assert low < high


def test_match_quality_names_every_group(nets, data):
    matching = match(nets[0], nets[1], example_inputs=data[0][:2], regrets=True)
    ax = drawn(plots.match_quality(matching))
    assert len(ax.get_yticklabels()) == len(matching.statistics)


def test_similarity_gathers_the_columns(nets):
    matrix = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([3, 1, 0, 2, 4])
    ax = drawn(plots.similarity(matrix, order))
    np.testing.assert_allclose(ax.images[0].get_array(), matrix[:, order])


def test_surfaces_mark_the_networks(nets, data):
    ax = drawn(plots.plane_contours(plane(*nets[:3], data, resolution=4)))
    assert {text.get_text() for text in ax.texts} >= {"A", "B", "C"}
    ax = drawn(plots.ternary(simplex(nets[:3], data, resolution=4), labels="XYZ", metric="error"))
    assert {text.get_text() for text in ax.texts} == {"X", "Y", "Z"}
    with pytest.raises(ValueError, match="3 networks"):
        plots.ternary(simplex(nets, data, resolution=2))
    with pytest.raises(ValueError, match="metric"):
        plots.ternary(simplex(nets[:3], data, resolution=2), metric="accuracy")


def test_heat_maps_show_every_pair(nets, data):
    matrix = barrier_matrix(nets, data, alphas=3, names=["w", "x", "y", "z"])
    ax = drawn(plots.barrier_heatmap(matrix))
    shown = np.asarray(ax.images[0].get_array())
    names = [label.get_text() for label in ax.get_yticklabels()]
    heights = matrix.loss_barrier()
    order = [matrix.names.index(name) for name in names]
    np.testing.assert_allclose(shown, heights[np.ix_(order, order)])
    grid = checkpoint_grid(nets[:2], nets[2:], data, alphas=3)
    ax = drawn(plots.checkpoint_heatmap(grid, metric="error"))
    np.testing.assert_allclose(ax.images[0].get_array(), grid.error_barrier())


def test_a_given_axes_is_used_and_returned(nets, data):
    ax = Figure().add_subplot()
    assert plots.barrier_curves({"a": barrier(nets[0], nets[1], data, alphas=3)}, ax=ax) is ax
