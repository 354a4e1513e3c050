"""Pictures checked by what is drawn in them, summaries by reading them back."""

import io
import itertools
import json
import math
from pathlib import Path

import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from rich.console import Console

from hybrid_jax import plots, report
from hybrid_jax.plots import COLOURS, FAINT, Curve
from hybrid_jax.report import Row

NAN = math.nan
CURVES = {
    "h2o": Curve(
        updates=np.array([0, 1000, 2000, 3000]),
        real=np.array([1.0, 10.0, NAN, 30.0]),
        sim=np.array([2.0, NAN, 25.0, 35.0]),
        real_band=(np.array([0.0, 8.0, NAN, 28.0]), np.array([2.0, 12.0, NAN, 33.0])),
    ),
    "sim_only": Curve(np.array([0, 3000]), np.array([1.0, 5.0]), np.array([1.0, 40.0])),
    "mix": Curve(np.array([0, 3000]), np.array([0.0, 5.1])),
}
EPISODES = {
    "h2o": {"t": np.array([0.0, 1.0, 2.0]), "tilt": np.array([0.0, 1.0, 0.5]), "terminated": False},
    "sim_only": {"t": np.array([0.0, 1.0]), "tilt": np.array([0.0, 30.0]), "terminated": True},
    "logged_behaviour": {"t": np.array([0.0, 2.0]), "tilt": np.array([0.0, 4.0]), "terminated": False},
}


@pytest.fixture
def drawn(monkeypatch):
    """Keeps the figures that would be saved."""
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    return figures


def lines(axes, colour):
    return [line for line in axes.get_lines() if line.get_color() == colour]


def test_the_learning_curve_draws_the_measured_points(drawn):
    plots.plot_curve(Path("x"), CURVES, 20.0, "a title")
    (axes,) = drawn[0].axes
    real, sim = lines(axes, COLOURS[0])
    np.testing.assert_array_equal(real.get_xydata(), [[0, 1], [1000, 10], [3000, 30]])
    np.testing.assert_array_equal(sim.get_xydata(), [[0, 2], [2000, 25], [3000, 35]])
    assert real.get_linestyle() == "-" and sim.get_linestyle() == "--"
    assert len(lines(axes, COLOURS[1])) == 2 and len(lines(axes, COLOURS[2])) == 1
    (level,) = lines(axes, FAINT)
    assert list(level.get_ydata()) == [20.0, 20.0]
    (band,) = axes.collections
    corners = {tuple(point) for point in band.get_paths()[0].vertices}
    assert {(0, 0), (0, 2), (1000, 8), (1000, 12), (3000, 28), (3000, 33)} <= corners


def test_the_learning_curve_says_which_line_is_which(drawn):
    plots.plot_curve(Path("x"), CURVES, 20.0, "a title")
    (axes,) = drawn[0].axes
    labels = {text.get_text(): text for text in axes.texts}
    assert {name: text.get_color() for name, text in labels.items()} == {
        "H2O": COLOURS[0],
        "sim only": COLOURS[1],
        "mix": COLOURS[2],
        "logged behaviour": FAINT,
    }
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["real environment", "simulator"]
    drawn[0].canvas.draw()
    boxes = sorted((text.get_window_extent() for text in labels.values()), key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 for below, above in itertools.pairwise(boxes))
    low, high = axes.get_ylim()
    height = low + labels["H2O"].xy[1] * (high - low)
    assert height == pytest.approx(30.0)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_labels_stay_inside_and_apart_when_all_curves_end_together(drawn, end):
    curves = {f"run_{i}": Curve(np.array([0, 1]), np.array([1.0 - end, end])) for i in range(5)}
    plots.plot_curve(Path("x"), curves, end, "")
    heights = sorted(text.xy[1] for text in drawn[0].axes[0].texts)
    assert heights[0] >= 0.0 and heights[-1] <= 1.0 and np.diff(heights).min() > 0.05


def test_a_single_measured_point_is_a_dot(drawn):
    plots.plot_curve(Path("x"), {"h2o": Curve(np.array([5]), np.array([1.0]))}, None, "")
    (axes,) = drawn[0].axes
    assert [line.get_marker() for line in axes.get_lines()] == ["o"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["real environment"]


def test_a_curve_without_any_measurement_has_no_label(drawn):
    plots.plot_curve(Path("x"), {"h2o": Curve(np.array([5]), np.array([NAN]))}, None, "")
    assert not drawn[0].axes[0].texts


def test_episodes_mark_falls_and_only_falls(drawn):
    plots.plot_episodes(Path("x"), EPISODES, [("tilt", "deg")], "a title")
    (axes,) = drawn[0].axes
    crosses = [line for line in axes.get_lines() if line.get_marker() == "x"]
    assert [(cross.get_color(), cross.get_xydata().tolist()) for cross in crosses] == [(COLOURS[1], [[1.0, 30.0]])]
    np.testing.assert_array_equal(lines(axes, COLOURS[0])[0].get_xydata(), [[0, 0], [1, 1], [2, 0.5]])
    assert lines(axes, FAINT)[0].get_xydata().tolist() == [[0, 0], [2, 4]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "H2O (lasted 2.0 s)",
        "sim only (fell at 1.0 s)",
        "logged behaviour (lasted 2.0 s)",
    ]
    assert axes.get_ylabel() == "tilt [deg]" and axes.get_xlabel() == "time [s]"


def test_each_column_has_its_own_panel(drawn):
    episode = {"t": np.array([0.0, 1.0]), "a": np.array([1.0, 2.0]), "b": np.array([3.0, 4.0])}
    plots.plot_episodes(Path("x"), {"h2o": episode | {"terminated": False}}, [("a", "m"), ("b", "deg")], "")
    top, bottom = drawn[0].axes
    assert lines(top, COLOURS[0])[0].get_ydata().tolist() == [1.0, 2.0]
    assert lines(bottom, COLOURS[0])[0].get_ydata().tolist() == [3.0, 4.0]
    assert (top.get_ylabel(), bottom.get_ylabel()) == ("a [m]", "b [deg]")


def test_the_picture_file_shows_every_colour_and_leaves_matplotlib_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    path = tmp_path / "curve.png"
    plots.plot_curve(path, CURVES, 20.0, "a title")
    assert dict(matplotlib.rcParams) == before
    pixels = imread(path)[..., :3]
    assert pixels.shape == (690, 1200, 3)
    for colour in (*COLOURS[:3], FAINT):
        assert (np.abs(pixels - np.array(to_rgb(colour))).max(axis=-1) < 0.01).any()


def test_large_ticks_are_short():
    assert [plots._thousands(x, 0) for x in (0, 0.5, 900, 2500, -30_000, 1.5e6)] == [
        "0", "0.5", "900", "2.5k", "-30k", "1.5M",
    ]  # fmt: skip


def test_the_summary_is_plain_sorted_json(tmp_path):
    path = tmp_path / "summary.json"
    report.write_summary(
        path,
        {
            "updates": np.int64(3),
            "real_return_ci95": (np.float32(1.5), jnp.float32(2.5)),
            "rivals": {"mix": {"real_return_mean": np.float64(NAN)}},
            "sim_return_mean": math.inf,
            "fell": np.bool_(True),
            "directory": Path("runs/x"),
            "returns": np.array([[1.0, NAN]]),
            "video": None,
        },
    )
    text = path.read_text()
    assert json.loads(text) == {
        "directory": "runs/x",
        "fell": True,
        "real_return_ci95": [1.5, 2.5],
        "returns": [[1.0, None]],
        "rivals": {"mix": {"real_return_mean": None}},
        "sim_return_mean": None,
        "updates": 3,
        "video": None,
    }
    assert list(json.loads(text)) == sorted(json.loads(text)) and text.endswith("}\n")


def test_a_value_without_json_form_is_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match=r"summary\.rivals\.mix is a set"):
        report.write_summary(tmp_path / "summary.json", {"rivals": {"mix": {1}}})
    assert not (tmp_path / "summary.json").exists()


def test_the_table_compares_the_policies():
    rows = [
        Row("h2o", 26_500.4, (25_900.0, 27_000.0), 0, 10, 28_500.0),
        Row("sim_only", NAN, None, 10, 10, 29_300.0),
        Row("logged_behaviour", 18_500.0),
    ]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report.summary_table(rows))
    cells = [line.split() for line in console.export_text().splitlines() if line.strip()]
    assert cells[0] == ["policy", "real", "return", "95", "%", "interval", "falls", "sim", "return"]
    assert cells[2:] == [
        ["H2O", "26,500", "25,900", "to", "27,000", "0", "of", "10", "28,500"],
        ["sim", "only", "-", "-", "10", "of", "10", "29,300"],
        ["logged", "behaviour", "18,500", "-", "-", "-"],
    ]
    assert [row.style for row in report.summary_table(rows).rows] == ["bold", None, None]


def test_a_task_with_goals_counts_successes_instead_of_falls():
    console = Console(file=io.StringIO(), width=100)
    console.print(report.summary_table([Row("ddpg", -12.0, (-13.0, -11.0), 0, 50, -10.0, 47), Row("h2o", -50.0)]))
    text = console.file.getvalue()
    assert "successes" in text and "falls" not in text and "47 of 50" in text and "DDPG" in text
