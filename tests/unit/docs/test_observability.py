"""The page on observability lists every figure as it is."""

from __future__ import annotations

import re
from pathlib import Path

from pipelines.metrics import METRICS

PAGE = Path(__file__).parents[3] / "docs" / "observability.md"


def test_every_figure_is_listed() -> None:
    rows = re.findall(r"^\| `(sailloft_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    listed = {name: (kind, tuple(re.findall(r"`(\w+)`", labels)), what) for name, kind, labels, what in rows}
    assert listed == {name: (one.kind, one.labels, one.description) for name, one in METRICS.items()}
