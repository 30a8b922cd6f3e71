from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from pipelines.report.study_charts import Band, Bar, band_chart, bar_panels

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '<script>alert("x")</script>&'


def _points(text: str) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in text.split()]  # pyright: ignore[reportReturnType]


def test_a_band_holds_its_curve() -> None:
    band = Band("plain", [100, 200, 300], [0.2, 0.3, 0.35], [0.1, 0.25, 0.35], [0.3, 0.35, 0.35])
    other = Band("more", [100, 200, 300], [0.2, 0.35, 0.36], [0.2, 0.35, 0.36], [0.2, 0.35, 0.36])
    page = ElementTree.fromstring(band_chart("Curves", [band, other], "cIoU over steps"))
    line, second = (_points(own.get("points", "")) for own in page.iter(f"{SVG}polyline"))
    area = _points(next(page.iter(f"{SVG}polygon")).get("points", ""))
    assert len(area) == 6
    assert line[0][0] < line[1][0] < line[2][0]
    assert line[0][1] > line[1][1] > line[2][1]  # SVG counts downwards
    assert area[0][1] < line[0][1] < area[5][1]
    assert second[0] == line[0]
    labels = {text.text: float(text.get("y", "0")) for text in page.iter(f"{SVG}text")}
    assert {"Curves", "plain", "more", "300", "cIoU over steps"} <= set(labels)
    assert labels["plain"] - labels["more"] == pytest.approx(15.0)  # their ends are nearer than letters are high


def test_bars_are_as_long_as_their_scores() -> None:
    bars = [Bar("plain", 0.25, 0.2, 0.3), Bar("more", 0.5, math.nan, math.nan)]
    page = ElementTree.fromstring(bar_panels("Scores", {"cIoU": bars, "text loss": [Bar("plain", 2.0, 1.5, 2.5)]}))
    widths = [float(bar.get("width", "0")) for bar in page.iter(f"{SVG}rect")][1:]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.11)
    assert widths[2] < 720
    whiskers = [path.get("d", "") for path in page.iter(f"{SVG}path")]
    assert len(whiskers) == 2  # none where there is no interval
    texts = [text.text for text in page.iter(f"{SVG}text")]
    assert {"cIoU", "text loss", "0.250", "0.500", "2.000"} <= set(texts)


def test_words_are_escaped() -> None:
    band = Band(HOSTILE, [1, 2], [0.1, 0.2], [0.1, 0.2], [0.1, 0.2])
    for chart in (
        band_chart(HOSTILE, [band], HOSTILE),
        bar_panels(HOSTILE, {HOSTILE: [Bar(HOSTILE, 0.1, 0.1, 0.1)]}),
    ):
        page = ElementTree.fromstring(chart)
        assert not list(page.iter(f"{SVG}script"))
        assert HOSTILE in {text.text for text in page.iter(f"{SVG}text")}
        assert page.get("aria-label") == HOSTILE
