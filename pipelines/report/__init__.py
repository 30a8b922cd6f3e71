"""The report: one HTML page that shows what a run made, from pictures to content keys."""

from __future__ import annotations

from pipelines.report.inputs import ReportInputs, Target
from pipelines.report.page import build_report, render_report, report_key

__all__ = ["ReportInputs", "Target", "build_report", "render_report", "report_key"]
