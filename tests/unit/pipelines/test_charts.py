from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import numpy as np

from pipelines.charts import interval_bar, line_chart, overlaid_chart


def _polylines(svg: str) -> dict[str, np.ndarray]:
    root = ElementTree.fromstring(svg)
    return {
        line.attrib["class"]: np.array([pair.split(",") for pair in line.attrib["points"].split()], float)
        for line in root.iter("polyline")
    }


def test_curve_falls_from_left_to_right_within_its_frame() -> None:
    lines = _polylines(line_chart(range(1000), [1 - index / 1000 for index in range(1000)], "<loss>"))
    for points in lines.values():
        assert len(points) == 240
        assert (np.diff(points[:, 0]) > 0).all()
        assert (np.diff(points[:, 1]) >= 0).all()
        assert points.min() >= 0
        assert points[:, 0].max() <= 320
        assert points[:, 1].max() <= 150


def test_labels_are_escaped() -> None:
    svg = line_chart([0, 1], [1.0, 2.0], '"><script>')
    assert "<script" not in svg
    assert ElementTree.fromstring(svg).attrib["aria-label"] == '"><script>'


def test_constant_and_broken_curves() -> None:
    assert _polylines(line_chart([0, 1, 2], [3.0, 3.0, 3.0], "flat"))
    assert len(_polylines(line_chart([0, 1, 2, 3], [1.0, math.nan, 2.0, math.inf], "holes"))["raw"]) == 2
    assert line_chart([0], [1.0], "point") == ""


def test_bar_shows_value_and_interval_clipped_to_the_track() -> None:
    fill, whisker = ElementTree.fromstring(interval_bar(0.9, 0.8, 1.2)).findall("rect")[1:]
    assert fill.attrib["width"] == "90.00"
    assert (whisker.attrib["x"], whisker.attrib["width"]) == ("80.00", "20.00")


def test_overlaid_curves_share_their_axes() -> None:
    svg = overlaid_chart([([0, 1, 2], [1.0, 2.0, 3.0]), ([0], [5.0]), ([2, 4], [1.0, 3.0])], "both")
    lines = _polylines(svg)
    assert set(lines) == {"raw", "mean", "raw curve2", "mean curve2"}  # one point is no curve
    first, third = lines["raw"], lines["raw curve2"]
    assert first[0, 1] == third[0, 1]
    assert first[-1, 0] == third[0, 0]
    assert first[-1, 0] < third[-1, 0]
    assert overlaid_chart([], "none") == overlaid_chart([([1], [1.0])], "none") == ""
